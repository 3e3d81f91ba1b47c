"""What became of an attempt: its task returned or raised, and this is the report that follows from it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from duly.envelope.trouble import Trouble
from duly.errors import (
    AttemptStopped,
    Cancel,
    DatabaseError,
    InvalidArguments,
    LeaseLost,
    Retry,
    Snooze,
    TimeLimit,
    TransactionEnded,
)
from duly.model.options import DEFAULTS
from duly.model.report import CANCELLED, SNOOZED, Ended, Lost, PutBack, Released, Report, Succeeded
from duly.model.states import Outcome
from duly.task.context import Stop
from duly.worker.attempt import Attempt, OverLimit, ResultRefused, TooLate

if TYPE_CHECKING:
    from duly.worker.home import Home

SNOOZE = timedelta(seconds=60)
BUSY = timedelta(milliseconds=200)
_OBEYING = (Cancel, AttemptStopped, asyncio.CancelledError)


class Verdict:
    """Judges attempts. Writes nothing."""

    def __init__(self, home: Home, on_error: Callable[[BaseException], None] | None = None) -> None:
        self._home = home
        self._on_error = on_error

    def result(self, attempt: Attempt, returned: Any) -> bytes | None:
        """The sealed result, where it is to be kept; ``ResultRefused`` when it cannot be."""
        if not attempt.options.keep_result:
            return None
        try:
            body = attempt.task.signature.result.dump(returned, self._home.limits)
        except InvalidArguments as error:
            raise ResultRefused(str(error)) from error
        return self._home.sealer.seal("result", attempt.job.binding, body)

    def succeeded(self, attempt: Attempt, returned: Any) -> Report:
        """The task returned."""
        job = attempt.job
        try:
            return Succeeded(job.id, job.claim, attempt.started_at, self.result(attempt, returned))
        except ResultRefused as error:
            # Its effects stand, so running it again would not help.
            return self._failed(attempt, error, "its result cannot be kept")

    def undone(self, attempt: Attempt, error: BaseException, *, whole: bool, ours: bool) -> Report:
        """A transaction that did not commit, or whose COMMIT was not answered: the fence will tell.

        *ours*: it was in Duly's part of it, before or after the task's own code.
        """
        job = attempt.job
        if isinstance(error, TransactionEnded) or not whole:
            cause = "its transaction was ended from outside, so its writes may stand"
            trouble = self._trouble(attempt, error)
            return Ended(job.id, job.claim, Outcome.UNCERTAIN, cause, True, attempt.started_at, trouble)
        if isinstance(error, LeaseLost):
            if job.expires_at <= self._home.store.clock.now():
                cause = "expired while it ran; rolled back"
                return Ended(job.id, job.claim, Outcome.EXPIRED, cause, True, attempt.started_at)
            return Lost(job.id, job.claim)
        if ours and isinstance(error, DatabaseError):
            return PutBack(job.id, job.claim, str(error), counted=False, after=BUSY, unheard=True)
        return self.ended_by(attempt, error)

    def ended_by(self, attempt: Attempt, error: BaseException) -> Report:
        """Why it was stopped, what the task said, or that it failed."""
        job, told = attempt.job, attempt.cancellation.reason
        if isinstance(error, TooLate):
            return Ended(job.id, job.claim, Outcome.EXPIRED, "not started before expires_at", counted=False)
        if told is Stop.LOST and isinstance(error, _OBEYING):
            return Released(job.id, job.claim)
        if told is Stop.CANCELLED:
            trouble = None if isinstance(error, _OBEYING) else self._trouble(attempt, error)
            return self._cancelled(attempt, CANCELLED, trouble)
        match error:
            case Cancel():
                report: Report = self._cancelled(attempt, "cancelled by the task")
            case Snooze():
                after = None if error.at else error.after or SNOOZE
                report = PutBack(job.id, job.claim, SNOOZED, counted=False, after=after, at=error.at)
            case ResultRefused():
                report = self._failed(attempt, error, "its result cannot be kept; rolled back")
            case _:
                report = self._failed_once(attempt, error)
        return report

    def deaf(self, attempt: Attempt) -> Report:
        """It was told to stop and goes on regardless; what would follow if it had obeyed."""
        timely = attempt.cancellation.reason is Stop.TIME
        return self.ended_by(attempt, TimeLimit() if timely else AttemptStopped())

    @staticmethod
    def _cancelled(attempt: Attempt, cause: str, trouble: bytes | None = None) -> Ended:
        job = attempt.job
        return Ended(job.id, job.claim, Outcome.CANCELLED, cause, True, attempt.started_at, trouble)

    def _failed_once(self, attempt: Attempt, error: BaseException) -> Report:
        """A failed attempt: another one follows, unless it was the last."""
        job, cause = attempt.job, _cause(attempt, error)
        if attempt.number >= (attempt.options.max_attempts or 1):
            return self._failed(attempt, error, f"{cause} in attempt {attempt.number}, the last")
        after, at = self._wait(attempt, error)
        trouble = self._trouble(attempt, error)
        return PutBack(job.id, job.claim, cause, True, after, at, trouble, attempt.started_at)

    def _wait(self, attempt: Attempt, error: BaseException) -> tuple[timedelta | None, datetime | None]:
        if isinstance(error, Retry) and error.at is not None:
            return None, error.at
        if isinstance(error, Retry) and error.after is not None:
            return error.after, None
        return (attempt.options.retry or DEFAULTS.retry).delay(attempt.number), None  # type: ignore[union-attr]

    def _failed(self, attempt: Attempt, error: BaseException, cause: str) -> Ended:
        job = attempt.job
        trouble = self._trouble(attempt, error)
        return Ended(job.id, job.claim, Outcome.FAILED, cause, True, attempt.started_at, trouble)

    def _trouble(self, attempt: Attempt, error: BaseException) -> bytes:
        if self._on_error is not None:
            self._on_error(error)
        body = Trouble.of(error).dump()
        return self._home.sealer.seal("error", attempt.job.binding, body)


def _cause(attempt: Attempt, error: BaseException) -> str:
    """Why an attempt failed, in a word that may be shown anywhere."""
    if isinstance(error, OverLimit):
        return str(error)
    stopped = isinstance(error, TimeLimit) or attempt.cancellation.reason is Stop.TIME
    if stopped and not isinstance(error, Retry):
        return f"over its max_run_time of {attempt.run_time:g} s"
    return named(error)


def named(error: BaseException) -> str:
    """The exception's class: messages may hold secrets, and stay in the sealed error text."""
    return type(error).__qualname__[:100]
