"""Jobs of workers that are gone, and how they are taken back: offered again, made suspects, or ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select, update

from duly.model.report import Ended
from duly.model.states import State
from duly.store.deaths import after_death, after_rescue
from duly.store.dialect.base import StoreDialect
from duly.store.endings import Endings, plain_text
from duly.store.schema import Tables
from duly.store.statements import BATCH, in_state, parts

MOST_RESCUES = 10
"""After so many rescues the next one ends the job as failed."""


@dataclass(slots=True)
class Taken:
    """What became of jobs that were taken back."""

    rows: list[Row[Any]] = field(default_factory=list)
    """All of them, as they were."""
    suspects: list[Row[Any]] = field(default_factory=list)
    """Those that died, and go on as suspects."""
    ended: list[tuple[Row[Any], Ended]] = field(default_factory=list)
    """Those that are over."""

    @property
    def offered(self) -> int:
        """How many were offered again."""
        return len(self.rows) - len(self.suspects) - len(self.ended)


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
        self,
        connection: Connection,
        workers: Sequence[str],
        limit: int = BATCH,
        *,
        started: Mapping[UUID, int] | None = None,
    ) -> Taken:
        """Offer the running jobs of dead *workers* again, at the eleventh rescue end them as failed.

        *started* are the jobs, with their claims, that had started: they are rescued, the others come back as
        if nothing had happened. None: nobody knows which, so all of them are rescued.
        """
        taken = Taken(self._running(connection, workers, limit))
        rescued: list[UUID] = []
        untouched: list[UUID] = []
        for row in taken.rows:
            counts = started is None or started.get(row.id) == row.claim
            end = after_rescue(row, last=counts and row.rescues >= MOST_RESCUES)
            if end is not None:
                taken.ended.append((row, end))
            else:
                (rescued if counts else untouched).append(row.id)
        self._end(connection, taken)
        self._move(connection, rescued, State.AVAILABLE, rescues=self.tables.jobs.c.rescues + 1)
        self._move(connection, untouched, State.AVAILABLE)
        return taken

    def mourn(
        self,
        connection: Connection,
        workers: Sequence[str],
        started: Mapping[UUID, int],
        cause: str,
        limit: int = BATCH,
    ) -> Taken:
        """A process died by itself, of *cause*, as these *workers*: of the jobs that it held some are to blame.

        Only those that had *started*, with that very claim, count a death, and become suspects; the third death
        ends a job as failed. The others come back as if nothing had happened.
        """
        taken = Taken(self._running(connection, workers, limit))
        untouched: list[UUID] = []
        died: list[Row[Any]] = []
        for row in taken.rows:
            blamed = started.get(row.id) == row.claim
            end = after_death(row, cause) if blamed else after_rescue(row, last=False)
            if blamed:
                died.append(row)
            if end is not None:
                taken.ended.append((row, end))
            elif blamed:
                taken.suspects.append(row)
            else:
                untouched.append(row.id)
        self._write_attempts(connection, died, cause)
        self._end(connection, taken, died)
        self._move(
            connection,
            [row.id for row in taken.suspects],
            State.SUSPECT,
            deaths=self.tables.jobs.c.deaths + 1,
        )
        self._move(connection, untouched, State.AVAILABLE)
        return taken

    def _running(self, connection: Connection, workers: Sequence[str], limit: int) -> list[Row[Any]]:
        """Lock what these workers ran.

        Locked rows are passed over: a frozen transaction must not hold up the others; the next look takes
        what it left.
        """
        if not workers:
            return []
        jobs = self.tables.jobs
        theirs = (
            select(jobs, self.dialect.clock.label("now"))
            .where(in_state(jobs.c, "running"), jobs.c.worker.in_(list(workers)))
            .limit(limit)
        )
        return list(connection.execute(self.dialect.lock_rows(theirs, by="jobs_running", skip_locked=True)))

    def _end(self, connection: Connection, taken: Taken, died: Sequence[Row[Any]] = ()) -> None:
        endings, dead = Endings(self.tables, self.dialect), {row.id for row in died}
        for row, end in taken.ended:
            endings.add(row, end, deaths=row.deaths + (row.id in dead))
        endings.write(connection)

    def _move(self, connection: Connection, ids: Sequence[UUID], state: State, **counted: Any) -> None:
        jobs = self.tables.jobs
        for some in parts(ids):
            connection.execute(
                update(jobs).where(jobs.c.id.in_(some)).values(state=state.value, worker=None, **counted)
            )
        if ids and state is State.AVAILABLE:
            self.dialect.wake(connection)

    def _write_attempts(self, connection: Connection, died: Sequence[Row[Any]], cause: str) -> None:
        if died:
            connection.execute(
                self.dialect.insert_or_ignore(self.tables.attempts),
                [
                    {
                        "job_id": row.id,
                        "claim": row.claim,
                        "attempt": row.attempt + 1,
                        "worker": row.worker,
                        "started_at": row.started_at,
                        "ended_at": row.now,
                        "cause": plain_text(cause),
                    }
                    for row in died
                ],
            )
