"""Faults of a task's own statements that pass by themselves, so that its job may simply be tried again.

The statements may be those of any engine that the task uses, not of the queue's alone; so the driver's error
itself says whose it is.
"""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm.exc import StaleDataError

from duly.errors import DatabaseError
from duly.store.dialect import mysql_errors, postgresql_errors

_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_STATES = postgresql_errors.UNDONE | {postgresql_errors.READ_ONLY, "55P03"}
_CODES = mysql_errors.REPEAT | mysql_errors.GONE | {1205, 3572}
_PRIMARY = 0xFF


def passes(error: BaseException) -> bool:
    """Whether the database was busy or away, or somebody else was faster (a lost optimistic race).

    A deadlock, a serialization failure, a lock that was not granted in time, a lost connection. Not a statement that
    is wrong, nor one that took too long.
    """
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or _says_so(error.orig)
    return isinstance(error, DatabaseError | StaleDataError)


def _says_so(error: BaseException | None) -> bool:
    """By the number of SQLite or MySQL, or by PostgreSQL's SQLSTATE: words may be those of a table or a value."""
    lite = getattr(error, "sqlite_errorcode", None)
    if lite is not None:
        return lite & _PRIMARY in _LOCKED
    first = next(iter(getattr(error, "args", ())), None)
    if isinstance(first, int):
        return first in _CODES
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if isinstance(state, str):
        return state in _STATES or state.startswith(postgresql_errors.GONE)
    return _never_connected(error)


def _never_connected(error: BaseException | None) -> bool:
    """PostgreSQL was not there to say anything."""
    kind = type(error)
    return kind.__name__ == "OperationalError" and kind.__module__.startswith("psycopg")
