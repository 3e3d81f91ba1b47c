"""Jobs that end otherwise than by success: their ledger rows, and the end of their rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, literal, select

from duly.model.report import Ended
from duly.model.states import KEEPS_ENVELOPE, Outcome
from duly.store.dialect.base import ENDED, StoreDialect
from duly.store.keys import Keys
from duly.store.schema import Tables
from duly.store.statements import parts


class Endings:
    """Ledger rows in the making, for rows that the caller holds locked (selected with ``now``)."""

    def __init__(self, tables: Tables, dialect: StoreDialect) -> None:
        self.tables = tables
        self.dialect = dialect
        self.rows: list[dict[str, Any]] = []
        self._holders: list[UUID] = []

    def add(self, row: Row[Any], report: Ended, **changed: Any) -> None:
        """End the job of *row* as *report* says, with columns that have *changed* meanwhile."""
        job = row._mapping  # noqa: SLF001 - SQLAlchemy's public name
        if job["holds"]:
            self._holders.append(job["id"])
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
        """Move them: into the ledger, where a row that stands already stays as it is, and out of the jobs.

        The keys that they hold until then are released.
        """
        if self.rows:
            jobs = self.tables.jobs
            connection.execute(self.dialect.insert_or_ignore(self.tables.executions), self.rows)
            for some in parts([row["job_id"] for row in self.rows]):
                self.dialect.remove_rows(connection, jobs, some)
        if self._holders:
            Keys(self.tables, self.dialect).ended(connection, self._holders)


def end_unstarted(
    tables: Tables,
    dialect: StoreDialect,
    connection: Connection,
    rows: Sequence[Row[Any]],
    outcome: Outcome,
    cause: str,
) -> None:
    """End jobs that the caller holds locked and that nobody runs, all alike; of each it needs ``id`` and ``holds``.

    The database copies the rows by itself: a hundred thousand that expire together need not come here.
    """
    jobs, executions = tables.jobs, tables.executions
    own = {
        "job_id": jobs.c.id,
        "outcome": literal(outcome.value),
        "cause": literal(cause),
        "attempts": jobs.c.attempt,
        "ended_at": dialect.clock,
    }
    columns = own | {name: jobs.c[name] for name in ENDED}
    ended = select(*(column.label(name) for name, column in columns.items()))
    for some in parts([row.id for row in rows]):
        copied = ended.where(jobs.c.id.in_(some))
        connection.execute(dialect.insert_or_ignore(executions).from_select(list(columns), copied))
        dialect.remove_rows(connection, jobs, some)
    if holders := [row.id for row in rows if row.holds]:
        Keys(tables, dialect).ended(connection, holders)


def plain_text(cause: str) -> str:
    """A cause as every database takes it: one odd character must not fail the batch."""
    return cause.replace("\0", "").encode(errors="replace").decode()[:500]
