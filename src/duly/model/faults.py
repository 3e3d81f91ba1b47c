"""What a task says of the exceptions that it may raise: which are tried again, and with which it gives up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from duly.errors import Interruption


class Fault(StrEnum):
    """What a task has said of an exception. The words are the names of its options."""

    RETRY = "retry_on"
    GIVE_UP = "give_up_on"


@dataclass(frozen=True, slots=True)
class Faults:
    """The exceptions that a task names. Of several that fit, the one nearest to the exception's own class holds."""

    retry_on: tuple[type[Exception], ...] = ()
    give_up_on: tuple[type[Exception], ...] = ()

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Faults:
        """What a declaration said. ``TypeError`` or ``ValueError`` for nonsense."""
        named = {word: _classes(word, given[word]) for word in Fault if given.get(word) is not None}
        both = set(named.get(Fault.RETRY, ())) & set(named.get(Fault.GIVE_UP, ()))
        if both:
            names = ", ".join(sorted(kind.__qualname__ for kind in both))
            raise ValueError(f"{names} cannot be in retry_on= and in give_up_on= at once: take it out of one")
        return cls(**{word.value: kinds for word, kinds in named.items()})

    def of(self, error: BaseException) -> Fault | None:
        """What was said of *error*; None where nothing was."""
        for kind in type(error).__mro__:
            if kind in self.retry_on:
                return Fault.RETRY
            if kind in self.give_up_on:
                return Fault.GIVE_UP
        return None


def _classes(word: str, value: object) -> tuple[type[Exception], ...]:
    if isinstance(value, type):
        raise TypeError(f"{word}= takes several classes: write {word}=({value.__qualname__},)")
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"{word}= must be a tuple of exception classes, not {value!r}")
    for kind in value:
        _check(word, kind)
    return tuple(value)


def _check(word: str, kind: object) -> None:
    if not isinstance(kind, type) or not issubclass(kind, BaseException):
        raise TypeError(f"{word}= takes exception classes, not {kind!r}")
    if issubclass(kind, Interruption):
        raise TypeError(f"{word}= cannot name {kind.__qualname__}: what follows from it is said by the task")
    if not issubclass(kind, Exception):
        raise TypeError(
            f"{word}= cannot name {kind.__qualname__}, which is no Exception: it stops an attempt from outside"
        )
