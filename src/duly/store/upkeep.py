"""What time does to waiting jobs: they become due, and they expire."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Column, Connection, Row, Select, select, update

from duly.model.report import Ended
from duly.model.states import Outcome, State
from duly.store.dialect.base import Due, StoreDialect
from duly.store.endings import Endings
from duly.store.schema import Tables
from duly.store.statements import BATCH, WAITING, in_state

__all__ = ["Due", "Upkeep"]


class Upkeep:
    """Promotion and expiry, by the database's clock."""

    def __init__(self, tables: Tables, dialect: StoreDialect) -> None:
        self.tables = tables
        self.dialect = dialect

    def look(self, connection: Connection) -> Due:
        """One look at what is due: two probes of an index end."""
        jobs, clock = self.tables.jobs.c, self.dialect.clock
        # Not min(): over two states MySQL would read them all.
        next_run = first(jobs.run_at).where(in_state(jobs, "scheduled")).scalar_subquery()
        next_expiry = first(jobs.expires_at).where(in_state(jobs, *WAITING)).scalar_subquery()
        row = connection.execute(
            select(next_run.label("run"), next_expiry.label("expiry"), clock.label("now"))
        ).one()
        return Due.seen(row.run, row.expiry, row.now)

    def promote(self, connection: Connection, limit: int = BATCH) -> int:
        """Make scheduled jobs that are due available; how many there were."""
        jobs, clock = self.tables.jobs, self.dialect.clock
        due = (
            select(jobs.c.id)
            .where(in_state(jobs.c, "scheduled"), jobs.c.run_at <= clock)
            .order_by(jobs.c.run_at)
            .limit(limit)
        )
        ids = list(connection.scalars(self.dialect.lock_rows(due, by="jobs_scheduled", skip_locked=True)))
        if ids:
            connection.execute(update(jobs).where(jobs.c.id.in_(ids)).values(state=State.AVAILABLE.value))
            self.dialect.wake(connection)
        return len(ids)

    def expire(self, connection: Connection, limit: int = BATCH) -> list[Row[Any]]:
        """End waiting jobs whose time has passed; they are returned."""
        jobs, clock = self.tables.jobs, self.dialect.clock
        past = (
            select(jobs, clock.label("now"))
            .where(in_state(jobs.c, *WAITING), jobs.c.expires_at <= clock)
            .order_by(jobs.c.expires_at)
            .limit(limit)
        )
        rows = list(connection.execute(self.dialect.lock_rows(past, by="jobs_expiring", skip_locked=True)))
        endings = Endings(self.tables, self.dialect)
        for row in rows:
            endings.add(
                row, Ended(row.id, row.claim, Outcome.EXPIRED, "not started before expires_at", counted=False)
            )
        endings.write(connection)
        return rows

    def waiting_queues(self, connection: Connection) -> list[str]:
        """The queues that have available jobs."""
        return list(connection.scalars(self.dialect.waiting_queues()))

    def due_soon(self, connection: Connection, queues: Sequence[str], within: timedelta) -> bool:
        """Whether any waiting job of *queues* (all, where empty) is due now or within so short a time."""
        jobs = self.tables.jobs.c
        now: datetime = connection.execute(select(self.dialect.clock)).scalar_one()
        due = (jobs.run_at <= now + within, jobs.expires_at > now)
        soon = select(jobs.id).where(in_state(jobs, *WAITING), *due)
        if queues:
            soon = soon.where(jobs.queue.in_(list(queues)))
        return connection.scalar(soon.limit(1)) is not None


def first(moment: Column[Any]) -> Select[Any]:
    """The earliest there is."""
    return select(moment).order_by(moment).limit(1)
