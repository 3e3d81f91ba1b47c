"""Savepoints on SQLite that are real ones.

sqlite3 begins no transaction for SAVEPOINT, so releasing the outermost one *commits*, and a later
rollback undoes nothing. A BEGIN before it mends that.
"""

from __future__ import annotations

import weakref
from typing import Any

from sqlalchemy import Connection, Engine, Transaction, event


def make_real(engine: Engine) -> None:
    """From now on, on all connections of this engine."""
    event.listen(engine, "savepoint", _begin_before_savepoint)


def are_real(connection: Connection) -> bool:
    """Whether the transaction that *connection* is in was begun before its first savepoint was set."""
    return connection.get_transaction() in _REAL_SAVEPOINTS


_REAL_SAVEPOINTS: weakref.WeakSet[Transaction] = weakref.WeakSet()
"""Transactions that were begun in the database before their first savepoint was set."""


def _begin_before_savepoint(connection: Connection, name: str | None) -> None:  # noqa: ARG001
    if connection.in_nested_transaction():
        return  # what counts is the outermost one
    driver: Any = connection.connection.driver_connection
    if not driver.in_transaction:
        connection.exec_driver_sql("BEGIN")
    transaction = connection.get_transaction()
    if transaction is not None:
        _REAL_SAVEPOINTS.add(transaction)
