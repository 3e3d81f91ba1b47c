"""The workers table: who lives. A worker's row exists before its first claim, and is never put back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from duly.store.dialect.base import StoreDialect
from duly.store.schema import Tables


class Workers:
    """Registration, heartbeats, and who is there."""

    def __init__(self, tables: Tables, dialect: StoreDialect) -> None:
        self.tables = tables
        self.dialect = dialect

    def register(self, connection: Connection, worker: str, *, host: str, pid: int, queues: str) -> datetime:
        """Enter a new worker; the database's time, for its first beat."""
        clock = self.dialect.clock
        connection.execute(
            insert(self.tables.workers).values(
                id=worker, host=host[:200], pid=pid, queues=queues, started_at=clock, beat_at=clock
            )
        )
        now: datetime = connection.execute(select(clock)).scalar_one()
        return now

    def beat(self, connection: Connection, worker: str) -> datetime | None:
        """A heartbeat; the database's time, or None when the worker's row is gone and it counts as dead.

        Where liveness is an OS lock the row is only looked at: a beat would have to wait for the
        write lock.
        """
        workers, clock = self.tables.workers, self.dialect.clock
        if self.dialect.beats:
            beat = (
                update(workers)
                .where(workers.c.id == worker)
                .values(beat_at=clock)
                .returning(workers.c.beat_at)
            )
            landed: datetime | None = connection.scalar(beat)
            return landed
        seen: datetime | None = connection.scalar(
            select(clock).select_from(workers).where(workers.c.id == worker)
        )
        return seen

    def remove(self, connection: Connection, workers: Sequence[str]) -> None:
        """Take workers out of the table, when they leave or their supervisor saw them die."""
        connection.execute(delete(self.tables.workers).where(self.tables.workers.c.id.in_(list(workers))))

    def all(self, connection: Connection) -> Sequence[Row[Any]]:
        """All workers, the oldest first, with the database's time as ``now``."""
        workers = self.tables.workers
        return connection.execute(
            select(workers, self.dialect.clock.label("now")).order_by(workers.c.started_at)
        ).all()
