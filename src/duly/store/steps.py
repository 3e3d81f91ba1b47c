"""Durable steps: what an attempt has done, for those that follow it. One row for each, by origin and name."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, and_, select, update

from duly.errors import LeaseLost
from duly.model.job import ClaimedJob, NewJob
from duly.store.dialect.base import StoreDialect
from duly.store.schema import Tables


class Steps:
    """The steps table; whoever reads or writes for an attempt shows its fence."""

    def __init__(self, tables: Tables, dialect: StoreDialect) -> None:
        self.tables = tables
        self.dialect = dialect

    def find(self, connection: Connection, worker: str, job: ClaimedJob, name: str) -> bytes | None:
        """The recorded result of a step; None where there is none. ``LeaseLost``: the job is not ours to go on with."""
        jobs, steps = self.tables.jobs, self.tables.steps
        recorded = and_(steps.c.origin == job.origin, steps.c.name == name)
        both = jobs.outerjoin(steps, recorded)
        row = connection.execute(
            select(steps.c.result).select_from(both).where(*self._fence(worker, job))
        ).one_or_none()
        if row is None:
            raise _lost(job)
        result: bytes | None = row.result
        return result

    def record(
        self,
        connection: Connection,
        worker: str,
        job: ClaimedJob,
        name: str,
        *,
        result: bytes,
        key_id: str | None,
        keep: timedelta,
    ) -> bytes:
        """Record a result, behind the fence; what stands then, which an earlier try of ours may have written.

        *keep* is how long a job that failed may be retried by hand after its end, so that its steps are asked for.
        """
        mine = select(self.tables.jobs.c.id).where(*self._fence(worker, job))
        if connection.execute(self.dialect.lock_rows(mine)).one_or_none() is None:
            raise _lost(job)
        steps = self.tables.steps
        row = {"origin": job.origin, "name": name, "job_id": job.id, "claim": job.claim, "result": result}
        now: datetime = connection.execute(select(self.dialect.clock)).scalar_one()
        times = {"at": now, "expires_at": max(job.expires_at, now) + keep}
        connection.execute(self.dialect.insert_or_ignore(steps).values(**row, **times, key_id=key_id))
        standing = select(steps.c.result).where(steps.c.origin == job.origin, steps.c.name == name)
        recorded: bytes = connection.execute(standing).scalar_one()
        return recorded

    def extend(self, connection: Connection, job: NewJob, keep: timedelta) -> None:
        """The steps of its origin are kept for a retry by hand as long as those that it does itself."""
        steps, until = self.tables.steps, job.expires_at + keep
        short = update(steps).where(steps.c.origin == job.origin, steps.c.expires_at < until)
        connection.execute(short.values(expires_at=until))

    def _fence(self, worker: str, job: ClaimedJob) -> tuple[ColumnElement[bool], ...]:
        jobs = self.tables.jobs.c
        return jobs.id == job.id, jobs.worker == worker, jobs.claim == job.claim


def _lost(job: ClaimedJob) -> LeaseLost:
    return LeaseLost(f"job {job.id} belongs to another worker by now: its steps are not this attempt's to do")
