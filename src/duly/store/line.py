"""A worker's line to the database: one connection of its own, thrown away when it fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

if TYPE_CHECKING:
    from duly.store.store import Store


class Line:
    """Opened with its first transaction; after an error the next one opens it anew.

    It belongs to one thread and is never shared with listeners or transactional tasks.
    """

    def __init__(self, store: Store, *, lock: float, statement: float, idle: float) -> None:
        self._store = store
        self._limits = {"lock": lock, "statement": statement, "idle": idle}
        self._connection: Connection | None = None

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A write transaction with short time-outs: committed at the end, rolled back by an exception."""
        store = self._store
        try:
            with store.guarded():
                if self._connection is None:
                    self._connection = store.engine.connect()
                store.dialect.begin_limited(self._connection, **self._limits)
                yield self._connection
                self._connection.commit()
        except BaseException:
            self.close()
            raise

    def trust(self) -> None:
        """Notifications reach this worker, so no pooler moves its transactions from session to session.

        Said of the connection that there is now, not of those to come.
        """
        if self._connection is not None:
            self._store.dialect.trust_session(self._connection)

    def news(self) -> bool:
        """Whether others may have written since this was asked last; True where a database cannot tell."""
        return self._connection is None or self._store.dialect.news(self._connection)

    def close(self) -> None:
        """Let go of the connection; a half-done transaction is rolled back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(SQLAlchemyError, OSError):
                if connection.in_transaction():
                    connection.rollback()
            with suppress(SQLAlchemyError, OSError):
                self._store.dialect.end_limited(connection)
            with suppress(SQLAlchemyError, OSError):
                connection.close()
