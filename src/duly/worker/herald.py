"""What a pump says of its jobs: events for those who listen, and a count for who started it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from duly.model.events import Emitter, JobDied, JobEnded, JobPutBack, JobRetried, LeaseWasLost, SecurityAlert
from duly.model.job import ClaimedJob
from duly.model.report import SNOOZED, Died, Ended, PutBack, Released, Report, Succeeded
from duly.model.states import Outcome
from duly.worker.ticket import Done

if TYPE_CHECKING:
    from duly.store.outcomes import Settled


class Herald:
    """Tells what stands in the database, and nothing before it does."""

    def __init__(self, emitter: Emitter) -> None:
        self._emitter = emitter
        self.tally: Counter[str] = Counter()
        """How the attempts ended so far: outcomes, ``retried`` and ``put back``."""

    def succeeded(self, dones: Sequence[Done]) -> None:
        """The hot case: counted; told only where somebody asked for successes."""
        if dones:
            self.tally[Outcome.SUCCEEDED.value] += len(dones)
        if self._emitter.successes:
            for done in dones:
                self._emit_end(done, Outcome.SUCCEEDED, None)

    def tell(self, dones: Sequence[Done], lost: AbstractSet[UUID], settled: Settled) -> list[timedelta]:
        """What has become of outcomes that were handed in; the waits of those that will be tried again."""
        lost, well, waits = lost | settled.lost, [], []
        for done in dones:
            report = done.report
            if type(report) is Succeeded and not (lost and report.id in lost):
                well.append(done)
            elif report.id not in lost:
                waits += self._tell_other(done, report, settled)
            elif not isinstance(report, Released):
                self.lost(done.ticket.job)
        self.succeeded(well)
        return waits

    def _tell_other(self, done: Done, report: Report, settled: Settled) -> list[timedelta]:
        known = settled.recorded.get(report.id)
        if report.id in settled.ended:
            self.settled(done, settled.ended[report.id])
        elif report.id in settled.expired:
            self.expired(done)
        elif known is not None and not (isinstance(report, Ended) and report.outcome is known):
            # A transactional task whose COMMIT was not answered, or that was killed or died after it: it had landed.
            self.ended(done, known)
        else:
            self.settled(done, report)
            if isinstance(report, PutBack) and report.after is not None:
                return [report.after]
        return []

    def ended(self, done: Done, outcome: Outcome) -> None:
        """The ledger had this outcome already."""
        if outcome is Outcome.SUCCEEDED:
            self.succeeded([done])
            return
        self.tally[outcome.value] += 1
        self._emit_end(done, outcome, None)

    def expired(self, done: Done) -> None:
        """A retry that could only have come too late."""
        self.tally[Outcome.EXPIRED.value] += 1
        self._emit_end(done, Outcome.EXPIRED, "its next attempt could only come after expires_at")

    def settled(self, done: Done, report: Report) -> None:
        """An outcome other than success was recorded."""
        job = done.ticket.job
        match report:
            case Ended():
                self.tally[report.outcome.value] += 1
                self._emit_end(done, report.outcome, report.cause)
            case PutBack(counted=True):
                self.tally["retried"] += 1
                attempt = job.attempt + 1
                self._emitter.emit(
                    JobRetried(job.id, job.task, job.queue, attempt, report.cause, report.after)
                )
            case Died():
                self.tally["died"] += 1
                self._emitter.emit(JobDied(job.id, job.task, job.queue, report.cause))
            case PutBack():
                self.tally["put back"] += 1
                if report.unheard or report.transient or report.cause == SNOOZED:
                    problem = report.unheard
                    self._emitter.emit(JobPutBack(job.id, job.task, job.queue, report.cause, problem=problem))

    def lost(self, job: ClaimedJob) -> None:
        """The fence was gone: the job is another worker's."""
        self._emitter.emit(LeaseWasLost(job.id, job.task))

    def replayed(self, job: ClaimedJob) -> None:
        """A row that was put back after its job had ended."""
        cause = "its job ended before; the row was put back, and is removed"
        self._emitter.emit(SecurityAlert(job.id, job.task, job.queue, cause))

    def _emit_end(self, done: Done, outcome: Outcome, cause: str | None) -> None:
        job, seconds = done.ticket.job, round(done.seconds, 6)
        self._emitter.emit(JobEnded(job.id, job.task, job.queue, outcome, job.attempt + 1, cause, seconds))
