"""A store with people in it: enqueuers, workers, and a hand that can turn what the database holds.

No test here waits for time to pass: a row is altered so that its moment has come.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, event, insert, select, update

from duly.model.ids import new_id
from duly.model.job import ClaimedJob, JobStatus, NewJob
from duly.model.report import Ended, PutBack, Released, Report, Succeeded
from duly.model.states import Outcome, State
from duly.store import Store
from duly.store.dialect import Exchanged
from duly.store.outcomes import Settled

LEASE = timedelta(seconds=15)
HOUR = timedelta(hours=1)
LOCK_WAITS = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity "
    "WHERE wait_event_type = 'Lock' AND datname = current_database()",
    "mysql": "SELECT count(*) FROM information_schema.innodb_trx JOIN information_schema.processlist "
    "ON id = trx_mysql_thread_id WHERE trx_state = 'LOCK WAIT' AND db = DATABASE()",
}


def now() -> datetime:
    """The machine's time, in milliseconds as enqueue writes it; the databases of the tests share it."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def new_job(**changes: Any) -> NewJob:
    """A job as enqueue makes it, due a second ago."""
    identity = changes.pop("id", None) or new_id()
    moment = now()
    job = NewJob(
        id=identity, origin=identity, task="tests.task", fingerprint="f" * 16, queue="default", priority=0,
        state=State.AVAILABLE, run_at=moment - timedelta(seconds=1), expires_at=moment + timedelta(days=1),
        enqueued_at=moment - timedelta(seconds=1), principal=None, digest=b"d" * 32, key_id=None,
        envelope=b'{"v":1}',
    )  # fmt: skip
    return replace(job, **changes)


@dataclass
class Reply:
    """What one exchange brought."""

    exchanged: Exchanged
    settled: Settled

    @property
    def claimed(self) -> list[ClaimedJob]:
        return self.exchanged.claimed

    @property
    def ids(self) -> list[UUID]:
        return [job.id for job in self.exchanged.claimed]

    @property
    def replayed(self) -> list[UUID]:
        return [job.id for job in self.exchanged.replayed]

    @property
    def lost(self) -> set[UUID]:
        return self.exchanged.lost | self.settled.lost


class Worker:
    """A registered worker, that exchanges on connections of its own."""

    def __init__(self, scene: Scene, name: str) -> None:
        self.scene = scene
        self.name = name

    def exchange(
        self,
        *reports: Report,
        queues: Sequence[str] = ("default",),
        limit: int = 0,
        on: Connection | None = None,
    ) -> Reply:
        jobs = self.scene.store.jobs
        if on is not None:
            return Reply(*jobs.exchange(on, self.name, reports, queues, limit))
        with self.scene.store.writing() as connection:
            return Reply(*jobs.exchange(connection, self.name, reports, queues, limit))

    def claim(self, limit: int = 10, *queues: str, on: Connection | None = None) -> list[ClaimedJob]:
        return self.exchange(queues=queues or ("default",), limit=limit, on=on).claimed

    def claim_one(self) -> ClaimedJob:
        (job,) = self.claim(1)
        return job

    def finish_within(self, connection: Connection, job: ClaimedJob, result: bytes | None = None) -> None:
        """As a transactional task does."""
        self.scene.store.ledger.finish(connection, self.name, job, started_at=now(), result=result)

    def die(self) -> None:
        """Its row is gone, as when its supervisor saw it die."""
        with self.scene.store.writing() as connection:
            self.scene.store.workers.remove(connection, [self.name])
        self.scene.store.dialect.drop_liveness(self.name)


