"""What the numbers of MySQL's errors mean to Duly."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError

from duly.errors import DatabaseBusy, DulyError, SchemaError
from duly.store.dialect.base import unavailable

DEADLOCK = 1213
REPEAT = {DEADLOCK, 1020, 1412, 1614}  # deadlocks; the row, the table has changed since
BUSY = {1205, 1317, 1969, 3024, 3572}  # lock wait or statement too long, interrupted, lock not available
MISSING = {1054, 1146}  # column, table
GONE = {
    0,  # the driver's own: the connection is closed
    1021, 1041, 1114,  # the disk, the memory, a table is full
    1040, 1203, 1226,  # too many connections
    1044, 1045, 1049, 1130,  # not let in, no such database
    1053, 1077, 1079, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 4031,  # shutting down, or cut off
    1047,  # a cluster's node that is not ready
    1290, 1792, 1836,  # read-only, since a failover
    2002, 2003, 2005, 2006, 2012, 2013, 2026, 2055,  # the client's words for it
}  # fmt: skip
DUPLICATE = 1062
NO_SAVEPOINT = 1305


def translate(error: DBAPIError) -> DulyError | None:
    """Duly's error for the driver's; None where it has none."""
    code = code_of(_first(error))
    if error.connection_invalidated or code in GONE:
        return unavailable(error)
    if code in REPEAT:
        return DatabaseBusy(f"the database has undone the transaction ({code}); repeat it", repeat=True)
    if code in BUSY:
        return DatabaseBusy(
            f"a lock was not granted in time, or a statement took too long ({code}); try again"
        )
    if code in MISSING:
        return SchemaError("Duly's tables are not there: run `duly migrate`")
    return None


def _first(error: DBAPIError) -> DBAPIError:
    """A deadlock undoes savepoints too: going back to one fails then, and the error before it tells why."""
    found: BaseException | None = error
    while code_of(error) == NO_SAVEPOINT and found is not None:
        found = found.__context__
        if isinstance(found, DBAPIError):
            error = found
    return error


def code_of(error: DBAPIError) -> int | None:
    """The server's number, or the client's."""
    first = next(iter(getattr(error.orig, "args", ())), None)
    return first if isinstance(first, int) else None
