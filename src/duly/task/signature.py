"""What a task takes from its callers, what Duly gives it, and what it returns.

1. ``parameters.py`` has sorted the function's parameters into arguments and injected ones.
2. ``bind`` turns what a caller wrote into arguments by name. It runs at every enqueue, so all that
   can be known beforehand is: ``inspect.Signature.bind`` takes three times as long.
3. ``apply`` turns arguments by name back into a call, in the worker.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sized
from functools import cached_property
from inspect import Parameter
from typing import Any, NoReturn

from duly.envelope.arguments import Arguments, Field
from duly.envelope.values import Value
from duly.errors import DeclarationError, InvalidArguments
from duly.model.options import hint as did_you_mean
from duly.task.injected import Injected
from duly.task.parameters import (
    BY_NAME,
    BY_POSITION,
    DOUBLE_STAR,
    STAR,
    Argument,
    result_hint,
    sort_parameters,
)


class Signature:
    """What a task takes, what Duly gives it, and what it returns. *what* names the task in messages."""

    def __init__(
        self,
        what: str,
        arguments: tuple[Argument, ...],
        injected: Mapping[str, Injected],
        returns: Any,
        *,
        is_async: bool,
    ) -> None:
        self.what = what
        self.injected = dict(injected)
        """Name and kind of each parameter that Duly gives."""
        self.contexts = tuple(name for name, kind in injected.items() if kind is Injected.CONTEXT)
        """Those of them that are the context."""
        self.is_async = is_async
        """Whether the task is a coroutine function."""
        self.returns = returns
        """The hint of the result; of an async task, of what awaiting it gives."""
        self.arguments = Arguments(what, {a.field: Field(a.stored_hint, a.required) for a in arguments})
        """The arguments' names and types, as the envelope wants them."""
        self._prepare(arguments)

    @classmethod
    def of(cls, function: Callable[..., Any], hints: Mapping[str, Any], what: str) -> Signature:
        """The signature of a *function* whose *hints* are resolved."""
        returns = result_hint(function, hints, what)
        arguments, injected = sort_parameters(function, hints, what)
        return cls(what, arguments, injected, returns, is_async=inspect.iscoroutinefunction(function))

    @classmethod
    def of_job(
        cls, job_class: type, perform: Callable[..., Any], hints: Mapping[str, Any], what: str
    ) -> Signature:
        """The signature of a job class: one argument, the job itself. *hints* are those of its *perform*."""
        returns = result_hint(perform, hints, what)
        arguments, injected = sort_parameters(perform, hints, what, skip_first=True)
        if arguments:
            raise DeclarationError(
                f"{what}: perform() takes {arguments[0].name!r}, and nobody would give it; make it a field "
                "of the job. perform() takes self and, keyword-only, what Duly gives"
            )
        job = Argument("job", Parameter.POSITIONAL_ONLY, job_class)
        return cls(what, (job,), injected, returns, is_async=inspect.iscoroutinefunction(perform))

    @cached_property
    def result(self) -> Value:
        """How the result is stored. Built when first asked for: a result that is not kept may be anything."""
        return Value(self.what, self.returns)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by field name, only those given. ``InvalidArguments`` when the call is wrong."""
        values = dict(zip(self._positional, args, strict=False))
        if len(args) > len(self._positional):
            if self._star is None:
                self._refuse(args, kwargs)
            values[self._star] = list(args[len(self._positional) :])
        if kwargs:
            self._bind_names(values, args, kwargs)
        if not values.keys() >= self._required:
            self._refuse(args, kwargs)
        return values

    def apply(self, values: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments by field name as positional and keyword arguments for the function."""
        rest = dict(values)
        if not self._ordered:
            return [], rest
        star = rest.pop(self._star, ()) if self._star else ()
        gathered = rest.pop(self._double_star, {}) if self._double_star else {}
        args: list[Any] = []
        for argument in self._ordered:
            if argument.name in rest:
                args.append(rest.pop(argument.name))
            elif star or not self._positional_only.isdisjoint(rest):
                args.append(argument.default)  # what comes after it is reached only by position
            else:
                break
        return [*args, *star], rest | gathered

    def _prepare(self, arguments: tuple[Argument, ...]) -> None:
        positional = tuple(a for a in arguments if a.kind in BY_POSITION)
        self._positional = tuple(a.name for a in positional)
        self._by_name = frozenset(a.name for a in arguments if a.kind in BY_NAME)
        self._positional_only = frozenset(self._positional) - self._by_name
        self._required = dict.fromkeys(a.name for a in arguments if a.required).keys()  # a set in order
        self._star = next((a.field for a in arguments if a.kind is STAR), None)
        self._double_star = next((a.field for a in arguments if a.kind is DOUBLE_STAR), None)
        # Where no argument needs its position, the function is called by name alone.
        by_name_alone = all(a.kind in BY_NAME for a in arguments)
        self._ordered = () if by_name_alone else positional

    def _bind_names(self, values: dict[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        gathered = {}
        for name, value in kwargs.items():
            if name in self._by_name:
                if name in values:
                    self._refuse(args, kwargs)
                values[name] = value
            elif self._double_star is None or name in self.injected:
                self._refuse(args, kwargs)
            else:
                gathered[name] = value
        if gathered and self._double_star is not None:
            values[self._double_star] = gathered

    def _refuse(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> NoReturn:
        """Say what is wrong with a call, in Python's words; the most telling fault first."""
        taken = self._positional[: len(args)]
        for name in kwargs:
            if fault := self._fault_of_name(name, taken, kwargs):
                raise InvalidArguments(f"{self.what}() {fault}")
        if self._star is None and len(args) > len(self._positional):
            takes = _count(self._positional, "positional argument")
            raise InvalidArguments(f"{self.what}() takes {takes}, but {len(args)} were given")
        given = {*taken, *self._by_name.intersection(kwargs)}
        missing = [name for name in self._required if name not in given]
        raise InvalidArguments(
            f"{self.what}() misses {_count(missing, 'argument')}: {', '.join(map(repr, missing))}"
        )

    def _fault_of_name(self, name: str, taken: tuple[str, ...], kwargs: Mapping[str, Any]) -> str | None:
        if name in self.injected:
            return f"is given {name!r} ({self.injected[name].value}) by Duly; leave it out"
        if name in self._by_name:
            return f"got two values for argument {name!r}" if name in taken else None
        if self._double_star is not None:
            return None
        if name in self._positional:
            return f"takes {name!r} by position only"
        free = self._by_name.difference(kwargs, taken)
        return f"got an unexpected argument {name!r}{did_you_mean(name, free)}"


def _count(things: Sized, noun: str) -> str:
    return f"{len(things) or 'no'} {noun}{'' if len(things) == 1 else 's'}"