class Scene:
    """A store, and what tests do to it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.sqlite = store.dialect.name == "sqlite"
        self.mysql = store.dialect.name == "mysql"
        self._workers = 0

    # ── people ────────────────────────────────────────────────────────────────────────────────

    def enqueue(self, **changes: Any) -> NewJob:
        job = new_job(**changes)
        with self.store.writing() as connection:
            self.store.jobs.insert(connection, job)
        return job

    def enqueue_many(self, count: int, **changes: Any) -> list[NewJob]:
        jobs = [new_job(**changes) for _ in range(count)]
        with self.store.writing() as connection:
            assert self.store.jobs.insert_many(connection, jobs)
        return jobs

    def again(self, *jobs: NewJob) -> dict[UUID, tuple[bytes, str | None]]:
        with self.store.writing() as connection:
            return self.store.jobs.insert_again(connection, jobs)

    def worker(self, name: str | None = None) -> Worker:
        self._workers += 1
        name = name or f"worker-{self._workers}"
        self.store.dialect.hold_liveness(name)
        with self.store.writing() as connection:
            self.store.workers.register(connection, name, host="here", pid=1, queues="*")
        return Worker(self, name)

    def running(self, **changes: Any) -> tuple[Worker, ClaimedJob]:
        """A worker that holds a job."""
        self.enqueue(**changes)
        worker = self.worker()
        return worker, worker.claim_one()

    def rescue(self, judge: str = "judge", lease: timedelta = LEASE) -> list[UUID]:
        """As ``services.upkeep.Rescue`` does it."""
        rescue = self.store.rescue
        with self.store.writing() as connection:
            dead = self.store.dialect.dead_workers(connection, lease, judge)
            gone = list(dict.fromkeys([*dead, *rescue.orphaning_workers(connection)]))
            return [row.id for row in rescue.offer_again(connection, gone).rows]

    def upkeep(self) -> tuple[int, list[UUID]]:
        with self.store.writing() as connection:
            promoted = self.store.upkeep.promote(connection)
            return promoted, [row.id for row in self.store.upkeep.expire(connection)]

    # ── what the database holds ───────────────────────────────────────────────────────────────

    def row(self, job: UUID) -> dict[str, Any] | None:
        table = self.store.tables.jobs
        return self._one(select(table).where(table.c.id == job))

    def ended(self, job: UUID) -> dict[str, Any] | None:
        table = self.store.tables.executions
        return self._one(select(table).where(table.c.job_id == job))

    def outcome(self, job: UUID) -> str | None:
        found = self.ended(job)
        return None if found is None else found["outcome"]

    def attempts(self, job: UUID) -> list[dict[str, Any]]:
        with self.store.reading() as connection:
            return [dict(row._mapping) for row in self.store.ledger.attempts(connection, job)]

    def status(self, job: UUID) -> JobStatus | None:
        with self.store.reading() as connection:
            return self.store.ledger.status(connection, job)

    def audited(self) -> list[tuple[str, str, UUID | None]]:
        audit = self.store.tables.audit.c
        with self.store.reading() as connection:
            rows = connection.execute(select(audit.actor, audit.action, audit.job_id).order_by(audit.id))
            return [tuple(row) for row in rows]

    def count(self, table: str = "jobs") -> int:
        with self.store.reading() as connection:
            return len(connection.execute(select(getattr(self.store.tables, table))).all())

    def everything(self) -> dict[str, list[Any]]:
        """All rows of the tables that outcomes touch, to see that nothing has changed."""
        with self.store.reading() as connection:
            return {
                name: sorted(
                    map(tuple, connection.execute(select(getattr(self.store.tables, name)))), key=repr
                )
                for name in ("jobs", "executions", "attempts", "audit")
            }

    def _one(self, statement: Any) -> dict[str, Any] | None:
        with self.store.reading() as connection:
            row = connection.execute(statement).one_or_none()
            return None if row is None else dict(row._mapping)

    # ── a hand that reaches in ────────────────────────────────────────────────────────────────

    def alter(self, job: UUID, **columns: Any) -> None:
        """Change columns of a job's row, past all rules."""
        jobs = self.store.tables.jobs
        with self.store.writing() as connection:
            assert connection.execute(update(jobs).where(jobs.c.id == job).values(**columns)).rowcount == 1

    def put_back(self, row: dict[str, Any] | None) -> None:
        """A row of jobs as it was once: what an attacker or a restored backup does."""
        assert row is not None
        with self.store.writing() as connection:
            connection.execute(insert(self.store.tables.jobs), [row])

    def turn_beat(self, worker: Worker, by: timedelta) -> None:
        """Move a worker's last beat."""
        workers = self.store.tables.workers
        with self.store.writing() as connection:
            told = connection.execute(select(self.store.dialect.clock)).scalar_one()
            connection.execute(update(workers).where(workers.c.id == worker.name).values(beat_at=told + by))

    def database_now(self) -> datetime:
        with self.store.reading() as connection:
            moment: datetime = connection.execute(select(self.store.dialect.clock)).scalar_one()
            return moment

    # ── two at a time ─────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def frozen(self) -> Iterator[Connection]:
        """An open transaction, rolled back at the end."""
        with self.store.engine.connect() as connection:
            self.store.dialect.begin(connection)
            yield connection
            connection.rollback()

    def lock_waits(self) -> int:
        """How many sessions wait for a lock in this database.

        InnoDB shows these as they were when somebody asked who had not asked for a tenth of a second.
        """
        if self.mysql:
            threading.Event().wait(0.15)
        with self.store.engine.connect() as connection:
            return int(connection.exec_driver_sql(LOCK_WAITS[self.store.dialect.name]).scalar_one())

    def until_free(self, job: UUID) -> None:
        """Wait until nobody has the job's row locked."""
        jobs, deadline = self.store.tables.jobs, time.monotonic() + 10
        free = select(jobs).where(jobs.c.id == job).with_for_update(skip_locked=True)
        while time.monotonic() < deadline:
            with self.store.engine.begin() as connection:
                if connection.execute(free).one_or_none() is not None:
                    return
        raise AssertionError("the row is still locked")

    @contextlib.contextmanager
    def hook(self, connection: Connection, step: Callable[[int, str], None]) -> Iterator[None]:
        """Call *step* after each statement on this connection, with its number from 1 and its text."""
        seen = 0

        def after(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
            nonlocal seen
            if conn is connection:
                seen += 1
                step(seen, statement)

        event.listen(self.store.engine, "after_cursor_execute", after)
        try:
            yield
        finally:
            event.remove(self.store.engine, "after_cursor_execute", after)


# ── reports ───────────────────────────────────────────────────────────────────────────────────


def succeeded(job: ClaimedJob, result: bytes | None = None) -> Succeeded:
    return Succeeded(job.id, job.claim, datetime.now(UTC), result)


def failed(job: ClaimedJob, cause: str = "ValueError") -> Ended:
    return Ended(job.id, job.claim, Outcome.FAILED, cause, counted=True, started_at=now(), error=b'{"e":1}')


def retried(job: ClaimedJob, after: timedelta = timedelta(seconds=6)) -> PutBack:
    return PutBack(
        job.id, job.claim, "ValueError", counted=True, after=after, started_at=now(), error=b'{"e":1}'
    )


def snoozed(job: ClaimedJob, after: timedelta = timedelta(seconds=60)) -> PutBack:
    return PutBack(job.id, job.claim, "snoozed", counted=False, after=after)


def released(job: ClaimedJob) -> Released:
    return Released(job.id, job.claim)
