"""A job as it is written, as a worker holds it, and as people see it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from duly.model.resolution import Resolution
from duly.model.states import Outcome, State

if TYPE_CHECKING:
    from duly.model.unique import Key

HOLDS_TO_CLAIM, HOLDS_TO_END = 1, 2
"""Bits of ``holds``: the job has keys that are released by its first claim, or by its end."""


class Binding(NamedTuple):
    """The columns that a sealed envelope is bound to: none of them can be edited without the key."""

    id: UUID
    origin: UUID
    task: str
    queue: str
    principal: str | None
    enqueued_at: datetime
    expires_at: datetime


_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


def step_binding(origin: UUID, task: str, name: str) -> Binding:
    """What the result of a durable step is sealed to, under a label of its own: it belongs to the origin."""
    return Binding(origin, origin, task, name, None, _NEVER, _NEVER)


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job as enqueue writes it. Instants are aware and in UTC."""

    id: UUID
    origin: UUID
    task: str
    fingerprint: str
    queue: str
    priority: int
    state: State
    run_at: datetime
    expires_at: datetime
    enqueued_at: datetime
    principal: str | None
    digest: bytes
    key_id: str | None
    envelope: bytes
    trace: str | None = None
    holds: int = 0
    """``HOLDS_TO_CLAIM``, ``HOLDS_TO_END``: which of its keys others may not have meanwhile."""
    keys: tuple[Key, ...] = ()
    """The keys that it takes; no column of its row."""

    @property
    def binding(self) -> Binding:
        """What its envelope is sealed to."""
        return Binding(
            self.id, self.origin, self.task, self.queue, self.principal, self.enqueued_at, self.expires_at
        )


class ClaimedJob(NamedTuple):
    """A job as a worker holds it. (id, worker, claim) is its fence."""

    id: UUID
    origin: UUID
    task: str
    queue: str
    priority: int
    claim: int
    attempt: int
    rescues: int
    run_at: datetime
    expires_at: datetime
    enqueued_at: datetime
    principal: str | None
    envelope: bytes
    holds: int = 0
    """As in ``NewJob``."""
    transients: int = 0
    """Attempts that a passing fault of the database has ended, and that therefore do not count."""

    @property
    def binding(self) -> Binding:
        """What its envelope was sealed to."""
        return Binding(
            self.id, self.origin, self.task, self.queue, self.principal, self.enqueued_at, self.expires_at
        )


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job as it stood when it was looked at: a waiting or running one by its row, an ended one by its ledger row.

    ``attempts`` counts the attempts that were started and have ended; ``state`` is None once there
    is an outcome. ``result`` and ``error`` are still in their envelopes.
    """

    id: UUID
    origin: UUID
    task: str
    queue: str
    priority: int
    state: State | None
    outcome: Outcome | None
    cause: str | None
    attempts: int
    rescues: int
    claim: int
    worker: str | None
    run_at: datetime
    enqueued_at: datetime
    expires_at: datetime
    ended_at: datetime | None
    principal: str | None
    key_id: str | None
    result: bytes | None = None
    error: bytes | None = None
    envelope: bytes | None = None
    started_at: datetime | None = None
    resolution: Resolution | None = None
    """What a person found out, where it ended ``uncertain``."""

    @property
    def binding(self) -> Binding:
        """What its envelopes were sealed to."""
        return Binding(
            self.id, self.origin, self.task, self.queue, self.principal, self.enqueued_at, self.expires_at
        )

    def public(self) -> dict[str, Any]:
        """What may be shown to anyone who may look at jobs: everything but envelopes."""
        return {
            "id": str(self.id),
            "origin": str(self.origin),
            "task": self.task,
            "queue": self.queue,
            "priority": self.priority,
            "state": self.state and str(self.state),
            "outcome": self.outcome and str(self.outcome),
            "cause": self.cause,
            "attempts": self.attempts,
            "rescues": self.rescues,
            "worker": self.worker,
            "run_at": self.run_at.isoformat(),
            "enqueued_at": self.enqueued_at.isoformat(),
            "expires_at": self.expires_at.isoformat(),
            "started_at": self.started_at and self.started_at.isoformat(),
            "ended_at": self.ended_at and self.ended_at.isoformat(),
            "principal": self.principal,
            "resolution": self.resolution and self.resolution.public(),
        }
