"""The resolutions table: what people found out about jobs that ended ``uncertain``. One row a job, never changed."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, insert, select

from duly.model.resolution import Resolution, Verdict
from duly.store.dialect.base import StoreDialect
from duly.store.endings import plain_text
from duly.store.schema import Tables


class Resolutions:
    """Written under a lock of the job's ledger row, so that of two people the second sees the first."""

    def __init__(self, tables: Tables, dialect: StoreDialect) -> None:
        self.tables = tables
        self.dialect = dialect

    def standing(self, connection: Connection, job: UUID) -> Resolution | None:
        """Lock the job's ledger row; what was found out about it before."""
        ledger, resolutions = self.tables.executions.c, self.tables.resolutions
        held = select(ledger.job_id, ledger.outcome).where(ledger.job_id == job)
        connection.execute(self.dialect.lock_rows(held)).all()
        row = connection.execute(select(resolutions).where(resolutions.c.job_id == job)).one_or_none()
        return None if row is None else resolution_of(row)

    def add(
        self,
        connection: Connection,
        job: UUID,
        verdict: Verdict,
        *,
        actor: str,
        reason: str | None,
        again: UUID | None,
    ) -> Resolution:
        """Write one; ``standing`` has seen that there is none."""
        reason = None if reason is None else plain_text(reason)
        now: datetime = connection.execute(select(self.dialect.clock)).scalar_one()
        made = Resolution(now, plain_text(actor)[:200], verdict, again, reason)
        row = {"at": now, "actor": made.actor, "verdict": verdict.value, "again": again, "reason": reason}
        connection.execute(insert(self.tables.resolutions).values(job_id=job, **row))
        return made


def resolution_of(row: Row[Any]) -> Resolution | None:
    """Of a row that has a resolution's columns; None where they are empty."""
    if row.verdict is None:
        return None
    return Resolution(row.at, row.actor, Verdict(row.verdict), row.again, row.reason)
