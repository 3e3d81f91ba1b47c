"""The states of an unfinished job, the outcomes of an ended one, and the ways between them, as data."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where an unfinished job stands. Stored as its word."""

    SCHEDULED = "scheduled"
    AVAILABLE = "available"
    RUNNING = "running"
    SUSPECT = "suspect"

    @property
    def waiting(self) -> bool:
        """Scheduled or available: nobody has it."""
        return self in WAITING


WAITING = frozenset({State.SCHEDULED, State.AVAILABLE})


class Outcome(StrEnum):
    """How a job ended. Stored as its word, in the ledger."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    UNCERTAIN = "uncertain"


# Outcomes after which a person may want to look at, or retry, the job: the ledger keeps its envelope.
KEEPS_ENVELOPE = frozenset({Outcome.FAILED, Outcome.UNCERTAIN, Outcome.REJECTED})

# Where a job may go from each state; None stands for its insertion, an outcome for its end.
TRANSITIONS: dict[State | None, frozenset[State | Outcome]] = {
    None: frozenset({State.SCHEDULED, State.AVAILABLE}),
    State.SCHEDULED: frozenset({State.AVAILABLE, Outcome.EXPIRED, Outcome.CANCELLED}),
    State.AVAILABLE: frozenset({State.RUNNING, Outcome.EXPIRED, Outcome.CANCELLED}),
    State.RUNNING: frozenset({State.SCHEDULED, State.AVAILABLE, State.SUSPECT, *Outcome}),
    State.SUSPECT: frozenset({State.RUNNING, Outcome.EXPIRED, Outcome.CANCELLED}),
}
