"""What operators do: look at queues, workers and jobs; retry, cancel, clear, check."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from duly.client import Client
from duly.envelope.trouble import Trouble
from duly.errors import EnvelopeError, JobNotFound, JobNotRetryable
from duly.manage.desk import Desk, cancel
from duly.manage.desk import Home as DeskHome
from duly.model.ids import derived_id
from duly.model.job import JobStatus, NewJob
from duly.model.states import Outcome, State
from duly.task.handle import JobHandle

if TYPE_CHECKING:
    from duly.task.task import Task


class Home(DeskHome, Protocol):
    """What management needs of its app."""

    client: Client
    desk: Desk


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

        ``JobNotRetryable`` says why one cannot be: it has not ended, succeeded, or kept no envelope.
        """
        status = self.job(job)
        fresh = self._retry_of(status)
        handle: JobHandle[Any] = JobHandle(fresh.id, self._home.desk)
        if self._home.desk.look(fresh.id) is not None:
            return handle
        store = self._home.store
        with store.tending() as connection:
            store.jobs.insert_again(connection, [fresh])  # two clicks at once still make one job
            store.audit.note(connection, actor, "retried", [job], f"as {fresh.id}")
        return handle

    def _retry_of(self, status: JobStatus) -> NewJob:
        if status.outcome is None:
            raise JobNotRetryable(f"job {status.id} has not ended ({status.state}); it is retried by itself")
        if status.outcome is Outcome.SUCCEEDED:
            raise JobNotRetryable(f"job {status.id} succeeded; enqueue a new job instead")
        if status.envelope is None:
            raise JobNotRetryable(
                f"job {status.id} ended {status.outcome}, after which no arguments are kept; enqueue it anew"
            )
        try:
            body = self._home.sealer.open("arguments", status.binding, status.envelope)
        except EnvelopeError as error:
            raise JobNotRetryable(f"job {status.id} cannot be opened here: {error}") from error
        now = self._home.store.clock.now()
        return self._home.client.row(
            body=body,
            identity=derived_id(status.id, "retry"),
            origin=status.origin,
            task=status.task,
            fingerprint=self._fingerprint(status),
            queue=status.queue,
            priority=status.priority,
            state=State.AVAILABLE,
            run_at=now,
            enqueued_at=now,
            expires_at=now + (status.expires_at - status.enqueued_at),
            principal=status.principal,
        )

    def _fingerprint(self, status: JobStatus) -> str:
        task: Task[..., Any] | None = self._home.find(status.task)
        return "" if task is None else task.signature.arguments.fingerprint
