"""The workers table: who lives. A worker's row exists before its first claim, and is never put back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from duly.store.dialect.base import Held, Pulse, StoreDialect
from duly.store.schema import Tables

__all__ = ["Held", "Pulse", "Workers"]


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

    def pulse(self, connection: Connection, worker: str, lease: timedelta) -> Pulse | None:
        """A heartbeat, and what is to be seen to; None when the worker's row is gone and it counts as dead."""
        return self.dialect.pulse(connection, worker, lease)

    def sleeps(self, connection: Connection, worker: str, asleep: bool) -> None:
        """Say whether enqueues should wake this worker."""
        workers = self.tables.workers
        connection.execute(update(workers).where(workers.c.id == worker).values(asleep=asleep))

    def remove(self, connection: Connection, workers: Sequence[str]) -> None:
        """Take workers out of the table, when they leave or their supervisor saw them die."""
        self.dialect.remove_rows(connection, self.tables.workers, workers)

    def all(self, connection: Connection) -> Sequence[Row[Any]]:
        """All workers, the oldest first, with the database's time as ``now``."""
        workers = self.tables.workers
        return connection.execute(
            select(workers, self.dialect.clock.label("now")).order_by(workers.c.started_at)
        ).all()
