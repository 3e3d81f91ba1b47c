"""Unfinished jobs: inserted, exchanged, cancelled. Time and death act on them in ``upkeep`` and ``rescue``.

The life of a row::

    insert ──> scheduled ──promote──> available ──exchange──> running ──exchange──> ledger
                   ^                      ^                     │ │
                   └──────── settle (retry, snooze, put back) ──┘ │
                                          └── release, rescue ────┤
                                              suspect <── mourn ──┘

Every write that ends or returns a running job is fenced by (id, worker, claim). A claim number only
ever rises, so a claim that was given back, rescued or lost can never be mistaken for the next one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Column, Connection, Row, Select, select, update

from duly.model.job import HOLDS_TO_CLAIM, ClaimedJob, NewJob
from duly.model.report import Died, Ended, PutBack, Released, Report, Succeeded
from duly.model.states import Outcome, State
from duly.model.unique import Caller
from duly.store.audit import Audit
from duly.store.dialect.base import CLAIMED, Exchanged, Position, StoreDialect, job_row
from duly.store.endings import Endings
from duly.store.keyed import KeyedInsert
from duly.store.keys import Keys
from duly.store.outcomes import Outcomes, Settled
from duly.store.schema import Tables
from duly.store.statements import BATCH, WAITING, in_state, parts


class Jobs:
    """The jobs table."""

    def __init__(self, tables: Tables, dialect: StoreDialect) -> None:
        self.tables = tables
        self.dialect = dialect
        self.keys = Keys(tables, dialect)
        self.outcomes = Outcomes(tables, dialect)
        self.audit_log = Audit(tables, dialect)

    # ── enqueue ───────────────────────────────────────────────────────────────────────────────

    def insert(self, connection: Connection, job: NewJob) -> None:
        """Write one new job."""
        self.dialect.insert(connection, job)

    def insert_many(self, connection: Connection, jobs: Sequence[NewJob]) -> bool:
        """Write many new jobs by the fastest way; False, with nothing written, when an id exists already."""
        if not self.dialect.insert_many(connection, jobs):
            return False
        self.dialect.wake(connection)
        return True

    def insert_keyed(
        self, connection: Connection, jobs: Sequence[NewJob], caller: Caller
    ) -> dict[UUID, UUID]:
        """Write new jobs of which some take keys; which of them were not made, with the job that has their key.

        Raises ``UniqueConflict``, ``KeyTaken`` and ``IdTaken``, with nothing written.
        """
        return KeyedInsert(self, connection, caller).run(jobs)

    def insert_again(
        self, connection: Connection, jobs: Sequence[NewJob]
    ) -> dict[UUID, tuple[bytes, str | None]]:
        """Write jobs whose ids may exist: those that do, or have ended, are left as they are.

        Returns the digest and its key id now stored under each id, for the caller to compare.
        The ledger is looked at again after the insert: a job that ended between the first look and
        the insert has left the jobs table, so nothing would have stopped its row.
        """
        ids = [job.id for job in jobs]
        ended = self.digests_ended(connection, ids)
        fresh = [job_row(job) for job in jobs if job.id not in ended]
        if fresh:
            connection.execute(self.dialect.insert_or_ignore(self.tables.jobs), fresh)
            self.dialect.wake(connection)
        stored = self._digests_unfinished(connection, ids)
        late = self.digests_ended(connection, [row["id"] for row in fresh])
        if late:
            jobs_c = self.tables.jobs.c
            put_in = select(jobs_c.id, jobs_c.claim).where(
                jobs_c.id.in_(list(late)), in_state(jobs_c, *WAITING)
            )
            rows = list(connection.scalars(self.dialect.lock_rows(put_in)))
            self.dialect.remove_rows(connection, self.tables.jobs, rows)
        return stored | ended | late

    def digests(
        self, connection: Connection, ids: Sequence[UUID], *, met: bool = False
    ) -> dict[UUID, tuple[bytes, str | None]]:
        """The digests, with their key ids, of those of these jobs that are there, or have ended.

        *met*: an insert has met them, though the transaction may be too old to see them.
        """
        found = self._digests_unfinished(connection, ids) | self.digests_ended(connection, ids)
        unseen = [job for job in ids if job not in found] if met else []
        if unseen:
            found |= self._digests_unfinished(connection, unseen, met=True)
            found |= self.digests_ended(connection, unseen, met=True)
        return found

    def digests_ended(
        self, connection: Connection, ids: Sequence[UUID], *, met: bool = False
    ) -> dict[UUID, tuple[bytes, str | None]]:
        """The same of those alone that have ended."""
        ledger = self.tables.executions.c
        columns = select(ledger.job_id, ledger.digest, ledger.key_id)
        return self._digests(connection, columns, ledger.job_id, ids, met=met)

    def _digests_unfinished(
        self, connection: Connection, ids: Sequence[UUID], *, met: bool = False
    ) -> dict[UUID, tuple[bytes, str | None]]:
        jobs = self.tables.jobs.c
        return self._digests(connection, select(jobs.id, jobs.digest, jobs.key_id), jobs.id, ids, met=met)

    def _digests(
        self,
        connection: Connection,
        columns: Select[*tuple[Any, ...]],
        key: Column[Any],
        ids: Sequence[UUID],
        *,
        met: bool,
    ) -> dict[UUID, tuple[bytes, str | None]]:
        return {
            row[0]: (row.digest, row.key_id)
            for some in parts(ids)
            for row in connection.execute(
                self.dialect.as_they_are(columns.where(key.in_(some)))
                if met
                else columns.where(key.in_(some))
            )
        }

    # ── the exchange ──────────────────────────────────────────────────────────────────────────

    def exchange(
        self,
        connection: Connection,
        worker: str,
        reports: Sequence[Report],
        queues: Sequence[str],
        limit: int,
        *,
        after: Mapping[str, Position] | None = None,
        careful: bool = False,
    ) -> tuple[Exchanged, Settled]:
        """In the caller's transaction: record what ended, then claim at most *limit* jobs of *queues*.

        1. Settle what did not simply succeed (plain statements, only when there is any).
        2. Record the successes and claim, in one go. When that met a lock before, be *careful*: record
           those successes alone whose rows nobody else has locked.
        3. Remove claimed rows that the ledger says have ended before; they never run.
        4. Release the keys of jobs that succeeded or were claimed for the first time, where they hold any.
        """
        succeeded = [report for report in reports if isinstance(report, Succeeded)]
        others = [report for report in reports if isinstance(report, Ended | PutBack | Died | Released)]
        settled = self.outcomes.settle(connection, worker, others) if others else Settled()
        if careful and succeeded:
            free = self.outcomes.free(connection, worker, [report.id for report in succeeded])
            barred = [report for report in succeeded if report.id not in free]
            settled.later |= self.outcomes.locked(connection, worker, barred)
            succeeded = [report for report in succeeded if report.id not in settled.later]
        reply = self.dialect.exchange(connection, worker, succeeded, queues, limit, after or {})
        if reply.replayed:
            self.remove_replayed(connection, worker, [job.id for job in reply.replayed])
        if ended := [report.id for report in succeeded if report.holds and report.id not in reply.lost]:
            self.keys.ended(connection, ended)
        if begun := [job.id for job in reply.claimed if job.holds and _begins(job)]:
            self.keys.begun(connection, begun)
        return reply, settled

    def claim_one(self, connection: Connection, worker: str, job: UUID) -> ClaimedJob | None:
        """Claim this very job, due or not; None where it is not waiting."""
        jobs = self.tables.jobs
        waiting = select(*(jobs.c[name] for name in CLAIMED)).where(
            jobs.c.id == job, in_state(jobs.c, *WAITING)
        )
        row = connection.execute(self.dialect.lock_rows(waiting)).one_or_none()
        if row is None:
            return None
        taken = {"state": State.RUNNING.value, "worker": worker, "claim": row.claim + 1, "started_at": None}
        connection.execute(update(jobs).where(jobs.c.id == job).values(**taken))
        claimed = ClaimedJob(*row)._replace(claim=row.claim + 1)
        if _begins(claimed):
            self.keys.begun(connection, [job])
        return claimed

    def remove_replayed(self, connection: Connection, worker: str, ids: Sequence[UUID]) -> None:
        """Take out claimed rows whose jobs had ended before, and enter it into the audit log."""
        self.dialect.remove_rows(connection, self.tables.jobs, ids)  # claimed just now, so they are ours
        self.audit_log.note(
            connection, worker, "replayed row removed", ids, "its job ended before; it did not run"
        )

    def held_by(self, connection: Connection, worker: str) -> dict[UUID, int]:
        """The running rows that name *worker*, with their claim numbers: what it should know."""
        jobs = self.tables.jobs.c
        mine = select(jobs.id, jobs.claim).where(in_state(jobs, "running"), jobs.worker == worker)
        return {row.id: row.claim for row in connection.execute(mine)}

    # ── people ────────────────────────────────────────────────────────────────────────────────

    def cancel(self, connection: Connection, job: UUID, cause: str) -> bool:
        """End a waiting job, or a suspect, as cancelled; False where it is running, ended or unknown."""
        jobs = self.tables.jobs
        waiting = select(jobs, self.dialect.clock.label("now")).where(
            jobs.c.id == job, in_state(jobs.c, *WAITING, "suspect")
        )
        row = connection.execute(self.dialect.lock_rows(waiting)).one_or_none()
        if row is None:
            return False
        endings = Endings(self.tables, self.dialect)
        endings.add(row, Ended(row.id, row.claim, Outcome.CANCELLED, cause, counted=False))
        endings.write(connection)
        return True

    def ask_to_stop(self, connection: Connection, job: UUID) -> bool:
        """Tell the worker of a running job to stop it; False where it is not running.

        The worker sees it with its next beat. The job never waits again: whatever gives it back ends it.
        """
        jobs = self.tables.jobs.c
        running = (jobs.id == job, in_state(jobs, "running"))
        asked = connection.execute(update(self.tables.jobs).where(*running).values(cancelling=True))
        return asked.rowcount > 0

    def clear(
        self, connection: Connection, *, queue: str | None, task: str | None, limit: int = BATCH
    ) -> int:
        """End waiting jobs, then suspects, of one queue or task or all, as cancelled; how many, at most *limit*."""
        jobs = self.tables.jobs
        which = [] if queue is None else [jobs.c.queue == queue]
        which += [] if task is None else [jobs.c.task == task]
        rows: list[Row[Any]] = []
        for states in (WAITING, ("suspect",)):
            some = select(jobs, self.dialect.clock.label("now")).where(in_state(jobs.c, *states), *which)
            locked = self.dialect.lock_rows(some.limit(limit), by="jobs_claim", skip_locked=True)
            rows = rows or list(connection.execute(locked))
        endings = Endings(self.tables, self.dialect)
        for row in rows:
            endings.add(row, Ended(row.id, row.claim, Outcome.CANCELLED, "cleared", counted=False))
        endings.write(connection)
        return len(rows)

    def plain_jobs(self, connection: Connection) -> bool:
        """Whether any unfinished job has a plain envelope."""
        jobs = self.tables.jobs.c
        return connection.scalar(select(jobs.id).where(jobs.key_id.is_(None)).limit(1)) is not None


def _begins(job: ClaimedJob) -> bool:
    """Whether this claim, its first, releases a key."""
    return bool(job.holds & HOLDS_TO_CLAIM) and job.claim == 1
