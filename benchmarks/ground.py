"""Where is measured: tables of the benchmark's own in a database, and the worker processes on them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from sqlalchemy import Engine, TextClause, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import DropSchema

from benchmarks.bare import Bare, BarePostgreSQL, BareSQLite
from benchmarks.tasks import Bench, declared
from duly import Duly
from duly.envelope.keys import new_key
from duly.errors import DulyError
from duly.store import make_engine

ROOT = Path(__file__).parents[1]
BATCH = 1_000
LONGEST = 300.0
"""Seconds that a worker may take to empty its queue."""
STANDARD_POSTGRESQL = "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"


class Unusable(Exception):
    """A database cannot be measured; the message says why."""


class Ground(ABC):
    """One database with empty tables of ours, opened plain and with a key."""

    name: str
    settings: dict[str, str]

    def __init__(self, url: str, schema: str | None = None) -> None:
        self.url = url
        self.schema = schema
        self.key = new_key()
        self.engine: Engine = make_engine(url)
        self.plain = self._open(None)
        self.keyed = self._open(self.key)

    def _open(self, key: str | None) -> Bench:
        jobs = Duly(self.engine, schema=self.schema, keys=key)
        jobs.migrate()
        return declared(jobs)

    @abstractmethod
    def bare(self) -> Bare:
        """A connection of the same driver, for statements by hand; to be closed."""

    @abstractmethod
    def leave(self) -> None:
        """Take everything away again."""

    @abstractmethod
    def tidy(self) -> None:
        """Let the database look after its tables (vacuum, statistics), the same before each figure."""

    def clear(self) -> None:
        """Empty tables."""
        tables = self.plain.jobs.store.tables
        with self.engine.begin() as connection:
            for table in (tables.jobs, tables.executions, tables.attempts):
                connection.execute(self._emptied(table.fullname))
        self.tidy()

    def _emptied(self, table: str) -> TextClause:
        return text(f"DELETE FROM {table}")

    def fill(self, bench: Bench, count: int) -> None:
        """Empty tables, then *count* jobs that do nothing."""
        self.clear()
        for start in range(0, count, BATCH):
            numbers = range(start, min(start + BATCH, count))
            bench.jobs.enqueue_many(bench.nothing.call(number) for number in numbers)
        self.tidy()

    # ── workers ───────────────────────────────────────────────────────────────────────────────

    def drain(self, bench: Bench) -> None:
        """One default worker process, until nothing is left."""
        with self.worker("--until-empty", bench=bench) as running:
            try:
                status = running.wait(LONGEST)
            except subprocess.TimeoutExpired:
                raise Unusable(f"the worker did not empty its queue within {LONGEST:g} s") from None
        if status != 0:
            raise Unusable(f"the worker left with exit status {status}")

    @contextmanager
    def worker(
        self, *arguments: str, bench: Bench, keep: Sequence[int] = ()
    ) -> Iterator[subprocess.Popen[bytes]]:
        """One default worker process, beside us; it inherits the file descriptors to *keep*."""
        command = [sys.executable, "-m", "benchmarks.worker", *arguments]
        running = subprocess.Popen(command, cwd=ROOT, env=self._environment(bench), pass_fds=list(keep))
        try:
            yield running
        finally:
            running.send_signal(signal.SIGTERM)  # nothing, when it has left
            running.wait(60)

    def _environment(self, bench: Bench) -> dict[str, str]:
        """A process with the default settings, whatever this shell has set."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DULY_")}
        said = {
            "DULY_DATABASE_URL": self.url,
            "DULY_SCHEMA": self.schema or "",
            "DULY_KEYS": self.key if bench is self.keyed else "",
        }
        return inherited | said


class SQLiteGround(Ground):
    """A new file."""

    name = "sqlite"

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

    def _emptied(self, table: str) -> TextClause:
        return text(f"TRUNCATE {table}")

    def leave(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(DropSchema(self.schema or "", cascade=True, if_exists=True))
        self.engine.dispose()


@contextmanager
def prepared(url: str) -> Iterator[Ground]:
    """Tables for *url* (``sqlite`` alone is a file in a temporary folder); ``Unusable`` says why not."""
    try:
        if url == "sqlite":
            ground: Ground = SQLiteGround()
        elif url.startswith("sqlite:"):
            ground = SQLiteGround(url)
        else:
            ground = PostgreSQLGround(url)
    except (DulyError, DBAPIError) as error:
        raise Unusable(str(error).splitlines()[0]) from error
    try:
        yield ground
    finally:
        ground.leave()
