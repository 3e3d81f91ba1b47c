"""How one attempt ended, as data: what an executor returns and the exchange records.

Each report names the job and the claim it was run under; the exchange writes it only while
(job, worker, claim) still matches.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from duly.model.states import Outcome

SNOOZED = "snoozed"
"""The cause of a put-back that the task asked for."""

CANCELLED = "cancelled while it ran"
"""The cause of an end that somebody else asked for."""


class Succeeded(NamedTuple):
    """The task returned. ``result`` is its sealed result, where it is kept; ``holds`` as in ``ClaimedJob``."""

    id: UUID
    claim: int
    started_at: datetime
    result: bytes | None = None
    holds: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """The job is over in another way: failed, expired, cancelled, rejected or uncertain.

    ``counted`` says whether this attempt was started, and so counts.
    """

    id: UUID
    claim: int
    outcome: Outcome
    cause: str
    counted: bool
    started_at: datetime | None = None
    error: bytes | None = None


@dataclass(frozen=True, slots=True)
class PutBack:
    """The job waits again: a retry (``counted``), a snooze, or something this worker could not run.

    ``at`` or ``after`` says from when, by the database's clock. One that could only come after the
    job's ``expires_at`` ends it as expired now.
    """

    id: UUID
    claim: int
    cause: str
    counted: bool
    after: timedelta | None = None
    at: datetime | None = None
    error: bytes | None = None
    started_at: datetime | None = None
    unheard: bool = False
    """The database did not answer: only the fence can tell what became of it."""
    transient: bool = False
    """A fault of the database that passes by itself. The job's row counts these."""
    may_repeat: bool = False
    """Said by its task, or known: a job that was marked as started may run again all the same."""


@dataclass(frozen=True, slots=True)
class Died:
    """The job has killed the process that it ran in apart: its third own death ends it as failed."""

    id: UUID
    claim: int
    cause: str
    started_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Released:
    """Claimed, not started, given back as if nothing had happened."""

    id: UUID
    claim: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """A transactional task: its own transaction has written the outcome already. Nothing is left to write."""

    id: UUID
    claim: int


@dataclass(frozen=True, slots=True)
class Lost:
    """A transactional task found its fence gone and rolled back. Nothing is left to write."""

    id: UUID
    claim: int


Report = Succeeded | Ended | PutBack | Died | Released | Recorded | Lost
