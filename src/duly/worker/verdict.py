"""What became of an attempt: its task returned or raised, and this is the report that follows from it.

Of an exception, in this order: what its worker had told the task; what the task said by it (``Cancel``, ``Snooze``,
``Retry``); what the task has named (``give_up_on=``); what passes by itself; and else it is a failed attempt. An
unrepeatable job that was called ends ``uncertain``, unless its task has said or named what it raised.
"""

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
    Interruption,
    InvalidArguments,
    LeaseLost,
    Retry,
    Snooze,
    StepRefused,
    TimeLimit,
    TransactionEnded,
)
from duly.model.faults import Fault
from duly.model.options import DEFAULTS
from duly.model.report import CANCELLED, SNOOZED, Ended, Lost, PutBack, Released, Report, Succeeded
from duly.model.retry import Backoff
from duly.model.states import Outcome
from duly.task.context import Stop
from duly.worker.attempt import Attempt, OverLimit, ResultRefused, TooLate

if TYPE_CHECKING:
    from duly.worker.home import Home

SNOOZE = timedelta(seconds=60)
BUSY = timedelta(milliseconds=200)
PASSING = Backoff(power=2, factor=0.1, plus=0, jitter=0.5)
"""The waits after passing faults: 0.1 s, 0.4 s, 0.9 s …, 10 s after the tenth, each longer or shorter by up to half."""
MOST_PASSING = 10
"""So many passing faults a job has free; after that they count as failed attempts."""
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
            result = self.result(attempt, returned)
            return Succeeded(job.id, job.claim, attempt.started_at, result, job.holds)
        except ResultRefused as error:
            # Its effects stand, so running it again would not help.
            cause = "its result cannot be kept"
            return self._over(attempt, error, cause, _bad_end(attempt))

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
        if _in_doubt(attempt, error):
            cause = CANCELLED if told is Stop.CANCELLED else _cause(attempt, error)
            return self._over(attempt, error, f"{cause}, after it had started", Outcome.UNCERTAIN)
        if told is Stop.CANCELLED:
            trouble = None if isinstance(error, _OBEYING) else self._trouble(attempt, error)
            return self._cancelled(attempt, CANCELLED, trouble)
        match error:
            case Cancel():
                report: Report = self._cancelled(attempt, "cancelled by the task")
            case Snooze():
                after = None if error.at else error.after or SNOOZE
                report = PutBack(job.id, job.claim, SNOOZED, False, after, error.at, may_repeat=True)
            case LeaseLost():
                report = Lost(job.id, job.claim)
            case StepRefused():
                report = self._over(attempt, error, "the result of a step cannot be kept")
            case ResultRefused():
                report = self._over(attempt, error, "its result cannot be kept; rolled back")
            case _ if _said(attempt, error) is Fault.GIVE_UP:
                report = self._over(attempt, error, f"{named(error)}: given up at once")
            case _ if self._passes(attempt, error):
                report = self._put_back(attempt, error)
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
            return self._over(attempt, error, f"{cause} in attempt {attempt.number}, the last")
        after, at = self._wait(attempt, error)
        return PutBack(
            job.id, job.claim, cause, True, after, at, self._trouble(attempt, error), attempt.started_at,
            may_repeat=attempt.marked,
        )  # fmt: skip

    def _passes(self, attempt: Attempt, error: BaseException) -> bool:
        """Whether it failed by something that passes by itself, and has not done so too often."""
        free = attempt.job.transients < MOST_PASSING and attempt.cancellation.reason is None
        return free and self._home.store.passes(error)

    def _put_back(self, attempt: Attempt, error: BaseException) -> PutBack:
        """No attempt is used: another follows soon."""
        job = attempt.job
        return PutBack(
            job.id, job.claim, named(error), False, PASSING.delay(job.transients + 1),
            error=self._trouble(attempt, error), started_at=attempt.started_at, transient=True,
            may_repeat=attempt.marked,
        )  # fmt: skip

    def _wait(self, attempt: Attempt, error: BaseException) -> tuple[timedelta | None, datetime | None]:
        if isinstance(error, Retry) and error.at is not None:
            return None, error.at
        if isinstance(error, Retry) and error.after is not None:
            return error.after, None
        return (attempt.options.retry or DEFAULTS.retry).delay(attempt.number), None  # type: ignore[union-attr]

    def _over(
        self, attempt: Attempt, error: BaseException, cause: str, outcome: Outcome = Outcome.FAILED
    ) -> Ended:
        """No other attempt follows."""
        job = attempt.job
        trouble = self._trouble(attempt, error)
        return Ended(job.id, job.claim, outcome, cause, True, attempt.started_at, trouble)

    def _trouble(self, attempt: Attempt, error: BaseException) -> bytes:
        if self._on_error is not None:
            self._on_error(error)
        body = Trouble.of(error).dump()
        return self._home.sealer.seal("error", attempt.job.binding, body)


def _said(attempt: Attempt, error: BaseException) -> Fault | None:
    """What the task has named *error* as. What it raises when it was told to stop follows from that."""
    if attempt.cancellation.reason is not None or isinstance(error, Interruption | OverLimit):
        return None
    return attempt.task.faults.of(error)


def _in_doubt(attempt: Attempt, error: BaseException) -> bool:
    """Whether it was called, must not be called twice, and says nothing that would tell how far it came."""
    if not (attempt.task.unrepeatable and attempt.begun):
        return False
    if attempt.returned:
        return True
    return not isinstance(error, Interruption) and _said(attempt, error) is None


def _bad_end(attempt: Attempt) -> Outcome:
    return Outcome.UNCERTAIN if attempt.task.unrepeatable else Outcome.FAILED


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
