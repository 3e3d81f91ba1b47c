"""How attempts ended otherwise than by success: retries, put-backs, releases and bad ends, written under the fence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, bindparam, select, update

from duly.model.report import CANCELLED, Died, Ended, PutBack, Released, Report
from duly.model.states import Outcome, State
from duly.store.deaths import after_death, in_doubt
from duly.store.dialect.base import StoreDialect
from duly.store.endings import Endings, plain_text
from duly.store.schema import Tables
from duly.store.statements import parts

Settling = Ended | PutBack | Died | Released
"""The reports that are settled, one by one."""


@dataclass(slots=True)
class Settled:
    """What became of outcomes that were not simply written.

    ``lost``: their fence was gone. ``expired``: ended so instead of waiting for another attempt.
    ``later``: somebody else has locked the row; hand them in again. ``recorded``: the ledger had an
    outcome of this very claim already. ``ended``: how a job is over that died, was cancelled meanwhile, or must not
    run again; one that is not there goes on.
    """

    lost: set[UUID] = field(default_factory=set)
    expired: set[UUID] = field(default_factory=set)
    later: set[UUID] = field(default_factory=set)
    recorded: dict[UUID, Outcome] = field(default_factory=dict)
    ended: dict[UUID, Ended] = field(default_factory=dict)


class Outcomes:
    """Settles reports: only where (id, worker, claim) still matches."""

    def __init__(self, tables: Tables, dialect: StoreDialect) -> None:
        self.tables = tables
        self.dialect = dialect

    def settle(self, connection: Connection, worker: str, reports: Sequence[Settling]) -> Settled:
        """Record retries, put-backs, releases, deaths and bad ends: lock the rows that are still ours, then write."""
        held = self._held(connection, worker, [report.id for report in reports])
        settled, endings, updates, attempts = Settled(), Endings(self.tables, self.dialect), [], []
        missing: list[Settling] = []
        for report in reports:
            row = held.pop((report.id, report.claim), None)
            if row is None:
                missing.append(report)
                continue
            if (doubt := in_doubt(row, report)) is not None:
                settled.ended[report.id] = report = doubt  # noqa: PLW2901 - as below
            elif row.cancelling and isinstance(report, PutBack | Released):
                settled.ended[report.id] = report = _cancelled_instead(report)  # noqa: PLW2901 - as below
            elif isinstance(report, PutBack) and _too_late(report, row):
                settled.expired.add(report.id)
                report = _expired_instead(report)  # noqa: PLW2901 - from here on it is that report
            match report:
                case Ended():
                    endings.add(row, report)
                case Died() if end := after_death(row, report.cause):
                    settled.ended[report.id] = end = replace(end, started_at=report.started_at)
                    endings.add(row, end, deaths=row.deaths + 1)
                case PutBack() | Released() | Died():
                    updates.append(_given_back(report, row))
            if isinstance(report, Died) or (not isinstance(report, Released) and report.counted):
                attempts.append(_attempt(report, row, worker))
        self._write_attempts(connection, attempts)
        endings.write(connection)
        self._update(connection, updates)
        if missing:
            self._explain(connection, worker, missing, settled)
        return settled

    def free(self, connection: Connection, worker: str, ids: Sequence[UUID]) -> set[UUID]:
        """Lock those rows of *worker* that nobody else has locked; which they are."""
        jobs = self.tables.jobs.c
        mine = (
            select(jobs.id, jobs.claim).where(jobs.id.in_(some), jobs.worker == worker) for some in parts(ids)
        )
        return {
            job for part in mine for job in connection.scalars(self.dialect.lock_rows(part, skip_locked=True))
        }

    def locked(self, connection: Connection, worker: str, reports: Sequence[Report]) -> set[UUID]:
        """Of reports whose rows could not be had: those whose fence still stands, so that others hold the lock."""
        claims = {report.id: report.claim for report in reports}
        jobs = self.tables.jobs.c
        return {
            row.id
            for some in parts(list(claims))
            for row in connection.execute(
                select(jobs.id, jobs.claim).where(jobs.id.in_(some), jobs.worker == worker)
            )
            if row.claim == claims[row.id]
        }

    def _held(
        self, connection: Connection, worker: str, ids: Sequence[UUID]
    ) -> dict[tuple[UUID, int], Row[Any]]:
        jobs = self.tables.jobs
        held: dict[tuple[UUID, int], Row[Any]] = {}
        for some in parts(ids):
            mine = select(jobs, self.dialect.clock.label("now")).where(
                jobs.c.id.in_(some), jobs.c.worker == worker
            )
            rows = connection.execute(self.dialect.lock_rows(mine, skip_locked=True))
            held |= {(row.id, row.claim): row for row in rows}
        return held

    def _explain(
        self,
        connection: Connection,
        worker: str,
        missing: Sequence[Settling],
        settled: Settled,
    ) -> None:
        """Outcomes that met no row: locked by others, recorded before, nothing to lose, or lost."""
        settled.later = self.locked(connection, worker, missing)
        gone = {report.id: report for report in missing if report.id not in settled.later}
        ledger, attempts = self.tables.executions.c, self.tables.attempts.c
        for some in parts(list(gone)):
            ended = select(ledger.job_id, ledger.claim, ledger.outcome).where(ledger.job_id.in_(some))
            for row in connection.execute(ended):
                if gone[row.job_id].claim == row.claim:
                    settled.recorded[row.job_id] = Outcome(row.outcome)
            tried = select(attempts.job_id, attempts.claim).where(attempts.job_id.in_(some))
            known = {row.job_id for row in connection.execute(tried) if gone[row.job_id].claim == row.claim}
            settled.lost |= {
                job
                for job in some
                if job not in known and job not in settled.recorded and _can_be_lost(gone[job])
            }

    def _write_attempts(self, connection: Connection, attempts: list[dict[str, Any]]) -> None:
        if attempts:
            connection.execute(self.dialect.insert_or_ignore(self.tables.attempts), attempts)

    def _update(self, connection: Connection, updates: list[dict[str, Any]]) -> None:
        if updates:
            jobs = self.tables.jobs
            moved: dict[str, Any] = {
                name: bindparam(f"new_{name}")
                for name in ("state", "run_at", "attempt", "deaths", "transients")
            }
            connection.execute(
                update(jobs)
                .where(jobs.c.id == bindparam("job"))
                .values(worker=None, started_at=None, **moved),
                updates,
            )
            if any(row["new_state"] == State.AVAILABLE.value for row in updates):
                self.dialect.wake(connection)  # others may have room for what we had not


def _can_be_lost(report: Settling) -> bool:
    return isinstance(report, Ended | Died) or (isinstance(report, PutBack) and report.counted)


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


def _cancelled_instead(report: PutBack | Released) -> Ended:
    """Somebody has cancelled it while it ran: it does not wait again."""
    if isinstance(report, Released):
        return Ended(report.id, report.claim, Outcome.CANCELLED, "cancelled", counted=False)
    cause = f"{CANCELLED}; {report.cause}"
    return Ended(
        report.id, report.claim, Outcome.CANCELLED, cause, report.counted, report.started_at, report.error
    )


def _given_back(report: PutBack | Released | Died, row: Row[Any]) -> dict[str, Any]:
    as_it_was = {
        "job": row.id,
        "new_state": State.AVAILABLE.value,
        "new_run_at": row.run_at,
        "new_attempt": row.attempt,
        "new_deaths": row.deaths + isinstance(report, Died),
        "new_transients": row.transients,
    }
    if not isinstance(report, PutBack):
        return as_it_was  # a job that dies apart endangers nobody: it need not be a suspect
    at = _when(report, row)
    return as_it_was | {
        "new_state": (State.SCHEDULED if at > row.now else State.AVAILABLE).value,
        "new_run_at": at,
        "new_attempt": row.attempt + report.counted,
        "new_transients": row.transients + report.transient,
    }


def _attempt(report: Ended | PutBack | Died, row: Row[Any], worker: str) -> dict[str, Any]:
    return {
        "job_id": row.id,
        "claim": row.claim,
        "attempt": row.attempt + 1,
        "worker": worker,
        "started_at": report.started_at,
        "ended_at": row.now,
        "cause": plain_text(report.cause),
        "error": None if isinstance(report, Died) else report.error,
    }
