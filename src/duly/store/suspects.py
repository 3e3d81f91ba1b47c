"""Suspects: jobs that ran when their worker died by itself. They wait apart, and are claimed one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, select, update

from duly.model.job import ClaimedJob
from duly.model.report import Ended, Report
from duly.model.states import Outcome, State
from duly.store.dialect.base import CLAIMED, Exchanged, Position, StoreDialect
from duly.store.endings import Endings
from duly.store.jobs import Jobs
from duly.store.outcomes import Settled
from duly.store.schema import Tables
from duly.store.statements import BATCH, in_state


class Suspects:
    """The jobs in state ``suspect``. There are few, if any, and an index of their own finds them."""

    def __init__(self, tables: Tables, dialect: StoreDialect, jobs: Jobs) -> None:
        self.tables = tables
        self.dialect = dialect
        self.jobs = jobs

    def look(self, connection: Connection) -> tuple[list[str], bool]:
        """The queues that have suspects, and whether the time of any has passed."""
        jobs = self.tables.jobs.c
        past = (
            select(jobs.id).where(in_state(jobs, "suspect"), jobs.expires_at <= self.dialect.clock).limit(1)
        )
        queues = self.queues(connection)
        return queues, bool(queues) and connection.scalar(past) is not None

    def queues(self, connection: Connection) -> list[str]:
        """The queues that have suspects."""
        jobs = self.tables.jobs.c
        return list(connection.scalars(select(jobs.queue).where(in_state(jobs, "suspect")).distinct()))

    def expire(self, connection: Connection, limit: int = BATCH) -> list[Row[Any]]:
        """End suspects whose time has passed; they are returned."""
        jobs, clock = self.tables.jobs, self.dialect.clock
        past = (
            select(jobs, clock.label("now"))
            .where(in_state(jobs.c, "suspect"), jobs.c.expires_at <= clock)
            .limit(limit)
        )
        rows = list(connection.execute(self.dialect.lock_rows(past, by="jobs_claim", skip_locked=True)))
        endings = Endings(self.tables, self.dialect)
        for row in rows:
            cause = "not started again before expires_at"
            endings.add(row, Ended(row.id, row.claim, Outcome.EXPIRED, cause, counted=False))
        endings.write(connection)
        return rows

    def exchange(
        self,
        connection: Connection,
        worker: str,
        reports: Sequence[Report],
        queues: Sequence[str],
        limit: int,
        *,
        after: Mapping[str, Position] | None = None,
        careful: bool = False,
    ) -> tuple[Exchanged, Settled]:
        """As that of ``Jobs``, but what it claims is one suspect, and none while the worker has one."""
        reply, settled = self.jobs.exchange(
            connection, worker, reports, ("",), 0, after=after, careful=careful
        )
        if limit and queues and reply.alive and not self.jobs.held_by(connection, worker):
            job = self._claim(connection, worker, queues)
            if job is not None and self._had_ended(connection, job):
                self.jobs.remove_replayed(connection, worker, [job.id])
                reply.replayed.append(job)
            elif job is not None:
                reply.claimed.append(job)
        return reply, settled

    def _claim(self, connection: Connection, worker: str, queues: Sequence[str]) -> ClaimedJob | None:
        jobs = self.tables.jobs
        best = (
            select(jobs.c.id)
            .where(
                in_state(jobs.c, "suspect"),
                jobs.c.queue.in_(list(queues)),
                jobs.c.expires_at > self.dialect.clock,
            )
            .order_by(jobs.c.priority, jobs.c.run_at, jobs.c.id)
            .limit(1)
        )
        found = connection.scalar(self.dialect.lock_rows(best, by="jobs_claim", skip_locked=True))
        if found is None:
            return None
        connection.execute(
            update(jobs)
            .where(jobs.c.id == found)
            .values(state=State.RUNNING.value, worker=worker, claim=jobs.c.claim + 1, started_at=None)
        )
        row = connection.execute(select(*(jobs.c[name] for name in CLAIMED)).where(jobs.c.id == found)).one()
        return ClaimedJob(*row)

    def _had_ended(self, connection: Connection, job: ClaimedJob) -> bool:
        ledger = self.tables.executions.c
        return connection.scalar(select(ledger.job_id).where(ledger.job_id == job.id)) is not None
