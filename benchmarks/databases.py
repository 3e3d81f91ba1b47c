"""The databases that are measured: SQLite in a file, a schema in PostgreSQL, a database in MySQL or MariaDB."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from sqlalchemy import TextClause, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.schema import DropSchema

from benchmarks.bare import Bare, BareMySQL, BarePostgreSQL, BareSQLite
from benchmarks.ground import Ground, Unusable
from duly.errors import DulyError
from duly.store import make_engine

STANDARD_POSTGRESQL = "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"
STANDARD_MYSQL = "mysql+pymysql://root@127.0.0.1:3306/mysql"


class SQLiteGround(Ground):
    """A new file."""

    name = "sqlite"
    snapshot = ("BEGIN", "SELECT id FROM {jobs} LIMIT 1")

    def __init__(self, url: str | None = None) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if url is None:
            self._folder = tempfile.TemporaryDirectory(prefix="duly-bench-")
            url = f"sqlite:///{self._folder.name}/bench.db"
        elif Path(make_url(url).database or "").exists():
            raise Unusable("the benchmark makes its own file, and this one exists already")
        super().__init__(url)
        with self.engine.connect() as connection:
            version = connection.exec_driver_sql("SELECT sqlite_version()").scalar_one()
            journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
        self.settings = {"version": version, "journal_mode": journal, "synchronous": "full"}

    def bare(self) -> Bare:
        return BareSQLite(self.engine, self.plain.jobs.store.tables)

    def tidy(self) -> None:
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def leave(self) -> None:
        self.engine.dispose()
        if self._folder is not None:
            self._folder.cleanup()


class PostgreSQLGround(Ground):
    """A schema of our own, dropped afterwards."""

    name = "postgresql"
    snapshot = ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT 1 FROM pg_class LIMIT 1")

    def __init__(self, url: str) -> None:
        super().__init__(url, f"duly_bench_{uuid4().hex[:12]}")
        shown = (
            "server_version",
            "fsync",
            "synchronous_commit",
            "wal_sync_method",
            "shared_buffers",
            "autovacuum",
        )
        with self.engine.connect() as connection:
            self.settings = {name: connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in shown}

    def bare(self) -> Bare:
        return BarePostgreSQL(self.engine, self.plain.jobs.store.tables)

    def tidy(self) -> None:
        tables = self.plain.jobs.store.tables
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for table in (tables.jobs, tables.executions):
                connection.exec_driver_sql(f"VACUUM (ANALYZE) {table.fullname}")

    @contextmanager
    def old_snapshot(self) -> Iterator[None]:
        """And autovacuum keeps away from the jobs, as it may when it does not keep up."""
        jobs = text(
            f"ALTER TABLE {self.plain.jobs.store.tables.jobs.fullname} SET (autovacuum_enabled = off)"
        )
        back = text(f"ALTER TABLE {self.plain.jobs.store.tables.jobs.fullname} RESET (autovacuum_enabled)")
        with self.engine.begin() as connection:
            connection.execute(jobs)
        try:
            with super().old_snapshot():
                yield
        finally:
            with self.engine.begin() as connection:
                connection.execute(back)

    def _emptied(self, table: str) -> TextClause:
        return text(f"TRUNCATE {table}")

    def leave(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(DropSchema(self.schema or "", cascade=True, if_exists=True))
        self.engine.dispose()


class MySQLGround(Ground):
    """A database of our own beside the one in the URL, dropped afterwards."""

    name = "mysql"
    snapshot = (
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "START TRANSACTION WITH CONSISTENT SNAPSHOT",
    )

    def __init__(self, url: str) -> None:
        self._database = f"duly_bench_{uuid4().hex[:12]}"
        self._server = make_engine(url).execution_options(isolation_level="AUTOCOMMIT")
        self._ask(f"CREATE DATABASE {self._database}")
        try:
            own = make_url(url).set(database=self._database)
            super().__init__(own.render_as_string(hide_password=False))
        except BaseException:
            self._drop()
            raise
        shown = ("version", "innodb_flush_log_at_trx_commit", "innodb_buffer_pool_size", "log_bin")
        with self.engine.connect() as connection:
            self.settings = {
                name: str(connection.exec_driver_sql(f"SELECT @@{name}").scalar_one()) for name in shown
            }

    def bare(self) -> Bare:
        return BareMySQL(self.engine, self.plain.jobs.store.tables)

    def tidy(self) -> None:
        tables = self.plain.jobs.store.tables
        for table in (tables.jobs, tables.executions):
            self._ask(f"ANALYZE TABLE {self._database}.{table.name}")

    def _emptied(self, table: str) -> TextClause:
        return text(f"TRUNCATE {table}")

    def leave(self) -> None:
        self.engine.dispose()
        self._drop()

    def _drop(self) -> None:
        self._ask(f"DROP DATABASE IF EXISTS {self._database}")
        self._server.dispose()

    def _ask(self, statement: str) -> None:
        with self._server.connect() as connection:
            connection.exec_driver_sql(statement)


KINDS: dict[str, type[SQLiteGround | PostgreSQLGround | MySQLGround]] = {
    "sqlite": SQLiteGround,
    "postgresql": PostgreSQLGround,
    "mysql": MySQLGround,
    "mariadb": MySQLGround,
}


@contextmanager
def prepared(url: str) -> Iterator[Ground]:
    """Tables for *url* (``sqlite`` alone is a file in a temporary folder); ``Unusable`` says why not."""
    try:
        ground = SQLiteGround() if url == "sqlite" else _kind(url)(url)
    except (DulyError, DBAPIError) as error:
        raise Unusable(str(error).splitlines()[0]) from error
    try:
        yield ground
    finally:
        ground.leave()


def _kind(url: str) -> type[SQLiteGround | PostgreSQLGround | MySQLGround]:
    try:
        backend = make_url(url).get_backend_name()
    except ArgumentError:
        raise Unusable("this is no database URL") from None
    if backend not in KINDS:
        raise Unusable(f"no benchmark for {backend}")
    return KINDS[backend]
