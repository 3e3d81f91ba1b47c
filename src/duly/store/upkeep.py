"""What time does to waiting jobs: they become due, and they expire."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Column, Connection, Row, Select, select, update

from duly.model.states import Outcome, State
from duly.store.audit import Audit
from duly.store.dialect.base import Due, StoreDialect
from duly.store.endings import end_unstarted
from duly.store.schema import Tables
from duly.store.statements import BATCH, WAITING, in_state, parts

__all__ = ["Due", "Upkeep"]

NOT_STARTED = "not started before expires_at"
"""Why a waiting job expires."""


class Upkeep:
    """Promotion and expiry, by the database's clock."""

    def __init__(self, tables: Tables, dialect: StoreDialect) -> None:
        self.tables = tables
        self.dialect = dialect
        self.audit_log = Audit(tables, dialect)

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
        """End waiting jobs whose time has passed; they are returned.

        Of a job that had ended before, its row was put back: that is removed, and entered into the audit log.
        """
        jobs, clock = self.tables.jobs, self.dialect.clock
        past: Select[*tuple[Any, ...]] = (
            select(jobs.c.id, jobs.c.task, jobs.c.queue, jobs.c.attempt, jobs.c.holds)
            .where(in_state(jobs.c, *WAITING), jobs.c.expires_at <= clock)
            .order_by(jobs.c.expires_at)
            .limit(limit)
        )
        rows = list(connection.execute(self.dialect.lock_rows(past, by="jobs_expiring", skip_locked=True)))
        ended = self._ended(connection, [row.id for row in rows])
        if ended:
            self.dialect.remove_rows(connection, jobs, list(ended))
            self.audit_log.note(connection, "duly", "replayed row removed", ended, "its job ended before")
            rows = [row for row in rows if row.id not in ended]
        end_unstarted(self.tables, self.dialect, connection, rows, Outcome.EXPIRED, NOT_STARTED)
        return rows

    def _ended(self, connection: Connection, ids: Sequence[UUID]) -> set[UUID]:
        ledger = self.tables.executions.c.job_id
        found = (connection.scalars(select(ledger).where(ledger.in_(some))) for some in parts(ids))
        return {job for some in found for job in some}

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
