"""Jobs that end otherwise than by success: their ledger rows, and the end of their rows."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row

from duly.model.report import Ended
from duly.model.states import KEEPS_ENVELOPE
from duly.store.dialect.base import ENDED, StoreDialect
from duly.store.schema import Tables
from duly.store.statements import parts


class Endings:
    """Ledger rows in the making, for rows that the caller holds locked (selected with ``now``)."""

    def __init__(self, tables: Tables, dialect: StoreDialect) -> None:
        self.tables = tables
        self.dialect = dialect
        self.rows: list[dict[str, Any]] = []

    def add(self, row: Row[Any], report: Ended, **changed: Any) -> None:
        """End the job of *row* as *report* says, with columns that have *changed* meanwhile."""
        job = row._mapping  # noqa: SLF001 - SQLAlchemy's public name
        keep = report.outcome in KEEPS_ENVELOPE
        self.rows.append(
            {name: job[name] for name in ENDED}
            | {
                "job_id": job["id"],
                "outcome": report.outcome.value,
                "cause": plain_text(report.cause),
                "attempts": job["attempt"] + report.counted,
                "started_at": report.started_at,
                "ended_at": job["now"],
                "envelope": job["envelope"] if keep else None,
            }
            | changed
        )

    def write(self, connection: Connection) -> None:
        """Move them: into the ledger, where a row that stands already stays as it is, and out of the jobs."""
        if self.rows:
            jobs = self.tables.jobs
            connection.execute(self.dialect.insert_or_ignore(self.tables.executions), self.rows)
            for some in parts([row["job_id"] for row in self.rows]):
                self.dialect.remove_rows(connection, jobs, some)


def plain_text(cause: str) -> str:
    """A cause as every database takes it: one odd character must not fail the batch."""
    return cause.replace("\0", "").encode(errors="replace").decode()[:500]
