"""Copies of PostgreSQL databases: ``CREATE DATABASE … TEMPLATE``, or dump and restore where others are connected."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from duly.errors import CannotTell
from duly.store.copies.guards import allowed
from duly.store.copies.source import BASE, Arguments, Source, TableRows

_WORDS = {"database": "dbname", "username": "user"}
_KNOWN = {
    "dbname", "host", "hostaddr", "options", "passfile", "password", "port", "service", "sslcert", "sslkey", "sslmode",
    "sslrootcert", "user",
}  # fmt: skip
"""What libpq knows, of what is given to any driver."""
_OTHERS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
_TABLES = """
SELECT c.oid, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' ORDER BY 2, 3"""
_COLUMNS = """
SELECT a.attname,
a.attidentity <> '' OR coalesce(pg_get_expr(d.adbin, d.adrelid) ~ '^(nextval|gen_random_uuid|uuid)', false),
a.attnum = ANY(coalesce(i.indkey::int2[], '{}'))
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""
_LINKS = """
SELECT a.attname, n.nspname, c.relname, b.attname FROM pg_constraint k
CROSS JOIN unnest(k.conkey, k.confkey) AS pair(here, there)
JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = pair.here
JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = pair.there
JOIN pg_class c ON c.oid = k.confrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE k.contype = 'f' AND k.conrelid = %s"""


class PostgreSQLDatabase(Source):
    """A database on a PostgreSQL server, of which the role may make databases."""

    def __init__(self, number: int, given: Arguments, folder: Path) -> None:
        super().__init__(number, given, folder)
        self.address = address_of(given)
        with self._connected() as connection:
            row = connection.execute(
                "SELECT current_database(), pg_postmaster_start_time()::text, oid::text "
                "FROM pg_database WHERE datname = current_database()"
            ).fetchone()
        assert row is not None  # noqa: S101 - one is always connected to one
        self.name: str = row[0]
        self.identity = tuple(row)

    @property
    def label(self) -> str:
        """The database's name."""
        return self.name

    def called(self, copy: str) -> str:
        """The name of *copy*."""
        return f"duly_proof_{self.folder.name[-8:].lower()}_{self.number}_{copy}"

    def make_base(self) -> None:
        """By the template, when nobody else is there: a server copies no database in use."""
        with self._connected() as connection:
            row = connection.execute(_OTHERS).fetchone()
            try:
                if row == (0,):
                    return self._create(connection, BASE, self.name)
            except (psycopg.errors.ObjectInUse, psycopg.errors.InsufficientPrivilege):
                pass  # somebody has come meanwhile, or it is not ours to copy
            try:
                self._create(connection, BASE, "template0")
            except psycopg.Error as error:
                raise CannotTell(
                    f"PostgreSQL made no copy of {self.name} ({str(error).strip()}): give the role the right "
                    "CREATEDB, or prove against a server of your own"
                ) from error
        return self._dump_and_restore()

    def make(self, copy: str) -> None:
        """By the template: nobody is connected to the base."""
        with self._connected() as connection:
            self._create(connection, copy, self.called(BASE))

    def remove(self, copy: str) -> None:
        """With all connections to it, of frozen processes too."""
        with self._connected() as connection:
            statement = "DROP DATABASE IF EXISTS {} WITH (FORCE)"
            connection.execute(sql.SQL(statement).format(sql.Identifier(self.called(copy))))

    def aim(self, copy: str, positional: list[Any], named: dict[str, Any]) -> None:
        """The same, with another database name."""
        if positional and positional[0]:
            positional[0] = make_conninfo(str(positional[0]), dbname=self.called(copy))
        else:
            named["database" if "database" in named else "dbname"] = self.called(copy)
        if "conninfo" in named:
            named["conninfo"] = make_conninfo(named["conninfo"], dbname=self.called(copy))

    def tables(self, copy: str) -> Iterator[TableRows]:
        """As PostgreSQL's catalogue has them; those of the schema ``public`` without its name."""
        with self._connected(self.called(copy)) as connection:
            for oid, schema, name in connection.execute(_TABLES).fetchall():
                columns = connection.execute(_COLUMNS, (oid,)).fetchall()
                links = connection.execute(_LINKS, (oid,)).fetchall()
                rows = connection.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(schema, name)))
                yield TableRows(
                    name=_short(schema, name),
                    columns=tuple(column[0] for column in columns),
                    key=tuple(column[0] for column in columns if column[2]),
                    drawn=frozenset(column[0] for column in columns if column[1]),
                    references={here: (_short(there, table), to) for here, there, table, to in links},
                    rows=iter(rows),
                )

    def _connected(self, database: str | None = None) -> closing[psycopg.Connection[Any]]:
        address = make_conninfo(self.address, dbname=database) if database else self.address
        try:
            with allowed():
                return closing(psycopg.connect(address, autocommit=True, connect_timeout=5))
        except psycopg.Error as error:
            raise CannotTell(f"PostgreSQL does not let the prover in ({str(error).strip()})") from error

    def _create(self, connection: psycopg.Connection[Any], copy: str, template: str) -> None:
        names = sql.Identifier(self.called(copy)), sql.Identifier(template)
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*names))

    def _dump_and_restore(self) -> None:
        """Through a file: the dump is one snapshot, and disturbs nobody."""
        programs = [shutil.which("pg_dump"), shutil.which("psql")]
        if None in programs:
            raise CannotTell(
                f"others are connected to {self.name}, and pg_dump and psql are not installed here: let them "
                "disconnect, or install PostgreSQL's client programs"
            )
        dump = self.folder / f"{self.number}.sql"
        base = make_conninfo(self._for_programs(), dbname=self.called(BASE))
        _run(
            programs[0],
            "--no-owner",
            "--no-privileges",
            "--file",
            str(dump),
            f"--dbname={self._for_programs()}",
        )
        _run(
            programs[1],
            "--quiet",
            "--no-psqlrc",
            "--set=ON_ERROR_STOP=1",
            "--file",
            str(dump),
            f"--dbname={base}",
        )
        dump.unlink()

    def _for_programs(self) -> str:
        """The address with its password in a file: every user may read a program's arguments."""
        words: dict[str, Any] = conninfo_to_dict(self.address)
        password = words.pop("password", None)
        if password is not None:
            file = self.folder / f"{self.number}.pgpass"
            file.touch(mode=0o600)
            file.write_text("*:*:*:*:" + str(password).replace("\\", "\\\\").replace(":", "\\:") + "\n")
            words["passfile"] = str(file)
        return make_conninfo(**words)


def address_of(given: Arguments) -> str:
    """What any driver is given, as libpq reads it."""
    first = str(given.positional[0]) if given.positional else str(given.named.get("conninfo") or "")
    named = {_WORDS.get(name, name): value for name, value in given.named.items()}
    return make_conninfo(first, **{name: value for name, value in named.items() if name in _KNOWN and value})


def _short(schema: str, name: str) -> str:
    return name if schema == "public" else f"{schema}.{name}"


def _run(*command: str | None) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise CannotTell(
            f"{Path(str(command[0])).name} made no copy: {words[0] if words else done.returncode}"
        )
