"""What a task may ask of the job it is run for."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from duly.errors import Cancel, TimeLimit


class Stop(StrEnum):
    """Why an attempt should stop."""

    LOST = "lost"
    """The job is no longer this worker's: nothing that the attempt reports will count."""
    CANCELLED = "cancelled"
    """Somebody has cancelled the job."""
    TIME = "time"
    """Its ``max_run_time`` is over."""


class Cancellation:
    """Set once, when an attempt should stop. A ``threading.Event`` takes fifty times as long to make."""

    __slots__ = ("reason",)

    def __init__(self) -> None:
        self.reason: Stop | None = None
        """Why; None while it may go on."""

    def set(self, reason: Stop = Stop.LOST) -> None:
        """Ask the attempt to stop; the first reason counts."""
        self.reason = self.reason or reason

    def is_set(self) -> bool:
        """Whether it was asked."""
        return self.reason is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The job that an attempt belongs to. Ask for it with ``*, ctx: Context = given``.

    Instants are aware and in UTC. In tests make one by hand and pass it to the function.
    """

    job_id: UUID
    """The job's id."""
    origin: UUID
    """The id of the first job of this kind: a manual retry is a new job with the same origin."""
    task: str
    """The task's name."""
    queue: str
    """The queue it waited in."""
    attempt: int
    """Which attempt this is, counted from 1."""
    max_attempts: int
    """After how many attempts the job ends ``failed``."""
    enqueued_at: datetime
    """When it was enqueued."""
    run_at: datetime
    """When it was due."""
    expires_at: datetime
    """When it expires: no attempt starts after that."""
    worker: str
    """The worker that runs it."""
    cancellation: Cancellation = field(default_factory=Cancellation, repr=False, compare=False)
    """Set by the worker when this attempt should stop; ask ``cancelled`` or ``check()``."""

    @property
    def idempotency_key(self) -> str:
        """The same text for all attempts and for a manual retry: hand it to services that know such keys."""
        return str(self.origin)

    @property
    def cancelled(self) -> bool:
        """Whether this attempt should stop: the job was cancelled, its time is up, or it is no longer this worker's."""
        return self.cancellation.is_set()

    def check(self) -> None:
        """Raise ``duly.Cancel`` when this attempt should stop. Call it between the steps of a long task.

        When its time is up that is ``duly.errors.TimeLimit``.
        """
        if self.cancellation.reason is Stop.TIME:
            raise TimeLimit
        if self.cancellation.is_set():
            raise Cancel("the attempt was asked to stop")
