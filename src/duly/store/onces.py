"""What happens once, whatever job asks: a row of the keys table in the asker's own transaction."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, update

from duly.model.unique import Until
from duly.store.dialect.base import StoreDialect
from duly.store.schema import Tables


class Onces:
    """The rows of the keys table that belong to nobody."""

    def __init__(self, tables: Tables, dialect: StoreDialect) -> None:
        self.tables = tables
        self.dialect = dialect

    def take(self, connection: Connection, key: str, job: UUID, until: datetime | None) -> bool:
        """Whether nobody has taken *key*, or its time is over; taken by *job* then, for ever or *until*.

        The insert waits where a transaction that has taken it is under way: it passes over the row when that
        commits, and takes the key when it is rolled back.
        """
        keys = self.tables.keys
        mine = {"job_id": job, "until": Until.EVER.value, "until_at": until}
        if self.dialect.insert_fresh(connection, keys, {"key": key, **mine}):
            return True
        over = update(keys).where(keys.c.key == key, keys.c.until_at <= self.dialect.clock)
        return bool(connection.execute(over.values(**mine)).rowcount)
