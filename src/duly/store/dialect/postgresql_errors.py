"""What PostgreSQL's SQLSTATEs mean to Duly."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, IntegrityError

from duly.errors import DatabaseBusy, DulyError, SchemaError
from duly.store.dialect.base import unavailable

UNDONE = {"40P01", "40001"}  # deadlock, serialization: worth repeating at once
PREPARED_ELSEWHERE = {"26000", "42P05"}
BUSY = UNDONE | PREPARED_ELSEWHERE | {"55P03", "57014"}  # lock not available, statement time-out
MISSING = {"42P01", "42703", "3F000"}  # table, column, schema
GONE = ("08", "53", "57P", "25P03")  # connection, resources, shutdown, idle in transaction for too long
READ_ONLY = "25006"  # a standby, since a failover
NO_SAVEPOINT = {"3B001", "25P01"}  # no such savepoint, no transaction
DUPLICATE = "23505"


def translate(error: DBAPIError) -> DulyError | None:
    """Duly's error for the driver's; None where it has none."""
    state = _state(error)
    if error.connection_invalidated or state == READ_ONLY or (state or "").startswith(GONE):
        return unavailable(error)
    if state in BUSY:
        return DatabaseBusy(
            f"a lock was not granted in time, or a deadlock was resolved ({state}); try again",
            repeat=state in UNDONE,
        )
    if state in MISSING:
        return SchemaError("Duly's tables are not there: run `duly migrate`")
    if state is None and type(error.orig).__name__ in {"OperationalError", "InterfaceError"}:
        return unavailable(error)
    return None


def savepoint_is_gone(error: BaseException) -> bool:
    """By SQLSTATE."""
    return isinstance(error, DBAPIError) and _state(error) in NO_SAVEPOINT


def is_duplicate(error: Exception) -> bool:
    """Whether a key was there already; COPY goes past SQLAlchemy, so it may be the driver's own error."""
    if isinstance(error, IntegrityError):
        return _state(error) == DUPLICATE
    return getattr(error, "sqlstate", None) == DUPLICATE


def _state(error: DBAPIError) -> str | None:
    state = getattr(error.orig, "sqlstate", None)
    return state if isinstance(state, str) else None
