"""Where is measured: tables of the benchmark's own in a database, and the worker processes on them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path

from sqlalchemy import Engine, Table, TextClause, func, select, text

from benchmarks.bare import Bare, Row
from benchmarks.tasks import Bench, declared
from duly import Duly
from duly.envelope.keys import new_key
from duly.store import make_engine

ROOT = Path(__file__).parents[1]
BATCH = 1_000
LOADED = 10_000
LONGEST = 300.0
"""Seconds that a worker may take to empty its queue."""


class Unusable(Exception):
    """A database cannot be measured; the message says why."""


class Ground(ABC):
    """One database with empty tables of ours, opened plain and with a key."""

    name: str
    settings: dict[str, str]
    snapshot: tuple[str, ...]
    """What opens a transaction that keeps its snapshot."""

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

    def forget(self) -> None:
        """Empty the ledger; unfinished jobs stay."""
        with self.engine.begin() as connection:
            connection.execute(self._emptied(self._ledger.fullname))

    def load(self, bare: Bare, rows: Iterable[Row]) -> None:
        """Empty tables, then *rows* by the fastest way."""
        self.clear()
        self.add(bare, rows)

    def add(self, bare: Bare, rows: Iterable[Row]) -> None:
        """*rows* by the fastest way."""
        waiting = iter(rows)
        while some := list(islice(waiting, LOADED)):
            bare.begin()
            bare.insert_many(some)
            bare.commit()

    def make_stamp(self, place: int, pipe: int) -> None:
        """Turn the job at that place of the line (from 1) into one that says *place* when it starts."""
        jobs = self.plain.jobs.store.tables.jobs
        written = self.plain.stamp.enqueue(place, pipe).id
        with self.engine.begin() as connection:
            stamp = connection.execute(select(jobs).where(jobs.c.id == written)).mappings().one()
            connection.execute(jobs.delete().where(jobs.c.id == written))
            line = select(jobs.c.id).where(jobs.c.state == "available")
            line = line.order_by(jobs.c.priority, jobs.c.run_at, jobs.c.id).limit(1).offset(place - 1)
            there = connection.scalar(line)
            if there is None:
                raise Unusable(f"fewer than {place:,} jobs are in line")
            content = {name: stamp[name] for name in ("task", "fingerprint", "digest", "envelope")}
            connection.execute(jobs.update().where(jobs.c.id == there).values(content))

    def available(self) -> int:
        """How many jobs could start now."""
        jobs = self.plain.jobs.store.tables.jobs
        with self.engine.connect() as connection:
            count = select(func.count()).select_from(jobs).where(jobs.c.state == "available")
            return connection.scalar(count) or 0

    @contextmanager
    def old_snapshot(self) -> Iterator[None]:
        """Meanwhile somebody holds a transaction that still sees everything as it is now."""
        connection = self.engine.raw_connection()
        try:
            cursor = connection.cursor()
            for statement in self.snapshot:
                cursor.execute(statement.format(jobs=self.plain.jobs.store.tables.jobs.fullname))
                if cursor.description:
                    cursor.fetchall()
            yield
        finally:
            connection.rollback()
            connection.close()

    # ── the ledger ────────────────────────────────────────────────────────────────────────────

    def recorded(self) -> int:
        """How many jobs have ended."""
        with self.engine.connect() as connection:
            return connection.scalar(select(func.count()).select_from(self._ledger)) or 0

    def endings(self) -> tuple[datetime, list[tuple[datetime, int]]]:
        """When the first job started, and how many were recorded as succeeded at each moment since."""
        ledger = self._ledger.c
        done = ledger.outcome == "succeeded"
        with self.engine.connect() as connection:
            start = connection.execute(select(func.min(ledger.started_at)).where(done)).scalar_one()
            moments = select(ledger.ended_at, func.count()).where(done)
            rows = connection.execute(moments.group_by(ledger.ended_at).order_by(ledger.ended_at)).all()
        if start is None:
            raise Unusable("no job succeeded")
        return start, [(moment, count) for moment, count in rows]

    def by_worker(self, task: str) -> list[int]:
        """How many jobs of *task* each worker has recorded."""
        ledger = self._ledger.c
        shares = select(func.count()).where(ledger.task == task).group_by(ledger.worker)
        with self.engine.connect() as connection:
            return list(connection.scalars(shares))

    def span(self, task: str | None = None) -> float:
        """Seconds from the first start to the last record, of *task* or of all jobs."""
        ledger = self._ledger.c
        ends = select(func.min(ledger.started_at), func.max(ledger.ended_at))
        with self.engine.connect() as connection:
            first, last = connection.execute(ends if task is None else ends.where(ledger.task == task)).one()
        return float((last - first).total_seconds())

    def members(self) -> int:
        """How many workers have a row."""
        with self.engine.connect() as connection:
            return (
                connection.scalar(select(func.count()).select_from(self.plain.jobs.store.tables.workers)) or 0
            )

    @property
    def _ledger(self) -> Table:
        return self.plain.jobs.store.tables.executions

    # ── workers ───────────────────────────────────────────────────────────────────────────────

    def drain(self, bench: Bench, *options: str) -> None:
        """One default worker process, until nothing is left."""
        with self.worker("--until-empty", *options, bench=bench) as running:
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
