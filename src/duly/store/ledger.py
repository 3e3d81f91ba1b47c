"""The ledger of ended jobs: written once, looked up by id, counted for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    or_,
    select,
)

from duly.errors import LeaseLost
from duly.model.job import ClaimedJob, JobStatus
from duly.model.states import Outcome, State
from duly.model.wanted import Wanted
from duly.store.dialect.base import ENDED, StoreDialect
from duly.store.keys import Keys
from duly.store.resolutions import resolution_of
from duly.store.schema import Tables

_SHOWN = (
    "origin", "task", "queue", "priority", "rescues", "claim", "worker", "run_at", "enqueued_at",
    "expires_at", "started_at", "principal", "key_id",
)  # fmt: skip


class Ledger:
    """The executions table, and the jobs table where a question spans both."""

    def __init__(self, tables: Tables, dialect: StoreDialect) -> None:
        self.tables = tables
        self.dialect = dialect
        jobs = tables.jobs.c
        self._fence = dialect.removal(
            tables.jobs,
            jobs.id == bindparam("its_id"),
            jobs.worker == bindparam("its_worker"),
            jobs.claim == bindparam("its_claim"),
            jobs.expires_at > dialect.clock,
        )
        self._entry = dialect.entry(tables.executions)

    def finish(
        self,
        connection: Connection,
        worker: str,
        job: ClaimedJob,
        *,
        started_at: datetime,
        result: bytes | None,
    ) -> None:
        """Record the success of a transactional task, in the task's own transaction; the fence is the first line.

        The last statement before COMMIT that looks at the job also looks at the database's clock: a job
        that has expired meanwhile is not finished. ``LeaseLost`` says that the transaction must be
        rolled back: the job is another worker's, has expired, or had ended before.
        """
        fence = {"its_id": job.id, "its_worker": worker, "its_claim": job.claim}
        row = self.dialect.remove_one(connection, self._fence, fence)
        if row is None:
            raise LeaseLost(f"job {job.id} has expired, or belongs to another worker by now; rolled back")
        kept = {name: row._mapping[name] for name in ENDED}  # noqa: SLF001 - SQLAlchemy's public name
        written = self.dialect.enter(
            connection,
            self._entry,
            {
                "job_id": job.id,
                "outcome": Outcome.SUCCEEDED.value,
                "attempts": row.attempt + 1,
                "started_at": started_at,
                "result": result,
            }
            | kept,
        )
        if written is None:
            raise LeaseLost(f"job {job.id} had ended before: its row was put back; rolled back")
        if row.holds:
            Keys(self.tables, self.dialect).ended(connection, [job.id])
        if (
            written >= row.expires_at
        ):  # the fence may have waited for a lock; this is the last look at the clock
            raise LeaseLost(f"job {job.id} expired while it was recorded; rolled back")

    def status(self, connection: Connection, job: UUID) -> JobStatus | None:
        """The job as it stands: its row, else its ledger row. Asked in that order, since jobs move that way."""
        jobs, ledger, attempts = self.tables.jobs.c, self.tables.executions.c, self.tables.attempts.c
        last = (
            select(attempts.error)
            .where(attempts.job_id == job)
            .order_by(attempts.claim.desc())
            .limit(1)
            .scalar_subquery()
            .label("error")
        )
        row = connection.execute(
            select(
                jobs.id, jobs.state, jobs.attempt.label("attempts"), jobs.envelope, last, *_columns(jobs)
            ).where(jobs.id == job)
        ).one_or_none()
        if row is not None:
            return _unfinished(row)
        kept = (ledger.result, ledger.envelope, last)
        row = connection.execute(self._entries(*kept).where(ledger.job_id == job)).one_or_none()
        if row is None:
            return None
        return replace(_ended(row), result=row.result, envelope=row.envelope, error=row.error)

    def page(
        self, connection: Connection, wanted: Wanted, *, before: UUID | None, limit: int
    ) -> list[JobStatus] | None:
        """Ended jobs, the last ended first, from behind the job *before* on; None where there is no such job."""
        ledger = self.tables.executions.c
        entries = self._entries().where(*self._which(wanted))
        if before is not None:
            place = connection.execute(select(ledger.ended_at).where(ledger.job_id == before)).one_or_none()
            if place is None:
                return None
            same = and_(ledger.ended_at == place.ended_at, ledger.job_id < before)
            entries = entries.where(
                ledger.ended_at <= place.ended_at, or_(ledger.ended_at < place.ended_at, same)
            )
        newest = entries.order_by(ledger.ended_at.desc(), ledger.job_id.desc()).limit(limit)
        return [_ended(row) for row in connection.execute(newest)]

    def _entries(self, *more: Any) -> Select[*tuple[Any, ...]]:
        """Rows of the ledger as people see them, with what was found out; *more* columns where asked."""
        ledger, resolutions = self.tables.executions, self.tables.resolutions
        found = (resolutions.c[name] for name in ("at", "actor", "verdict", "again", "reason"))
        own = (ledger.c.outcome, ledger.c.cause, ledger.c.attempts, ledger.c.ended_at)
        return select(ledger.c.job_id.label("id"), *own, *_columns(ledger.c), *found, *more).select_from(
            ledger.outerjoin(resolutions, resolutions.c.job_id == ledger.c.job_id)
        )

    def _which(self, wanted: Wanted) -> Iterator[ColumnElement[bool]]:
        ledger = self.tables.executions.c
        for name in ("task", "queue"):
            if (value := getattr(wanted, name)) is not None:
                yield ledger[name] == value
        if wanted.outcome is not None:
            yield ledger.outcome == wanted.outcome.value
            if wanted.outcome is not Outcome.SUCCEEDED:
                yield literal_column("outcome") != literal_column(
                    "'succeeded'"
                )  # as the partial index has it
        if wanted.since is not None:
            yield ledger.ended_at >= wanted.since
        if wanted.until is not None:
            yield ledger.ended_at < wanted.until
        if wanted.jobs is not None:
            yield ledger.job_id.in_(list(wanted.jobs))

    def attempts(self, connection: Connection, job: UUID) -> Sequence[Any]:
        """What went wrong in each attempt of a job, oldest first."""
        attempts = self.tables.attempts
        return connection.execute(
            select(attempts).where(attempts.c.job_id == job).order_by(attempts.c.claim)
        ).all()

    def states(self, connection: Connection) -> dict[str, int]:
        """How many unfinished jobs there are in each state."""
        state = self.tables.jobs.c.state
        return {row[0]: row[1] for row in connection.execute(select(state, func.count()).group_by(state))}

    def outcomes(self, connection: Connection) -> dict[str, int]:
        """How many ended jobs there are of each outcome."""
        outcome = self.tables.executions.c.outcome
        return {row[0]: row[1] for row in connection.execute(select(outcome, func.count()).group_by(outcome))}

    def troubled(self, connection: Connection) -> tuple[int, int]:
        """How many ended jobs needed more than one attempt, and how many were rescued."""
        ledger = self.tables.executions.c
        row = connection.execute(
            select(
                func.count(case((ledger.attempts > 1, 1))),
                func.count(case((or_(ledger.rescues > 0, ledger.deaths > 0), 1))),
            ).select_from(self.tables.executions)
        ).one()
        return row[0], row[1]

    def queues(self, connection: Connection) -> Sequence[Any]:
        """Per queue: waiting and running jobs, suspects, when the first was or is due, and the database's time.

        A scheduled job that is past due counts as waiting: with no worker alive nobody promotes it.
        """
        jobs = self.tables.jobs.c
        available = jobs.state == "available"
        return connection.execute(
            select(
                jobs.queue,
                func.count(case((jobs.state == "scheduled", 1))).label("scheduled"),
                func.count(case((available, 1))).label("available"),
                func.count(case((jobs.state == "running", 1))).label("running"),
                func.count(case((jobs.state == "suspect", 1))).label("suspect"),
                func.min(case((jobs.state.in_(("available", "scheduled")), jobs.run_at))).label("first"),
                func.max(self.dialect.clock).label("now"),
            )
            .group_by(jobs.queue)
            .order_by(jobs.queue)
        ).all()


def _columns(table: Any) -> list[Any]:
    return [getattr(table, name) for name in _SHOWN]


def _unfinished(row: Any) -> JobStatus:
    shown = {name: getattr(row, name) for name in _SHOWN}
    return JobStatus(
        id=row.id, state=State(row.state), outcome=None, cause=None, attempts=row.attempts, ended_at=None,
        error=row.error, envelope=row.envelope, **shown,
    )  # fmt: skip


def _ended(row: Any) -> JobStatus:
    shown = {name: getattr(row, name) for name in _SHOWN}
    return JobStatus(
        id=row.id, state=None, outcome=Outcome(row.outcome), cause=row.cause, attempts=row.attempts,
        ended_at=row.ended_at, resolution=resolution_of(row), **shown,
    )  # fmt: skip
