"""Unfinished jobs: insert, exchange, settle, promote, expire, rescue, cancel. One statement, one place.

The life of a row::

    insert ──> scheduled ──promote──> available ──exchange──> running ──exchange──> ledger
                   ^                      ^                     │ │
                   └──────── settle (retry, snooze, put back) ──┘ │
                                          └── release, rescue ────┘

Every write that ends or returns a running job is fenced by (id, worker, claim). A claim number only
ever rises, so a claim that was given back, rescued or lost can never be mistaken for the next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)

from duly.model.ids import new_id
from duly.model.job import ClaimedJob, NewJob
from duly.model.report import Ended, PutBack, Released, Report, Succeeded
from duly.model.states import KEEPS_ENVELOPE, Outcome, State
from duly.store.dialect.base import CLAIMED, ENDED, Exchanged, StoreDialect, job_row
from duly.store.schema import Tables

BATCH = 500
"""Rows in one statement at the most."""

WAITING_WORDS = ("available", "scheduled")
"""The waiting states, in the order in which the index on expires_at names them."""

MOST_RESCUES = 10
"""After so many rescues the next one ends the job as failed."""


@dataclass(slots=True)
class Settled:
    """What became of outcomes other than success: ``lost`` their fence, or ended as ``expired`` instead."""

    lost: set[UUID] = field(default_factory=set)
    expired: set[UUID] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What is due now, and how long until the next scheduled job is."""

    promote: bool
    expire: bool
    next_due: timedelta | None


