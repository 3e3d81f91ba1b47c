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
from typing import Any, Literal, TypedDict, cast, get_args
from uuid import UUID

from duly.errors import ConfigurationError, EnqueueError
from duly.model.names import LONGEST_NAME, check_name
from duly.model.retry import Backoff
from duly.model.unique import OnConflict, Scope, Unique

Effects = Literal["transactional", "idempotent", "unrepeatable"]

LOWEST_PRIORITY, HIGHEST_PRIORITY = -32_768, 32_767
MOST_ATTEMPTS = 1_000
LONGEST_KEY = 1_000
"""Characters of an ``idempotency_key=``."""


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


class UniqueOptions(TypedDict, total=False):
    """Options that a task and a call may set: whether there may be several such jobs at a time."""

    unique: Unique
    unique_scope: Scope | float
    on_conflict: OnConflict


class CallOptions(QueueOptions, UniqueOptions, total=False):
    """Options of a call: those of a queue and a task, the queue itself, and what names the job that comes of it."""

    queue: str
    id: UUID
    idempotency_key: str
    child: str


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
    unique: Unique | None = None
    unique_scope: Scope | None = None
    on_conflict: OnConflict | None = None
    idempotency_key: str | None = None
    child: str | None = None

    def over(self, farther: Options) -> Options:
        """These options where they say something, else those of the level farther away."""
        if self is NOTHING:
            return farther
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


NOTHING = Options()
"""What a call says that says nothing."""

DEFAULTS = Options(
    queue="default",
    priority=0,
    expires=timedelta(days=90),
    max_attempts=25,
    retry=Backoff(),
    max_run_time=timedelta(hours=4),
    keep_result=False,
    unique_scope="unfinished",
    on_conflict="existing",
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


def _unique(value: object) -> Unique:
    if not isinstance(value, str | bool) and not callable(value):
        raise TypeError(f"unique= must be a text, True or a function of the arguments, not {value!r}")
    if value == "":
        raise ValueError("unique= must not be empty")
    return cast("Unique", value)


def _scope(value: object) -> Scope:
    words = get_args(get_args(Scope)[0])
    if isinstance(value, str):
        if value not in words:
            raise ValueError(f"unique_scope={value!r} is unknown{hint(value, words)}, or a duration")
        return cast("Scope", value)
    return _positive("unique_scope")(value)


def _one_of(name: str, kind: Any) -> Callable[[object], Any]:
    def check(value: object) -> Any:
        if value not in get_args(kind):
            raise ValueError(f"{name}={value!r} is unknown{hint(str(value), get_args(kind))}")
        return value

    return check


def _text(name: str, longest: int) -> Callable[[object], str]:
    def check(value: object) -> str:
        if not isinstance(value, str):
            raise TypeError(f"{name}= must be a text, not {type(value).__name__}")
        if not 1 <= len(value) <= longest:
            raise ValueError(f"{name}= must have from 1 to {longest} characters, not {len(value)}")
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
    "unique": _unique,
    "unique_scope": _scope,
    "on_conflict": _one_of("on_conflict", OnConflict),
    "id": _kind("id", UUID),
    "idempotency_key": _text("idempotency_key", LONGEST_KEY),
    "child": _text("child", LONGEST_NAME),
}
