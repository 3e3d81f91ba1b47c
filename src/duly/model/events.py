"""What happens, as data. Logic emits; logging, and later metrics and alerts, subscribe.

No event carries arguments, results or error texts: an event may be shown anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True, slots=True)
class Started(Event):
    """A worker or supervisor runs."""

    role: str
    name: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stopped(Event):
    """A worker or supervisor has stopped; ``released`` jobs were given back unstarted."""

    role: str
    name: str
    released: int = 0


@dataclass(frozen=True, slots=True)
class JobEnded(Event):
    """A job has its outcome. ``seconds`` is its run time, where it ran."""

    id: UUID
    task: str
    queue: str
    outcome: str
    attempt: int
    cause: str | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class JobRetried(Event):
    """An attempt failed and another follows. ``error`` is the exception's class name alone."""

    id: UUID
    task: str
    queue: str
    attempt: int
    error: str
    wait: timedelta | None


@dataclass(frozen=True, slots=True)
class JobPutBack(Event):
    """A job waits again without an attempt used: snoozed, after a passing fault, or not runnable here (``problem``)."""

    id: UUID
    task: str
    queue: str
    cause: str
    problem: bool


@dataclass(frozen=True, slots=True)
class JobSuspected(Event):
    """A job was running when its worker process died by itself, for this many times now: it is run apart."""

    id: UUID
    task: str
    queue: str
    deaths: int


@dataclass(frozen=True, slots=True)
class JobDied(Event):
    """An isolated job killed the process that it ran in. It is tried again."""

    id: UUID
    task: str
    queue: str
    cause: str


@dataclass(frozen=True, slots=True)
class SecurityAlert(Event):
    """A row was edited, copied, replayed or downgraded. It did not run."""

    id: UUID
    task: str
    queue: str
    cause: str


@dataclass(frozen=True, slots=True)
class LeaseWasLost(Event):
    """A job that this worker held belongs to another by now; what the attempt did transactionally is undone."""

    id: UUID
    task: str


@dataclass(frozen=True, slots=True)
class Rescued(Event):
    """Jobs of dead workers were offered again."""

    jobs: int
    workers: int


@dataclass(frozen=True, slots=True)
class DatabaseLost(Event):
    """The database stopped answering; ``error`` is the first line of the driver's, scrubbed of secrets."""

    error: str


@dataclass(frozen=True, slots=True)
class DatabaseFound(Event):
    """The database answers again."""

    gap: float


@dataclass(frozen=True, slots=True)
class ChildDied(Event):
    """A worker process ended by itself or was killed, and is replaced."""

    pid: int
    status: str


@dataclass(frozen=True, slots=True)
class Notice(Event):
    """Something an operator should know, in a sentence."""

    text: str
    level: str = "warning"


class Emitter:
    """Hands each event to those who subscribed. A subscriber that raises harms nobody but itself."""

    def __init__(self) -> None:
        self._subscribers: list[Callable[[Event], None]] = []
        self.successes = False
        """Whether anyone wants an event for each success; there may be tens of thousands a second."""

    def subscribe(self, subscriber: Callable[[Event], None], *, successes: bool = False) -> None:
        """Call *subscriber* with every event from now on; with those of each success only on request."""
        self._subscribers.append(subscriber)
        self.successes = self.successes or successes

    def emit(self, event: Event) -> None:
        """Tell all subscribers."""
        for subscriber in self._subscribers:
            with suppress(Exception):  # a broken log handler must not stop a worker
                subscriber(event)