class Jobs:
    """The jobs table."""

    def __init__(self, tables: Tables, dialect: StoreDialect) -> None:
        self.tables = tables
        self.dialect = dialect
        self._insert = insert(tables.jobs)

    # ── enqueue ───────────────────────────────────────────────────────────────────────────────

    def insert(self, connection: Connection, job: NewJob) -> None:
        """Write one new job."""
        connection.execute(self._insert, job_row(job))

    def insert_many(self, connection: Connection, jobs: Sequence[NewJob]) -> bool:
        """Write many new jobs by the fastest way; False, with nothing written, when an id exists already."""
        return self.dialect.insert_many(connection, jobs)

    def insert_again(
        self, connection: Connection, jobs: Sequence[NewJob]
    ) -> dict[UUID, tuple[bytes, str | None]]:
        """Write jobs whose ids may exist: those that do, or have ended, are left as they are.

        Returns the digest and its key id now stored under each id, for the caller to compare.
        The ledger is looked at again after the insert: a job that ended between the first look and
        the insert has left the jobs table, so nothing would have stopped its row.
        """
        ids = [job.id for job in jobs]
        ended = self._digests_ended(connection, ids)
        fresh = [job_row(job) for job in jobs if job.id not in ended]
        if fresh:
            connection.execute(self.dialect.insert_or_ignore(self.tables.jobs), fresh)
        stored = self._digests_waiting(connection, ids)
        late = self._digests_ended(connection, [row["id"] for row in fresh])
        if late:
            jobs_c = self.tables.jobs.c
            connection.execute(
                delete(self.tables.jobs).where(jobs_c.id.in_(list(late)), _is(jobs_c, *WAITING_WORDS))
            )
        return stored | ended | late

    def _digests_ended(
        self, connection: Connection, ids: Sequence[UUID]
    ) -> dict[UUID, tuple[bytes, str | None]]:
        ledger = self.tables.executions.c
        return {
            row.job_id: (row.digest, row.key_id)
            for some in _parts(ids)
            for row in connection.execute(
                select(ledger.job_id, ledger.digest, ledger.key_id).where(ledger.job_id.in_(some))
            )
        }

    def _digests_waiting(
        self, connection: Connection, ids: Sequence[UUID]
    ) -> dict[UUID, tuple[bytes, str | None]]:
        jobs = self.tables.jobs.c
        return {
            row.id: (row.digest, row.key_id)
            for some in _parts(ids)
            for row in connection.execute(select(jobs.id, jobs.digest, jobs.key_id).where(jobs.id.in_(some)))
        }

    # ── the exchange ──────────────────────────────────────────────────────────────────────────

    def exchange(
        self,
        connection: Connection,
        worker: str,
        reports: Sequence[Report],
        queues: Sequence[str],
        limit: int,
    ) -> tuple[Exchanged, Settled]:
        """In the caller's transaction: record what ended, then claim at most *limit* jobs of *queues*.

        1. Settle what did not simply succeed (plain statements, only when there is any).
        2. Record the successes and claim, in one go.
        3. Remove claimed rows that the ledger says have ended before; they never run.
        """
        succeeded = [report for report in reports if isinstance(report, Succeeded)]
        others = [report for report in reports if isinstance(report, Ended | PutBack | Released)]
        settled = self.settle(connection, worker, others) if others else Settled()
        reply = self.dialect.exchange(connection, worker, succeeded, queues, limit)
        if reply.replayed:
            self._remove_replayed(connection, worker, [job.id for job in reply.replayed])
        return reply, settled

    def claim_one(self, connection: Connection, worker: str, job: UUID) -> ClaimedJob | None:
        """Claim this very job, due or not; None where it is not waiting."""
        jobs = self.tables.jobs
        row = connection.execute(
            update(jobs)
            .where(jobs.c.id == job, _is(jobs.c, *WAITING_WORDS))
            .values(state=State.RUNNING.value, worker=worker, claim=jobs.c.claim + 1)
            .returning(*(jobs.c[name] for name in CLAIMED))
        ).one_or_none()
        return None if row is None else ClaimedJob(*row)

    def settle(
        self, connection: Connection, worker: str, reports: Sequence[Ended | PutBack | Released]
    ) -> Settled:
        """Record retries, put-backs, releases and bad ends: lock the rows that are still ours, then write."""
        held = self._held(connection, worker, [report.id for report in reports])
        settled, endings, updates, attempts = Settled(), _Endings(), [], []
        for report in reports:
            row = held.pop((report.id, report.claim), None)
            if row is None:
                settled.lost.add(report.id)
                continue
            if isinstance(report, PutBack) and _too_late(report, row):
                settled.expired.add(report.id)
                report = _expired_instead(report)  # noqa: PLW2901 - from here on it is that report
            match report:
                case Ended():
                    endings.add(row, report)
                case PutBack() | Released():
                    updates.append(_given_back(report, row))
            if not isinstance(report, Released) and report.counted:
                attempts.append(_attempt(report, row, worker))
        self._write_attempts(connection, attempts)
        self._end(connection, endings)
        self._update(connection, updates)
        settled.lost -= self._already_recorded(connection, reports, settled.lost)
        return settled

    def _held(
        self, connection: Connection, worker: str, ids: Sequence[UUID]
    ) -> dict[tuple[UUID, int], Row[Any]]:
        jobs = self.tables.jobs
        held: dict[tuple[UUID, int], Row[Any]] = {}
        for some in _parts(ids):
            mine = select(jobs, self.dialect.clock.label("now")).where(
                jobs.c.id.in_(some), jobs.c.worker == worker
            )
            rows = connection.execute(self.dialect.lock_rows(mine))
            held |= {(row.id, row.claim): row for row in rows}
        return held

    def _already_recorded(
        self, connection: Connection, reports: Sequence[Ended | PutBack | Released], lost: set[UUID]
    ) -> set[UUID]:
        """Of outcomes that met no row: those that stand already, and releases, which lose nothing."""
        if not lost:
            return set()
        claims = {r.id: r.claim for r in reports}
        known = {
            r.id for r in reports if isinstance(r, Released) or (isinstance(r, PutBack) and not r.counted)
        }
        ledger, attempts = self.tables.executions.c, self.tables.attempts.c
        for column, claim in ((ledger.job_id, ledger.claim), (attempts.job_id, attempts.claim)):
            for row in connection.execute(select(column.label("id"), claim).where(column.in_(list(lost)))):
                if claims[row.id] == row.claim:
                    known.add(row.id)
        return known

    def _write_attempts(self, connection: Connection, attempts: list[dict[str, Any]]) -> None:
        if attempts:
            connection.execute(self.dialect.insert_or_ignore(self.tables.attempts), attempts)

    def _update(self, connection: Connection, updates: list[dict[str, Any]]) -> None:
        if updates:
            jobs = self.tables.jobs
            moved: dict[str, Any] = {
                name: bindparam(f"new_{name}") for name in ("state", "run_at", "attempt")
            }
            connection.execute(
                update(jobs)
                .where(jobs.c.id == bindparam("job"))
                .values(worker=None, started_at=None, **moved),
                updates,
            )

    def _end(self, connection: Connection, endings: _Endings) -> None:
        if endings.rows:
            connection.execute(self.dialect.insert_or_ignore(self.tables.executions), endings.rows)
            for some in _parts([row["job_id"] for row in endings.rows]):
                connection.execute(delete(self.tables.jobs).where(self.tables.jobs.c.id.in_(some)))

    def _remove_replayed(self, connection: Connection, worker: str, ids: Sequence[UUID]) -> None:
        jobs = self.tables.jobs
        connection.execute(delete(jobs).where(jobs.c.id.in_(ids), jobs.c.worker == worker))
        self.audit(connection, worker, "replayed row removed", ids, "its job ended before; it did not run")

    def audit(
        self, connection: Connection, actor: str, action: str, ids: Iterable[UUID | None], details: str = ""
    ) -> None:
        """Note in the audit log what was done to jobs, by whom."""
        entries = [
            {"id": new_id(), "actor": actor, "action": action, "job_id": one, "details": details}
            for one in ids
        ]
        if entries:
            connection.execute(insert(self.tables.audit).values(at=self.dialect.clock), entries)

    # ── upkeep ────────────────────────────────────────────────────────────────────────────────

    def upkeep(self, connection: Connection) -> Upkeep:
        """One look at what is due: two probes of an index end."""
        jobs, clock = self.tables.jobs.c, self.dialect.clock
        next_run = select(func.min(jobs.run_at)).where(_is(jobs, "scheduled")).scalar_subquery()
        next_expiry = select(func.min(jobs.expires_at)).where(_is(jobs, *WAITING_WORDS)).scalar_subquery()
        row = connection.execute(
            select(next_run.label("run"), next_expiry.label("expiry"), clock.label("now"))
        ).one()
        due = None if row.run is None else row.run - row.now
        return Upkeep(
            promote=due is not None and due <= timedelta(0),
            expire=row.expiry is not None and row.expiry <= row.now,
            next_due=due,
        )

    def promote(self, connection: Connection, limit: int = BATCH) -> int:
        """Make scheduled jobs that are due available; how many there were."""
        jobs, clock = self.tables.jobs, self.dialect.clock
        due = (
            select(jobs.c.id)
            .where(_is(jobs.c, "scheduled"), jobs.c.run_at <= clock)
            .order_by(jobs.c.run_at)
            .limit(limit)
        )
        ids = list(connection.scalars(self.dialect.lock_rows(due, skip_locked=True)))
        if ids:
            connection.execute(update(jobs).where(jobs.c.id.in_(ids)).values(state=State.AVAILABLE.value))
        return len(ids)

    def expire(self, connection: Connection, limit: int = BATCH) -> list[Row[Any]]:
        """End waiting jobs whose time has passed; they are returned."""
        jobs, clock = self.tables.jobs, self.dialect.clock
        past = (
            select(jobs, clock.label("now"))
            .where(_is(jobs.c, *WAITING_WORDS), jobs.c.expires_at <= clock)
            .order_by(jobs.c.expires_at)
            .limit(limit)
        )
        rows = list(connection.execute(self.dialect.lock_rows(past, skip_locked=True)))
        endings = _Endings()
        for row in rows:
            endings.add(
                row, Ended(row.id, row.claim, Outcome.EXPIRED, "not started before expires_at", counted=False)
            )
        self._end(connection, endings)
        return rows

    def waiting_queues(self, connection: Connection) -> list[str]:
        """The queues that have available jobs."""
        return list(connection.scalars(self.dialect.waiting_queues()))

    def due_soon(self, connection: Connection, queues: Sequence[str], within: timedelta) -> bool:
        """Whether any waiting job of *queues* (all, where empty) is due now or within so short a time."""
        jobs, clock = self.tables.jobs.c, self.dialect.clock
        soon = select(jobs.id).where(
            _is(jobs, *WAITING_WORDS), jobs.run_at <= clock + within, jobs.expires_at > clock
        )
        if queues:
            soon = soon.where(jobs.queue.in_(list(queues)))
        return connection.scalar(soon.limit(1)) is not None

    # ── lost and dead workers ─────────────────────────────────────────────────────────────────

    def held_by(self, connection: Connection, worker: str) -> dict[UUID, int]:
        """The running rows that name *worker*, with their claim numbers: what it should know."""
        jobs = self.tables.jobs.c
        mine = select(jobs.id, jobs.claim).where(_is(jobs, "running"), jobs.worker == worker)
        return {row.id: row.claim for row in connection.execute(mine)}

    def orphaning_workers(self, connection: Connection) -> list[str]:
        """Workers that running rows name, and that are not in the workers table: they are dead.

        Read first, and rescued by name afterwards. As one statement it could take a job from a
        worker that registered and claimed it in between: the locked row is looked at again as it is
        now, the workers as they were.
        """
        jobs, workers = self.tables.jobs.c, self.tables.workers.c
        known = select(workers.id).where(workers.id == jobs.worker).exists()
        return list(connection.scalars(select(jobs.worker).where(_is(jobs, "running"), ~known).distinct()))

    def offer_again(
        self, connection: Connection, workers: Sequence[str], limit: int = BATCH
    ) -> list[Row[Any]]:
        """Rescue: offer the running jobs of dead *workers* again, at the eleventh time end them as failed.

        Locked rows are passed over: a frozen transaction must not hold up the others; the next
        look takes what it left.
        """
        if not workers:
            return []
        jobs = self.tables.jobs
        theirs = (
            select(jobs, self.dialect.clock.label("now"))
            .where(_is(jobs.c, "running"), jobs.c.worker.in_(list(workers)))
            .limit(limit)
        )
        rows = list(connection.execute(self.dialect.lock_rows(theirs, skip_locked=True)))
        endings = _Endings()
        for row in rows:
            if row.rescues >= MOST_RESCUES:
                cause = f"its worker was lost {row.rescues + 1} times"
                endings.add(row, Ended(row.id, row.claim, Outcome.FAILED, cause, counted=False))
        self._end(connection, endings)
        again = [row.id for row in rows if row.rescues < MOST_RESCUES]
        for some in _parts(again):
            connection.execute(
                update(jobs)
                .where(jobs.c.id.in_(some))
                .values(state=State.AVAILABLE.value, worker=None, started_at=None, rescues=jobs.c.rescues + 1)
            )
        return rows

    # ── people ────────────────────────────────────────────────────────────────────────────────

    def cancel(self, connection: Connection, job: UUID, cause: str) -> bool:
        """End a waiting job as cancelled; False where it is running, ended or unknown."""
        jobs = self.tables.jobs
        waiting = select(jobs, self.dialect.clock.label("now")).where(
            jobs.c.id == job, _is(jobs.c, *WAITING_WORDS)
        )
        row = connection.execute(self.dialect.lock_rows(waiting)).one_or_none()
        if row is None:
            return False
        endings = _Endings()
        endings.add(row, Ended(row.id, row.claim, Outcome.CANCELLED, cause, counted=False))
        self._end(connection, endings)
        return True

    def clear(
        self, connection: Connection, *, queue: str | None, task: str | None, limit: int = BATCH
    ) -> int:
        """End waiting jobs, of one queue or task or all, as cancelled; how many, at most *limit*."""
        jobs = self.tables.jobs
        waiting = select(jobs, self.dialect.clock.label("now")).where(_is(jobs.c, *WAITING_WORDS))
        if queue is not None:
            waiting = waiting.where(jobs.c.queue == queue)
        if task is not None:
            waiting = waiting.where(jobs.c.task == task)
        rows = list(connection.execute(self.dialect.lock_rows(waiting.limit(limit), skip_locked=True)))
        endings = _Endings()
        for row in rows:
            endings.add(row, Ended(row.id, row.claim, Outcome.CANCELLED, "cleared", counted=False))
        self._end(connection, endings)
        return len(rows)

    def plain_jobs(self, connection: Connection) -> bool:
        """Whether any unfinished job has a plain envelope."""
        jobs = self.tables.jobs.c
        return connection.scalar(select(jobs.id).where(jobs.key_id.is_(None)).limit(1)) is not None


