"""The mark of an unrepeatable job: ``started_at``, fenced and committed before its task is called.

A job without it was not started, so it can be offered again. One that has it may have had its effect: whatever
happens to its worker, only what its task says of itself lets it run another time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select, update

from duly.model.job import ClaimedJob
from duly.store.dialect.base import StoreDialect
from duly.store.schema import Tables
from duly.store.statements import in_state


@dataclass(frozen=True, slots=True)
class Mark:
    """How it stands with the mark of a job, under the fence of one claim.

    ``held``: the fence stands. ``at``: since when the job is marked; None where it is not. ``late``: it has expired.
    """

    held: bool
    at: datetime | None
    late: bool


class Marks:
    """Sets marks, and reads them back. Whatever ends or returns a job takes its mark away with the rest."""

    def __init__(self, tables: Tables, dialect: StoreDialect) -> None:
        self.tables = tables
        self.dialect = dialect

    def set(self, connection: Connection, worker: str, job: ClaimedJob) -> datetime | None:
        """Mark a job that is still this claim's, has no mark and has not expired; the database's time, or None.

        None says that nothing may be committed. The clock is asked once more at the end: the first line may have
        waited for a lock.
        """
        jobs, clock = self.tables.jobs, self.dialect.clock
        mine = (jobs.c.id == job.id, jobs.c.worker == worker, jobs.c.claim == job.claim)
        fresh = (in_state(jobs.c, "running"), jobs.c.started_at.is_(None), jobs.c.expires_at > clock)
        if not connection.execute(update(jobs).where(*mine, *fresh).values(started_at=clock)).rowcount:
            return None
        now: datetime = connection.execute(select(clock)).scalar_one()
        return now if now < job.expires_at else None

    def look(self, connection: Connection, worker: str, job: ClaimedJob) -> Mark:
        """How it stands, now that whoever had the row locked is through with it."""
        jobs = self.tables.jobs
        row = connection.execute(
            self.dialect.lock_rows(select(jobs, self.dialect.clock.label("now")).where(jobs.c.id == job.id))
        ).one_or_none()
        if row is None or (row.state, row.worker, row.claim) != ("running", worker, job.claim):
            return Mark(held=False, at=None, late=False)
        return Mark(held=True, at=row.started_at, late=row.now >= row.expires_at)
