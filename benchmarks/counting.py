"""What a worker asks of its database: every statement that leaves the process, by whatever connection.

Counted at the driver, beneath SQLAlchemy, so that BEGIN and COMMIT are seen, and connections that go past the
engine (a listener's). Each connection writes what it sends to a file of its own:

* SQLite: sqlite3's trace, a line a statement;
* PostgreSQL: libpq's trace of the protocol, where the messages Query and Execute run a statement;
* MySQL: the commands that PyMySQL sends.

``PRAGMA data_version`` is told apart: it reads four bytes of shared memory, and there is no server.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BOUNDS = re.compile(r"\s*(BEGIN|START TRANSACTION|COMMIT|ROLLBACK)\b", re.IGNORECASE)
LOOK = re.compile(r"\s*PRAGMA\s+(\w+\.)?data_version", re.IGNORECASE)
SENT = re.compile(r"(?:[^\t]*\t)?F\t\d+\t(Query|Parse|Execute)\t(.*)")
TEXT = re.compile(r'\s*(?:"[^"]*" )?"(.*)')
"""Of a Query its text; of a Parse the name of the statement, and its text."""

_number = itertools.count()


def count_into(folder: Path) -> None:
    """From now on each new connection of this process, and of those it forks, writes to *folder*."""
    _count_sqlite(folder)
    _count_postgresql(folder)
    _count_mysql(folder)


def counted(folder: Path) -> Counter[str]:
    """So far: ``statements`` (all of them), ``bounds`` (BEGIN, COMMIT, ROLLBACK among these), and ``looks``."""
    return Counter(kind for file in folder.iterdir() for kind in _kinds(file))


def _kinds(file: Path) -> Iterator[str]:
    for line in file.read_text(errors="replace").splitlines():
        if file.suffix == ".protocol":
            yield from _of_message(line)
        elif LOOK.match(line):
            yield "looks"
        else:
            yield "statements"
            if BOUNDS.match(line):
                yield "bounds"


def _of_message(line: str) -> Iterator[str]:
    """A statement goes as Query, or as Parse (its text), Bind and Execute."""
    sent = SENT.match(line)
    if sent is None:
        return
    message, words = sent.groups()
    if message != "Parse":
        yield "statements"
    text = TEXT.match(words)
    if message != "Execute" and text and BOUNDS.match(text[1]):
        yield "bounds"


def _file(folder: Path, kind: str) -> int:
    name = folder / f"{os.getpid()}-{next(_number)}.{kind}"
    return os.open(name, os.O_CREAT | os.O_WRONLY | os.O_APPEND)


def _note(file: int, statement: str) -> None:
    os.write(file, (" ".join(statement.split()) + "\n").encode())


def _count_sqlite(folder: Path) -> None:
    connect = sqlite3.connect

    def connected(*arguments: Any, **named: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **named)
        connection.set_trace_callback(functools.partial(_note, _file(folder, "statements")))
        return connection

    sqlite3.connect = sqlite3.dbapi2.connect = connected  # type: ignore[assignment]


def _count_postgresql(folder: Path) -> None:
    try:
        import psycopg
    except ImportError:
        return
    connect = psycopg.Connection.connect.__func__  # type: ignore[attr-defined]

    def connected(kind: Any, *arguments: Any, **named: Any) -> Any:
        connection = connect(kind, *arguments, **named)
        connection.pgconn.trace(_file(folder, "protocol"))
        return connection

    psycopg.Connection.connect = classmethod(connected)  # type: ignore[assignment, method-assign]
    psycopg.connect = psycopg.Connection.connect


def _count_mysql(folder: Path) -> None:
    try:
        from pymysql.connections import Connection
    except ImportError:
        return
    send = Connection._execute_command

    def sent(connection: Any, command: int, statement: Any) -> Any:
        if not hasattr(connection, "duly_bench_file"):
            connection.duly_bench_file = _file(folder, "statements")
        words = statement.decode(errors="replace") if isinstance(statement, bytes) else str(statement)
        _note(connection.duly_bench_file, words or f"command {command}")
        return send(connection, command, statement)

    Connection._execute_command = sent