class _Endings:
    """Ledger rows in the making."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(self, row: Row[Any], report: Ended) -> None:
        job = row._mapping  # noqa: SLF001 - SQLAlchemy's public name
        keep = report.outcome in KEEPS_ENVELOPE
        self.rows.append(
            {name: job[name] for name in ENDED}
            | {
                "job_id": job["id"],
                "outcome": report.outcome.value,
                "cause": _text(report.cause),
                "attempts": job["attempt"] + report.counted,
                "started_at": report.started_at,
                "ended_at": job["now"],
                "envelope": job["envelope"] if keep else None,
            }
        )


def _too_late(report: PutBack, row: Row[Any]) -> bool:
    return bool(_when(report, row) >= row.expires_at)


def _when(report: PutBack, row: Row[Any]) -> datetime:
    now: datetime = row.now
    if report.at is not None:
        return max(report.at, now)
    try:
        return now + (report.after or timedelta(0))
    except OverflowError:
        return datetime.max.replace(tzinfo=now.tzinfo)


def _expired_instead(report: PutBack) -> Ended:
    cause = f"{report.cause}; the next attempt could only come after expires_at"
    return Ended(
        report.id, report.claim, Outcome.EXPIRED, cause, report.counted, report.started_at, report.error
    )


def _given_back(report: PutBack | Released, row: Row[Any]) -> dict[str, Any]:
    if isinstance(report, Released):
        return {"job": row.id, "new_state": "available", "new_run_at": row.run_at, "new_attempt": row.attempt}
    at = _when(report, row)
    return {
        "job": row.id,
        "new_state": (State.SCHEDULED if at > row.now else State.AVAILABLE).value,
        "new_run_at": at,
        "new_attempt": row.attempt + report.counted,
    }


def _attempt(report: Ended | PutBack, row: Row[Any], worker: str) -> dict[str, Any]:
    return {
        "job_id": row.id,
        "claim": row.claim,
        "attempt": row.attempt + 1,
        "worker": worker,
        "started_at": report.started_at,
        "ended_at": row.now,
        "cause": _text(report.cause),
        "error": report.error,
    }


def _text(cause: str) -> str:
    """A cause as every database takes it: one odd character must not fail the batch."""
    return cause.replace("\0", "").encode(errors="replace").decode()[:500]


def _is(columns: Any, *words: str) -> ColumnElement[bool]:
    """Whether a job is in one of these states, said as the partial indexes say it.

    In words, not parameters: a prepared statement's generic plan, and SQLite, can use a partial index
    only where its condition stands in the statement.
    """
    literals: list[ColumnElement[str]] = [literal_column(f"'{State(word).value}'") for word in words]
    equal: ColumnElement[bool] = (
        columns.state == literals[0] if len(words) == 1 else columns.state.in_(literals)
    )
    return equal


def _parts(ids: Sequence[UUID]) -> Iterable[Sequence[UUID]]:
    """Lists that fit into one statement on every database."""
    return (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))
