"""Arguments of a task: validated, written so that they come back exactly, and read again.

The body is ``{"v":1,"a":{…},"o":{…}}``: the arguments that were given (defaults are the function's own,
when it runs) and the options that travel with the call, only those that are set.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from inspect import Parameter, formatannotation
from typing import Any, NamedTuple, NotRequired

from typing_extensions import TypedDict

from duly.envelope.codec import Codec, Limits
from duly.envelope.fingerprint import fingerprint_of
from duly.envelope.shape import plainly_unfit, record, why_unfit
from duly.errors import DeclarationError, InvalidArguments
from duly.model.options import hint
from duly.model.retry import Backoff

__all__ = ["Arguments", "Field", "Limits", "SealedOptions"]


@dataclass(frozen=True, slots=True)
class Field:
    """One parameter: its type hint (``inspect.Parameter.empty`` is Any), and whether it must be given."""

    hint: Any
    required: bool


class SealedOptions(NamedTuple):
    """Options of a call that travel inside its envelope; None where the task's own hold."""

    max_attempts: int | None = None
    retry: Backoff | None = None
    max_run_time: timedelta | None = None
    keep_result: bool | None = None
    unique: tuple[str, str | float] | None = None
    """The unique key that the job took, as it is stored, and its scope; a retry by hand takes it again."""


class _Stored(TypedDict, total=False):
    """Sealed options as they stand in a body: those that are set."""

    max_attempts: int
    retry: Backoff
    max_run_time: timedelta
    keep_result: bool
    unique: tuple[str, str | float]


_NO_OPTIONS = SealedOptions()
_NONE_STORED: dict[str, Any] = {}


class Arguments:
    """What a task takes, by name. *name* is the task's, for messages.

    Raises ``DeclarationError`` naming parameter and type when a type cannot be stored.
    """

    def __init__(self, name: str, fields: Mapping[str, Field]) -> None:
        self.name = name
        self._hints = {each: declared(field.hint) for each, field in fields.items()}
        self._required = {each: field.required for each, field in fields.items()}
        self._codec = self._build()

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits, the same in every process, for names, requiredness and types together."""
        return fingerprint_of([(each, self._required[each], kind) for each, kind in self._hints.items()])

    @property
    def described(self) -> dict[str, str]:
        """Names and types, as a signature has them."""
        return {each: written(kind, required=self._required[each]) for each, kind in self._hints.items()}

    def dump(self, values: Mapping[str, Any], options: SealedOptions, limits: Limits) -> bytes:
        """The body of a call, the same bytes for the same call in every process.

        What is stored is what validation made of *values*. Raises ``InvalidArguments`` for unknown
        names, for what does not fit, for what would not come back the same, and beyond the *limits*.
        """
        if not values.keys() <= self._hints.keys():
            unknown = next(each for each in values if each not in self._hints)
            raise InvalidArguments(f"{self.name} has no argument {unknown!r}{hint(unknown, self._hints)}")
        stored = _NONE_STORED if options is _NO_OPTIONS or options == _NO_OPTIONS else _set(options)
        return self._codec.write(values, {"o": stored}, limits)

    def load(self, body: bytes) -> tuple[dict[str, Any], SealedOptions]:
        """The arguments and options of a body; ``ArgumentsMisfit`` when they do not fit this declaration.

        Without the unique key, which is nothing to an attempt; see ``unique_in``.
        """
        parts = self._codec.read(body)
        stored = parts["o"]
        stored.pop("unique", None)
        return parts["a"], SealedOptions(**stored) if stored else _NO_OPTIONS

    def _build(self) -> Codec:
        why = self._unfit(plainly_unfit)
        if why is None:
            try:
                return Codec(self.name, "the arguments", "a", self._record(), extra={"o": _Stored}, outer=1)
            except Exception as fault:  # noqa: BLE001 - types may build their schemas with the user's code
                why = self._unfit(why_unfit) or f"its parameters cannot be stored ({type(fault).__name__})"
        raise DeclarationError(f"{self.name}: {why}")

    def _record(self) -> Any:
        return record(
            "Arguments",
            {each: kind if self._required[each] else NotRequired[kind] for each, kind in self._hints.items()},
        )

    def _unfit(self, judge: Callable[[Any], str | None]) -> str | None:
        """The first parameter that *judge* finds unfit, and why."""
        judged = ((each, kind, judge(kind)) for each, kind in self._hints.items())
        return next(
            (f"parameter {each!r} ({formatannotation(kind)}) {why}" for each, kind, why in judged if why),
            None,
        )


def declared(kind: Any) -> Any:
    """A type hint as it is meant: where there is none, anything that JSON holds."""
    return Any if kind is Parameter.empty else kind


def unique_in(body: bytes) -> tuple[str, str | float] | None:
    """The unique key of a body that was opened, and its scope; None where it has none."""
    found = json.loads(body)["o"].get("unique")
    return None if found is None else (found[0], found[1])


def written(kind: Any, *, required: bool) -> str:
    """A type as a signature has it, with ``= …`` where the argument may be left out."""
    return formatannotation(kind).replace("typing.", "") + ("" if required else " = …")


def _set(options: SealedOptions) -> dict[str, Any]:
    every = {each: getattr(options, each) for each in _Stored.__annotations__}
    return {each: value for each, value in every.items() if value is not None}
