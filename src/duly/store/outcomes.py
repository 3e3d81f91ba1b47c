"""How attempts ended otherwise than by success: retries, put-backs, releases and bad ends, written under the fence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, bindparam, select, update

from duly.model.report import Ended, PutBack, Released
from duly.model.states import Outcome, State
from duly.store.dialect.base import StoreDialect
from duly.store.endings import Endings, plain_text
from duly.store.schema import Tables
from duly.store.statements import parts


@dataclass(slots=True)
class Settled:
    """What became of outcomes other than success: ``lost`` their fence, or ended as ``expired`` instead."""

    lost: set[UUID] = field(default_factory=set)
    expired: set[UUID] = field(default_factory=set)


class Outcomes:
    """Settles reports: only where (id, worker, claim) still matches."""

    def __init__(self, tables: Tables, dialect: StoreDialect) -> None:
        self.tables = tables
        self.dialect = dialect

    def settle(
        self, connection: Connection, worker: str, reports: Sequence[Ended | PutBack | Released]
    ) -> Settled:
        """Record retries, put-backs, releases and bad ends: lock the rows that are still ours, then write."""
        held = self._held(connection, worker, [report.id for report in reports])
        settled, endings, updates, attempts = Settled(), Endings(self.tables, self.dialect), [], []
        for report in reports:
            row = held.pop((report.id, report.claim), None)
            if row is None:
                settled.lost.add(report.id)
                continue
            if isinstance(report, PutBack) and _too_late(report, row):
                settled.expired.add(report.id)
                report = _expired_instead(report)  # noqa: PLW2901 - from here on it is that report
            match report:
                case Ended():
                    endings.add(row, report)
                case PutBack() | Released():
                    updates.append(_given_back(report, row))
            if not isinstance(report, Released) and report.counted:
                attempts.append(_attempt(report, row, worker))
        self._write_attempts(connection, attempts)
        endings.write(connection)
        self._update(connection, updates)
        settled.lost -= self._already_recorded(connection, reports, settled.lost)
        return settled

    def _held(
        self, connection: Connection, worker: str, ids: Sequence[UUID]
    ) -> dict[tuple[UUID, int], Row[Any]]:
        jobs = self.tables.jobs
        held: dict[tuple[UUID, int], Row[Any]] = {}
        for some in parts(ids):
            mine = select(jobs, self.dialect.clock.label("now")).where(
                jobs.c.id.in_(some), jobs.c.worker == worker
            )
            rows = connection.execute(self.dialect.lock_rows(mine))
            held |= {(row.id, row.claim): row for row in rows}
        return held

    def _already_recorded(
        self, connection: Connection, reports: Sequence[Ended | PutBack | Released], lost: set[UUID]
    ) -> set[UUID]:
        """Of outcomes that met no row: those that stand already, and releases, which lose nothing."""
        if not lost:
            return set()
        claims = {r.id: r.claim for r in reports}
        known = {
            r.id for r in reports if isinstance(r, Released) or (isinstance(r, PutBack) and not r.counted)
        }
        ledger, attempts = self.tables.executions.c, self.tables.attempts.c
        for column, claim in ((ledger.job_id, ledger.claim), (attempts.job_id, attempts.claim)):
            for row in connection.execute(select(column.label("id"), claim).where(column.in_(list(lost)))):
                if claims[row.id] == row.claim:
                    known.add(row.id)
        return known

    def _write_attempts(self, connection: Connection, attempts: list[dict[str, Any]]) -> None:
        if attempts:
            connection.execute(self.dialect.insert_or_ignore(self.tables.attempts), attempts)

    def _update(self, connection: Connection, updates: list[dict[str, Any]]) -> None:
        if updates:
            jobs = self.tables.jobs
            moved: dict[str, Any] = {
                name: bindparam(f"new_{name}") for name in ("state", "run_at", "attempt")
            }
            connection.execute(
                update(jobs)
                .where(jobs.c.id == bindparam("job"))
                .values(worker=None, started_at=None, **moved),
                updates,
            )


def _too_late(report: PutBack, row: Row[Any]) -> bool:
    return bool(_when(report, row) >= row.expires_at)


def _when(report: PutBack, row: Row[Any]) -> datetime:
    now: datetime = row.now
    if report.at is not None:
        return max(report.at, now)
    try:
        return now + (report.after or timedelta(0))
    except OverflowError:
        return datetime.max.replace(tzinfo=now.tzinfo)


def _expired_instead(report: PutBack) -> Ended:
    cause = f"{report.cause}; the next attempt could only come after expires_at"
    return Ended(
        report.id, report.claim, Outcome.EXPIRED, cause, report.counted, report.started_at, report.error
    )


def _given_back(report: PutBack | Released, row: Row[Any]) -> dict[str, Any]:
    if isinstance(report, Released):
        return {"job": row.id, "new_state": "available", "new_run_at": row.run_at, "new_attempt": row.attempt}
    at = _when(report, row)
    return {
        "job": row.id,
        "new_state": (State.SCHEDULED if at > row.now else State.AVAILABLE).value,
        "new_run_at": at,
        "new_attempt": row.attempt + report.counted,
    }


def _attempt(report: Ended | PutBack, row: Row[Any], worker: str) -> dict[str, Any]:
    return {
        "job_id": row.id,
        "claim": row.claim,
        "attempt": row.attempt + 1,
        "worker": worker,
        "started_at": report.started_at,
        "ended_at": row.now,
        "cause": plain_text(report.cause),
        "error": report.error,
    }
