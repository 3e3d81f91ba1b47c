"""Jobs of dead workers, and how they are offered again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, select, update

from duly.model.report import Ended
from duly.model.states import Outcome, State
from duly.store.dialect.base import StoreDialect
from duly.store.endings import Endings
from duly.store.schema import Tables
from duly.store.statements import BATCH, in_state, parts

MOST_RESCUES = 10
"""After so many rescues the next one ends the job as failed."""


class Rescue:
    """Takes jobs back from workers that are gone."""

    def __init__(self, tables: Tables, dialect: StoreDialect) -> None:
        self.tables = tables
        self.dialect = dialect

    def orphaning_workers(self, connection: Connection) -> list[str]:
        """Workers that running rows name, and that are not in the workers table: they are dead.

        Read first, and rescued by name afterwards. As one statement it could take a job from a
        worker that registered and claimed it in between: the locked row is looked at again as it is
        now, the workers as they were.
        """
        jobs, workers = self.tables.jobs.c, self.tables.workers.c
        known = select(workers.id).where(workers.id == jobs.worker).exists()
        return list(
            connection.scalars(select(jobs.worker).where(in_state(jobs, "running"), ~known).distinct())
        )

    def offer_again(
        self, connection: Connection, workers: Sequence[str], limit: int = BATCH
    ) -> list[Row[Any]]:
        """Rescue: offer the running jobs of dead *workers* again, at the eleventh time end them as failed.

        Locked rows are passed over: a frozen transaction must not hold up the others; the next
        look takes what it left.
        """
        if not workers:
            return []
        jobs = self.tables.jobs
        theirs = (
            select(jobs, self.dialect.clock.label("now"))
            .where(in_state(jobs.c, "running"), jobs.c.worker.in_(list(workers)))
            .limit(limit)
        )
        rows = list(connection.execute(self.dialect.lock_rows(theirs, skip_locked=True)))
        endings = Endings(self.tables, self.dialect)
        for row in rows:
            if row.rescues >= MOST_RESCUES:
                cause = f"its worker was lost {row.rescues + 1} times"
                endings.add(row, Ended(row.id, row.claim, Outcome.FAILED, cause, counted=False))
        endings.write(connection)
        again = [row.id for row in rows if row.rescues < MOST_RESCUES]
        for some in parts(again):
            connection.execute(
                update(jobs)
                .where(jobs.c.id.in_(some))
                .values(state=State.AVAILABLE.value, worker=None, started_at=None, rescues=jobs.c.rescues + 1)
            )
        return rows
