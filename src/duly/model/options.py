"""The options of a job, on four levels: app < queue < task < call. The nearer one wins.

``*Options`` TypedDicts are what users write (type checkers see a misspelt one); ``Options`` is what
came of it: checked, in one unit, and mergeable. A moment (``run_at``) and a distance (``run_in``)
say the same thing, so the nearer of the two wins, whichever it is.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypedDict
from uuid import UUID

from duly.errors import ConfigurationError, EnqueueError
from duly.model.names import check_name
from duly.model.retry import Backoff

Effects = Literal["transactional", "idempotent", "unrepeatable"]

LOWEST_PRIORITY, HIGHEST_PRIORITY = -32_768, 32_767
MOST_ATTEMPTS = 1_000


class QueueOptions(TypedDict, total=False):
    """Options that an app, a queue, a task and a call may all set. Durations are timedeltas or seconds."""

    priority: int
    run_at: datetime
    run_in: timedelta | float
    expires_at: datetime
    expires_in: timedelta | float
    max_attempts: int
    retry: Backoff
    max_run_time: timedelta | float
    keep_result: bool


class CallOptions(QueueOptions, total=False):
    """Options of a call: those of a queue, the queue itself, and the job's id where the caller makes it."""

    queue: str
    id: UUID


@dataclass(frozen=True, slots=True)
class Options:
    """Checked options of one level, or of several merged; None where nothing was said."""

    queue: str | None = None
    priority: int | None = None
    run: datetime | timedelta | None = None
    expires: datetime | timedelta | None = None
    max_attempts: int | None = None
    retry: Backoff | None = None
    max_run_time: timedelta | None = None
    keep_result: bool | None = None
    id: UUID | None = None

    def over(self, farther: Options) -> Options:
        """These options where they say something, else those of the level farther away."""
        mine = {f.name: getattr(self, f.name) for f in fields(self)}
        return Options(**{k: getattr(farther, k) if v is None else v for k, v in mine.items()})

    @classmethod
    def read(
        cls,
        given: Mapping[str, Any],
        *,
        allowed: Iterable[str],
        where: str,
        error: type[ConfigurationError | EnqueueError],
    ) -> Options:
        """Check what a user wrote; *where* names the place in messages, *error* is what is raised."""
        names = tuple(allowed)
        for name in given:
            if name not in names:
                raise error(f"{where} has no option {name!r}{hint(name, names)}")
        said = {name: value for name, value in given.items() if name in _CHECKS and value is not None}
        for at, distance in (("run_at", "run_in"), ("expires_at", "expires_in")):
            if at in said and distance in said:
                raise error(f"{where}: give {at}= or {distance}=, not both")
        try:
            return cls(**{_FIELDS.get(name, name): _CHECKS[name](value) for name, value in said.items()})
        except (TypeError, ValueError) as fault:
            raise error(f"{where}: {fault}") from None


DEFAULTS = Options(
    queue="default",
    priority=0,
    expires=timedelta(days=90),
    max_attempts=25,
    retry=Backoff(),
    max_run_time=timedelta(hours=4),
    keep_result=False,
)
"""What holds where no level says anything: delayed_job's numbers, and expiry after 90 days."""


def hint(name: str, known: Iterable[str]) -> str:
    """A tail for messages about an unknown *name*: the nearest known one, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there are {', '.join(names)}" if names else ""


def _instant(name: str) -> Callable[[object], datetime]:
    def check(value: object) -> datetime:
        if not isinstance(value, datetime):
            raise TypeError(f"{name}= must be an aware datetime, not {value!r}")
        if value.utcoffset() is None:
            raise ValueError(f"{name}= has no time zone; write e.g. datetime.now(UTC)")
        try:
            return value.astimezone(UTC)
        except OverflowError:
            raise ValueError(f"{name}= is out of bounds: {value!r}") from None

    return check


def _distance(name: str) -> Callable[[object], timedelta]:
    return lambda value: seconds(name, value)


def seconds(name: str, value: object) -> timedelta:
    """A duration given as a timedelta or a number of seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float | timedelta):
        raise TypeError(f"{name}= must be a timedelta or a number of seconds, not {value!r}")
    try:
        span = value if isinstance(value, timedelta) else timedelta(seconds=value)
    except (OverflowError, ValueError):
        raise ValueError(f"{name}= is out of bounds: {value!r}") from None
    if abs(span) > timedelta(days=36_500):
        raise ValueError(f"{name}= is out of bounds: {value!r} (at most a hundred years)")
    return span


def _positive(name: str) -> Callable[[object], timedelta]:
    def check(value: object) -> timedelta:
        span = seconds(name, value)
        if span <= timedelta(0):
            raise ValueError(f"{name}= must be longer than nothing, not {value!r}")
        return span

    return check


def _whole(name: str, low: int, high: int) -> Callable[[object], int]:
    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}= must be a whole number, not {value!r}")
        if not low <= value <= high:
            raise ValueError(f"{name}= must be from {low} to {high}, not {value}")
        return value

    return check


def _kind(name: str, kind: type) -> Callable[[object], Any]:
    def check(value: object) -> Any:
        if not isinstance(value, kind):
            raise TypeError(f"{name}= must be a {kind.__name__}, not {value!r}")
        return value

    return check


# Two ways to say one thing: a moment and a distance end in one field.
_FIELDS = {"run_at": "run", "run_in": "run", "expires_at": "expires", "expires_in": "expires"}
_CHECKS: dict[str, Callable[[Any], Any]] = {
    "queue": lambda value: check_name("queue", value),
    "priority": _whole("priority", LOWEST_PRIORITY, HIGHEST_PRIORITY),
    "run_at": _instant("run_at"),
    "run_in": _distance("run_in"),
    "expires_at": _instant("expires_at"),
    "expires_in": _distance("expires_in"),
    "max_attempts": _whole("max_attempts", 1, MOST_ATTEMPTS),
    "retry": _kind("retry", Backoff),
    "max_run_time": _positive("max_run_time"),
    "keep_result": _kind("keep_result", bool),
    "id": _kind("id", UUID),
}
