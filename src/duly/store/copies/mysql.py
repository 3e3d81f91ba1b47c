"""Copies of MySQL and MariaDB databases: each table made again, and filled from the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pymysql  # type: ignore[import-untyped, import-not-found, unused-ignore]

from duly.errors import CannotTell
from duly.store.copies.guards import allowed
from duly.store.copies.source import BASE, Arguments, Source, TableRows

_WORDS = {"db": "database", "passwd": "password", "username": "user"}
_KNOWN = ("host", "port", "user", "password", "database", "unix_socket")
_OTHER_THINGS = """
SELECT 'views, sequences or temporal tables' FROM information_schema.tables
WHERE table_schema = DATABASE() AND table_type <> 'BASE TABLE'
UNION SELECT 'triggers' FROM information_schema.triggers WHERE trigger_schema = DATABASE()
UNION SELECT 'routines' FROM information_schema.routines WHERE routine_schema = DATABASE()
UNION SELECT 'events' FROM information_schema.events WHERE event_schema = DATABASE()"""
_COLUMNS = """
SELECT column_name, extra, column_key = 'PRI', coalesce(column_default, '') FROM information_schema.columns
WHERE table_schema = DATABASE() AND table_name = %s ORDER BY ordinal_position"""
_LINKS = """
SELECT column_name, referenced_table_name, referenced_column_name FROM information_schema.key_column_usage
WHERE table_schema = DATABASE() AND table_name = %s AND referenced_table_name IS NOT NULL"""


class MySQLDatabase(Source):
    """A database on a MySQL or MariaDB server, of which the user may make databases."""

    def __init__(self, number: int, given: Arguments, folder: Path) -> None:
        super().__init__(number, given, folder)
        named = {_WORDS.get(name, name): value for name, value in given.named.items()}
        self.address = {name: named[name] for name in _KNOWN if named.get(name)}
        row = self._ask(None, "SELECT DATABASE(), @@hostname, @@port, @@datadir")[0]
        if row[0] is None:
            raise CannotTell("the MySQL URL names no database: write mysql://host/name")
        self.name: str = row[0]
        self.identity = tuple(str(word) for word in row)
        names = [name for (name,) in self._ask(None, "SHOW DATABASES") if not name.startswith("duly_proof_")]
        words = "|".join(re.escape(name) for name in names)
        self._other = re.compile(rf"(?<![\w.`])`?({words})`?\s*\.|\bUSE\s+`?({words})\b", re.IGNORECASE)

    @property
    def label(self) -> str:
        """The database's name."""
        return self.name

    def called(self, copy: str) -> str:
        """The name of *copy*."""
        return f"duly_proof_{self.folder.name[-8:].lower()}_{self.number}_{copy}"

    def make_base(self) -> None:
        """Table by table."""
        if things := self._ask(None, _OTHER_THINGS):
            raise CannotTell(
                f"the database {self.name} has {things[0][0]}, which the prover cannot copy on MySQL or MariaDB"
            )
        try:
            self._copy(self.name, self.called(BASE))
        except pymysql.Error as error:
            raise CannotTell(
                f"the server made no copy of {self.name} ({error.args[-1]}): give the user the right to make "
                "databases, or prove against a server of your own"
            ) from error

    def make(self, copy: str) -> None:
        """From the base, in the same way."""
        self._copy(self.called(BASE), self.called(copy))

    def remove(self, copy: str) -> None:
        """The connections of frozen processes end with their next statement."""
        self._ask(None, f"DROP DATABASE IF EXISTS `{self.called(copy)}`")

    def aim(self, copy: str, positional: list[Any], named: dict[str, Any]) -> None:  # noqa: ARG002
        """The same, with another database name."""
        named["db" if "db" in named else "database"] = self.called(copy)

    def tables(self, copy: str) -> Iterator[TableRows]:
        """As the server's catalogue has them."""
        with self._connected(self.called(copy)) as connection, connection.cursor() as cursor:
            for name in _names(cursor):
                cursor.execute(_COLUMNS, (name,))
                columns = cursor.fetchall()
                cursor.execute(_LINKS, (name,))
                links = {here: (table, there) for here, table, there in cursor.fetchall()}
                cursor.execute(f"SELECT * FROM {_quoted(name)}")  # noqa: S608 # nosec B608
                yield TableRows(
                    name=name,
                    columns=tuple(column[0] for column in columns),
                    key=tuple(column[0] for column in columns if column[2]),
                    drawn=frozenset(
                        c[0] for c in columns if "auto_increment" in c[1] or "uuid" in c[3].lower()
                    ),
                    references=links,
                    rows=iter(cursor.fetchall()),
                )

    def strays(self, statement: str) -> str | None:
        """``other.table`` names another database on the server."""
        found = self._other.search(statement)
        return f"it names the database {found[1] or found[2]}" if found else None

    def _copy(self, source: str, target: str) -> None:
        with self._connected(source) as connection, connection.cursor() as cursor:
            tables = {name: _made(cursor, name) for name in _names(cursor)}
            columns = {name: _stored(cursor, name) for name in tables}
            cursor.execute(f"CREATE DATABASE {_quoted(target)}")
            cursor.execute(f"USE {_quoted(target)}")
            cursor.execute("SET foreign_key_checks = 0, unique_checks = 0")
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            for name, statement in tables.items():
                cursor.execute(statement)
                some = ", ".join(_quoted(column) for column in columns[name])
                into, origin = _quoted(name), f"{_quoted(source)}.{_quoted(name)}"
                cursor.execute(f"INSERT INTO {into} ({some}) SELECT {some} FROM {origin}")  # noqa: S608 # nosec B608

    def _ask(self, database: str | None, question: str) -> list[tuple[Any, ...]]:
        with self._connected(database) as connection, connection.cursor() as cursor:
            cursor.execute(question)
            return list(cursor.fetchall())

    def _connected(self, database: str | None) -> closing[pymysql.Connection[Any]]:
        address: dict[str, Any] = self.address | ({"database": database} if database else {})
        try:
            with allowed():
                return closing(
                    pymysql.connect(**address, autocommit=True, connect_timeout=5, charset="utf8mb4")
                )
        except pymysql.Error as error:
            raise CannotTell(f"the server does not let the prover in ({error.args[-1]})") from error


def _names(cursor: Any) -> list[str]:
    cursor.execute("SHOW FULL TABLES WHERE Table_type = 'BASE TABLE'")
    return sorted(row[0] for row in cursor.fetchall())


def _made(cursor: Any, name: str) -> str:
    """The statement that makes the table, with the next number that it would draw."""
    cursor.execute(f"SHOW CREATE TABLE {_quoted(name)}")
    statement: str = cursor.fetchone()[1]
    return statement


def _stored(cursor: Any, name: str) -> list[str]:
    """The columns that are written, and not computed."""
    cursor.execute(_COLUMNS, (name,))
    return [row[0] for row in cursor.fetchall() if "GENERATED" not in row[1].replace("DEFAULT_GENERATED", "")]


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
