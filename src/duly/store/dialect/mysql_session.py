"""What MySQL is told of isolation and time-outs.

They are variables of the session, which outlive the transaction: what a connection came with is remembered
in its ``info``, and put back when it returns to the pool. So a worker's own connection is told once.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

from sqlalchemy import Connection, ExceptionContext, text
from sqlalchemy.pool import ConnectionPoolEntry

from duly.store.dialect.mysql_errors import DEADLOCK

READ_COMMITTED = "READ-COMMITTED"
LONGEST_IDLE = 31_536_000  # a year, the most that both families take
SAVEPOINT, UNDONE = "duly_savepoint", "duly_undone"
_KEY = "duly_session"


@dataclass(slots=True)
class Session:
    """A connection's isolation level as it came, and its limits as they came and as they are now."""

    level: str
    came: dict[str, Any]
    now: dict[str, Any]


def session_of(connection: Connection) -> Session:
    """What is known of the connection's session; asked once."""
    known: Session | None = connection.info.get(_KEY)
    if known is None:
        mariadb = _is_mariadb(connection)
        names = list(_limits(mariadb, lock=1, statement=1, idle=1))
        level = "tx_isolation" if mariadb else "transaction_isolation"
        asked = ", ".join(f"@@SESSION.{name}" for name in (level, *names))
        row = connection.exec_driver_sql(f"SELECT {asked}").one()
        came = dict(zip(names, row[1:], strict=True))
        known = connection.info[_KEY] = Session(row[0], came, dict(came))
    return known


def limit(connection: Connection, **limits: float) -> None:
    """Bound ``lock``, ``statement`` and ``idle`` (seconds), those that are given, where they are not so already."""
    session = session_of(connection)
    wanted = _limits(_is_mariadb(connection), **limits)
    changed = {name: value for name, value in wanted.items() if session.now[name] != value}
    if changed:
        connection.execute(text(_set(f"{name} = :{name}" for name in changed)), changed)
        session.now.update(changed)


def put_back(driver: Any, entry: ConnectionPoolEntry) -> None:
    """Give the session back as it came; a connection that does not take that is thrown away."""
    for note in (SAVEPOINT, UNDONE):
        entry.info.pop(note, None)
    session: Session | None = entry.info.get(_KEY)
    if driver is None or session is None or session.now == session.came:
        return
    changed = {name: value for name, value in session.came.items() if session.now[name] != value}
    try:
        cursor = driver.cursor()
        cursor.execute(_set(f"{name} = %s" for name in changed), tuple(changed.values()))
        cursor.close()
    except Exception as error:  # noqa: BLE001 - of whatever driver
        entry.invalidate(error)
    else:
        session.now = dict(session.came)


def after_deadlock(context: ExceptionContext) -> None:
    """A deadlock has undone a task's transaction, and nothing is committed: its savepoint is set anew.

    That it is gone means, then, what it means elsewhere: something has ended the transaction.
    """
    connection = context.connection
    if connection is None or context.original_exception.args[:1] != (DEADLOCK,):
        return
    savepoint = connection.info.get(SAVEPOINT)
    if savepoint is not None:
        connection.info[UNDONE] = True
        cursor = connection.connection.cursor()
        cursor.execute(f"SAVEPOINT {savepoint}")
        cursor.close()


def _set(parts: Any) -> str:
    return "SET SESSION " + ", ".join(parts)


def _is_mariadb(connection: Connection) -> bool:
    return bool(getattr(connection.dialect, "is_mariadb", False))


def _limits(
    mariadb: bool, *, lock: float | None = None, statement: float | None = None, idle: float | None = None
) -> dict[str, Any]:
    """Seconds as variables. MySQL bounds SELECTs alone, and knows no limit for idle transactions but for idling."""
    told: dict[str, Any] = {}
    if lock is not None:
        told["innodb_lock_wait_timeout"] = told["lock_wait_timeout"] = max(1, ceil(lock))
    if statement is not None and mariadb:
        told["max_statement_time"] = statement
    elif statement is not None:
        told["max_execution_time"] = ceil(statement * 1000)
    if idle is not None:
        name = "idle_transaction_timeout" if mariadb else "wait_timeout"
        told[name] = min(max(1, ceil(idle)), LONGEST_IDLE)
    return told
