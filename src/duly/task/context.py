"""What a task may ask of the job it is run for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, ParamSpec, TypeVar, overload
from uuid import UUID

from duly.errors import Cancel, ContextError, TimeLimit
from duly.task.notebook import Call, Notebook, OwnNotebook

P = ParamSpec("P")
R = TypeVar("R")


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

    Instants are aware and in UTC. In tests make one by hand and pass it to the function: steps and keys are then
    remembered by it and by its copies (``dataclasses.replace(ctx, attempt=2)`` is another attempt), in memory.
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
    started_at: datetime | None = None
    """When this attempt began."""
    max_run_time: timedelta | None = None
    """How long it may run."""
    cancellation: Cancellation = field(default_factory=Cancellation, repr=False, compare=False)
    """Set by the worker when this attempt should stop; ask ``cancelled`` or ``check()``."""
    notebook: Notebook = field(default_factory=OwnNotebook, repr=False, compare=False)
    """Where ``step`` and ``once`` write."""

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

    # ── time ──────────────────────────────────────────────────────────────────────────────────

    @property
    def deadline(self) -> datetime:
        """When this attempt must be done: ``expires_at``, or the end of its ``max_run_time`` if that is earlier."""
        if self.started_at is None or self.max_run_time is None:
            return self.expires_at
        return min(self.expires_at, self.started_at + self.max_run_time)

    def remaining(self) -> timedelta:
        """How long that is from now, by the database's clock as this worker measures it; never negative."""
        return max(self.deadline - self.notebook.now(), timedelta(0))

    # ── once ──────────────────────────────────────────────────────────────────────────────────

    def once(self, key: str, *, keep: timedelta | None = None) -> bool:
        """True for whoever asks first, whatever job that is: then do it, in the same transaction.

        The answer is written in the transaction of the session or connection that Duly gave to the task, and stands
        or falls with it. Who asks meanwhile waits for its end. *key* is any text; it is stored as a digest, for
        ever, or for *keep*.

        ``ContextError`` in a task that was given neither, ``WrongDatabase`` where it is on another database.
        """
        return self.notebook.once(*_asked(key, keep))

    async def aonce(self, key: str, *, keep: timedelta | None = None) -> bool:
        """The async twin of ``once``, for a task with an ``AsyncSession`` or ``AsyncConnection``."""
        return await self.notebook.aonce(*_asked(key, keep))

    # ── steps ─────────────────────────────────────────────────────────────────────────────────

    def step(self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """What ``function(*args, **kwargs)`` returns; called once, and remembered for all attempts that follow.

        Its result is recorded in a short transaction of its own, fenced and sealed as arguments are, and kept for
        the job and its manual retries. A retry that comes to a recorded step is given that result, as the type
        that the function's annotation says (without one: as JSON has it), and the function is not called. One
        whose worker died before the result was recorded is called again: hand ``idempotency_key`` to what it calls.

        ``name`` is unique in the task. ``ContextError`` for what cannot be a step, ``DeclarationError`` for a type that
        cannot be stored, both before the call. ``StepRefused`` when what it returned cannot be stored: the job ends
        ``failed``. ``LeaseLost`` when the job is no longer this worker's; ``Cancel`` as in ``check()``.
        """
        self.check()
        return self.notebook.step(self.attempt, name, Call(function, args, kwargs))  # type: ignore[no-any-return]

    @overload
    async def astep(
        self, name: str, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...

    @overload
    async def astep(self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...

    async def astep(self, name: str, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """The async twin of ``step``. *function* may be async; a sync one is called as it is, on the loop."""
        self.check()
        return await self.notebook.astep(self.attempt, name, Call(function, args, kwargs))


def _asked(key: str, keep: timedelta | None) -> tuple[str, timedelta | None]:
    if not isinstance(key, str) or not key:
        raise ContextError(f"once() takes a key, which is text, not {key!r}")
    if keep is not None and (not isinstance(keep, timedelta) or keep <= timedelta(0)):
        raise ContextError(f"once(keep=…) takes a timedelta above zero, or None for ever, not {keep!r}")
    return key, keep
