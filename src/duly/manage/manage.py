"""What operators do: look at queues, workers and jobs; retry, cancel, clear, check."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from duly.envelope.trouble import Trouble
from duly.errors import EnvelopeError, JobNotFound
from duly.manage.again import Again
from duly.manage.desk import cancel
from duly.manage.home import Home
from duly.model.ids import derived_id
from duly.model.job import JobStatus
from duly.model.pruning import Keep, Pruned
from duly.model.resolution import Resolution, Verdict
from duly.model.states import Outcome
from duly.model.wanted import Wanted
from duly.task.handle import JobHandle

LONGEST_CHAIN = 100
"""Manual retries of one origin that the ledger is searched for."""


@dataclass(frozen=True, slots=True)
class Overview:
    """Counts of all jobs: unfinished by ``states``, ended by ``outcomes``."""

    states: dict[str, int]
    outcomes: dict[str, int]
    retried: int
    """Ended jobs that took more than one attempt."""
    rescued: int
    """Ended jobs that were taken back from a dead worker at least once."""

    @property
    def enqueued(self) -> int:
        """All jobs there are."""
        return sum(self.states.values()) + sum(self.outcomes.values())


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue with unfinished jobs. ``age``: how long the oldest that could run has waited; None if none could."""

    name: str
    scheduled: int
    available: int
    running: int
    suspect: int
    """Those that ran when their worker died by itself: they are run apart."""
    age: timedelta | None


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker as its row shows it. ``silent``: since its last heartbeat."""

    id: str
    host: str
    pid: int
    queues: str
    started_at: datetime
    beat_at: datetime
    silent: timedelta

    @property
    def name(self) -> str:
        """The id: host, process and a random part."""
        return self.id


@dataclass(frozen=True, slots=True)
class AttemptInfo:
    """An attempt that did not succeed."""

    number: int
    claim: int
    worker: str | None
    started_at: datetime | None
    ended_at: datetime
    cause: str
    error: Trouble | None


class Manage:
    """The operator's verbs. Each that changes something leaves an entry in the audit log."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._again = Again(home)

    # ── looking ───────────────────────────────────────────────────────────────────────────────

    def overview(self) -> Overview:
        """How many jobs there are, by state and outcome."""
        store = self._home.store
        with store.reading() as connection:
            retried, rescued = store.ledger.troubled(connection)
            return Overview(
                store.ledger.states(connection), store.ledger.outcomes(connection), retried, rescued
            )

    def queues(self) -> list[Queue]:
        """The queues with unfinished jobs, by name."""
        store = self._home.store
        with store.reading() as connection:
            rows = store.ledger.queues(connection)
        return [
            Queue(
                r.queue,
                r.scheduled,
                r.available,
                r.running,
                r.suspect,
                None if r.first is None or r.first > r.now else r.now - r.first,
            )
            for r in rows
        ]

    def workers(self) -> list[WorkerInfo]:
        """The workers that are registered, the oldest first."""
        store = self._home.store
        with store.reading() as connection:
            rows = store.workers.all(connection)
        return [
            WorkerInfo(
                r.id, r.host, r.pid, r.queues, r.started_at, r.beat_at, max(r.now - r.beat_at, timedelta(0))
            )
            for r in rows
        ]

    def job(self, job: UUID) -> JobStatus:
        """One job as it stands; ``JobNotFound`` when there is none."""
        status = self._home.desk.look(job)
        if status is None:
            raise JobNotFound(f"there is no job {job}: not committed, rolled back, or pruned")
        return status

    def attempts(self, job: UUID) -> list[AttemptInfo]:
        """The attempts of a job that did not succeed, oldest first."""
        status, store = self.job(job), self._home.store
        with store.reading() as connection:
            rows = store.ledger.attempts(connection, job)
        return [
            AttemptInfo(
                r.attempt,
                r.claim,
                r.worker,
                r.started_at,
                r.ended_at,
                r.cause,
                self._trouble(status, r.error),
            )
            for r in rows
        ]

    def _trouble(self, status: JobStatus, error: bytes | None) -> Trouble | None:
        if error is None:
            return None
        try:
            return Trouble.load(self._home.sealer.open("error", status.binding, error))
        except EnvelopeError as why:
            return Trouble(type(why).__name__, "the error text cannot be opened here", "")

    def oldest_waiting(self) -> Queue | None:
        """The queue whose oldest available job has waited longest; None when no job could run."""
        return max(
            (q for q in self.queues() if q.age is not None), key=lambda q: q.age or timedelta(0), default=None
        )

    def ledger(
        self,
        *,
        task: str | None = None,
        queue: str | None = None,
        outcome: Outcome | str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        origin: UUID | None = None,
        before: UUID | None = None,
        limit: int = 50,
    ) -> list[JobStatus]:
        """Ended jobs, the last ended first: those that ended from *since* on and before *until*, both aware.

        *origin* is any job of a chain of manual retries: then its jobs alone. *before* is the last job of the
        page before this one; ``JobNotFound`` where the ledger does not have it. Arguments, results and errors
        are not among what comes back.
        """
        wanted = Wanted(
            task=task,
            queue=queue,
            outcome=None if outcome is None else Outcome(outcome),
            since=since,
            until=until,
            jobs=None if origin is None else list(self._chain(origin)),
        )
        store = self._home.store
        with store.reading() as connection:
            found = store.ledger.page(connection, wanted, before=before, limit=limit)
        if found is None:
            raise JobNotFound(f"there is no job {before} in the ledger: not ended, or pruned; begin anew")
        return found

    def _chain(self, job: UUID) -> Iterator[UUID]:
        """The ids of a job's origin and of its manual retries, each derived from the one before."""
        status = self._home.desk.look(job)
        one = job if status is None else status.origin
        for _ in range(LONGEST_CHAIN):
            yield one
            one = derived_id(one, "retry")

    # ── changing ──────────────────────────────────────────────────────────────────────────────

    def cancel(self, job: UUID, *, actor: str = "operator") -> bool:
        """Cancel a job that nobody runs, or ask the worker that does to stop it; False where it has ended.

        What was asked to stop is ``running`` until its task has noticed. ``JobNotFound`` when there is none.
        """
        self.job(job)
        store = self._home.store
        with store.tending() as connection:
            return cancel(store, connection, job, actor=actor, cause=f"cancelled by {actor}")

    def clear(self, *, queue: str | None = None, task: str | None = None, actor: str = "operator") -> int:
        """Cancel all waiting jobs, of one queue or task where given; how many. Running ones are left alone."""
        store, count = self._home.store, 0
        while True:
            with store.tending() as connection:
                some = store.jobs.clear(connection, queue=queue, task=task)
                count += some
                if some == 0:
                    what = f"{count} jobs; queue={queue}, task={task}"
                    store.audit.note(connection, actor, "cleared", [None] if count else [], what)
                    return count

    def retry(self, job: UUID, *, actor: str = "operator") -> JobHandle[Any]:
        """Enqueue an ended job again, as a new job with the same origin; a second call finds the first retry.

        A job that ended ``uncertain`` is thereby resolved: to be tried again. ``JobNotRetryable`` says why one
        cannot be: it has not ended, succeeded, or kept no envelope.
        """
        return JobHandle(self._again.retry(self.job(job), actor), self._home.desk)

    def resolve(
        self, job: UUID, verdict: Verdict | str, *, reason: str | None = None, actor: str = "operator"
    ) -> Resolution:
        """Say what became of a job that ended ``uncertain``; with *again*, retry it as ``retry`` does.

        The first verdict stands, and is the answer to a second call with the same one. ``JobNotResolvable``
        where the job did not end so, or another verdict stands; ``JobNotRetryable`` with *again*, where it
        cannot be retried.
        """
        return self._again.resolve(self.job(job), Verdict(verdict), reason, actor)

    def prune(self, *, dry_run: bool = False, actor: str = "operator") -> Pruned:
        """Do at once what workers do by and by: empty and remove what was kept for long enough; how much it was.

        With *dry_run* it is only counted.
        """
        store, settings = self._home.store, self._home.settings
        keep = Keep.days(settings.keep_succeeded, settings.keep_failed, settings.keep_other)
        if dry_run:
            with store.reading() as connection:
                return store.prune.count(connection, keep)
        done, more = Pruned(), True
        while more:
            with store.tending() as connection:
                some = store.prune.round(connection, keep, patient=True)
            done, more = replace(done + some, more=False), some.more
        if done != Pruned():
            what = f"{done.emptied} emptied, {done.removed} removed"
            with store.tending() as connection:
                store.audit.note(connection, actor, "pruned", [None], what)
        return done
