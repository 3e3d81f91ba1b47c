"""The parameters of a declared function, sorted into arguments and what Duly gives."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any, NamedTuple

import typing_extensions

from duly.errors import DeclarationError
from duly.task.given import given
from duly.task.injected import Injected, injected_by, injected_in_union

if typing.TYPE_CHECKING:
    from inspect import _ParameterKind

STAR, DOUBLE_STAR = Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD
BY_POSITION = frozenset({Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD})
BY_NAME = frozenset({Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY})

_UNPACK = {typing.Unpack, typing_extensions.Unpack}


class Argument(NamedTuple):
    """A parameter that callers give."""

    name: str
    kind: _ParameterKind
    hint: Any
    default: Any = Parameter.empty

    @property
    def field(self) -> str:
        """Its name in the envelope: ``*ids`` and ``**opts`` keep their stars."""
        stars = "*" if self.kind is STAR else "**" if self.kind is DOUBLE_STAR else ""
        return stars + self.name

    @property
    def required(self) -> bool:
        """Whether a call without it is wrong."""
        return self.default is Parameter.empty and self.kind not in {STAR, DOUBLE_STAR}

    @property
    def stored_hint(self) -> Any:
        """The type of what is stored: a parameter with stars stores all that it gathered."""
        if typing.get_origin(self.hint) in _UNPACK:
            return typing.get_args(self.hint)[0]
        if self.kind is STAR:
            return list[self.hint]  # type: ignore[name-defined]
        if self.kind is DOUBLE_STAR:
            return dict[str, self.hint]  # type: ignore[name-defined]
        return self.hint


def sort_parameters(
    function: Callable[..., Any], hints: Mapping[str, Any], what: str, *, skip_first: bool = False
) -> tuple[tuple[Argument, ...], dict[str, Injected]]:
    """The arguments and the injected parameters of *function*; *what* names the task in messages."""
    arguments: list[Argument] = []
    injected: dict[str, Injected] = {}
    for parameter in list(inspect.signature(function).parameters.values())[skip_first:]:
        hint = hints.get(parameter.name, Any)  # no hint: whatever JSON can hold
        if kind := _injection(parameter, hint, what):
            injected[parameter.name] = kind
        else:
            arguments.append(Argument(parameter.name, parameter.kind, hint, parameter.default))
    _check_color(function, injected, what)
    return tuple(arguments), injected


def result_hint(function: Callable[..., Any], hints: Mapping[str, Any], what: str) -> Any:
    """The hint of what *function* returns, or what awaiting it gives; an error for a generator."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise DeclarationError(f"{what} is a generator, and nobody would take what it yields; return instead")
    returns = hints.get("return", Any)
    if not inspect.iscoroutinefunction(function) and _awaitable(returns):
        raise DeclarationError(f"{what} returns an awaitable; declare it with `async def`")
    return None if returns is typing.NoReturn or returns is typing.Never else returns


def _injection(parameter: Parameter, hint: Any, what: str) -> Injected | None:
    """What Duly gives to *parameter*, None for an argument; an error where it is declared half as each."""
    kind = injected_by(hint)
    if kind is None:
        _refuse_half_injected(parameter, hint, what)
    elif parameter.kind is not Parameter.KEYWORD_ONLY:
        raise DeclarationError(
            f"{what}: {parameter.name!r} is given by Duly, so it must be keyword-only; put it after a `*`, "
            f"as in `*, {parameter.name}: {kind.value} = given`"
        )
    return kind


def _refuse_half_injected(parameter: Parameter, hint: Any, what: str) -> None:
    if optional := injected_in_union(hint):
        raise DeclarationError(
            f"{what}: {parameter.name!r} is always given by Duly; its type hint is {optional.value} alone"
        )
    if parameter.default is given:
        raise DeclarationError(
            f"{what}: {parameter.name!r} has the default `given`, but Duly has nothing to give for "
            f"{_shown(hint)}; it gives {', '.join(kind.value for kind in Injected)}"
        )


def _check_color(function: Callable[..., Any], injected: Mapping[str, Injected], what: str) -> None:
    """A sync session would block the event loop, and nobody awaits an async one in a sync task."""
    is_async = inspect.iscoroutinefunction(function)
    for name, kind in injected.items():
        if kind.for_sync if is_async else kind.for_async:
            color = "an async" if is_async else "a sync"
            raise DeclarationError(
                f"{what}: {name!r} is {kind.with_article}, which {color} task cannot use; "
                f"ask for {kind.twin.with_article}"
            )


def _awaitable(hint: Any) -> bool:
    origin = typing.get_origin(hint) or hint
    return isinstance(origin, type) and hasattr(origin, "__await__")


def _shown(hint: Any) -> str:
    if hint is Any:
        return "a parameter without a type hint that says what"
    return getattr(hint, "__name__", None) or str(hint)
