"""What the prover asks of a throw-away copy of the tables: one job alone on the stage, due at once.

Never run on the application's own database.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, delete, select, update

from duly.model.states import State
from duly.model.unique import Until
from duly.store.dialect.base import StoreDialect
from duly.store.schema import Tables
from duly.store.statements import WAITING, in_state

ASIDE = timedelta(days=30)


class Rehearsal:
    """One job among copied rows."""

    def __init__(self, tables: Tables, dialect: StoreDialect) -> None:
        self.tables = tables
        self.dialect = dialect

    def clear(self, connection: Connection) -> None:
        """Take unfinished jobs, what they hold, and workers out of the copy: nobody runs them, and none shall."""
        jobs, keys = self.tables.jobs, self.tables.keys
        held = (keys.c.job_id.in_(select(jobs.c.id)), keys.c.until != Until.EVER.value)
        connection.execute(delete(keys).where(*held))
        for table in (jobs, self.tables.workers):
            connection.execute(delete(table))

    def hasten(self, connection: Connection, job: UUID) -> str | None:
        """Make *job* due now where it waits, and set all others aside. Its queue; None where it does not wait."""
        jobs, now = self.tables.jobs, self.dialect.clock
        others = (jobs.c.id != job, in_state(jobs.c, "available"))
        later = connection.execute(select(now)).scalar_one() + ASIDE
        connection.execute(update(jobs).where(*others).values(state=State.SCHEDULED.value, run_at=later))
        waits = (jobs.c.id == job, in_state(jobs.c, *WAITING))
        connection.execute(update(jobs).where(*waits).values(state=State.AVAILABLE.value, run_at=now))
        queue: str | None = connection.scalar(select(jobs.c.queue).where(*waits))
        return queue

    def others(self, connection: Connection, job: UUID) -> Sequence[Any]:
        """Task and digest of the unfinished jobs beside *job*: on a cleared stage, those that it has enqueued."""
        jobs = self.tables.jobs.c
        return connection.execute(
            select(jobs.task, jobs.digest).where(jobs.id != job).order_by(jobs.id)
        ).all()
