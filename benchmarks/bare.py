"""The bare statements, by hand and through the driver alone: what Duly's figures stand beside.

They do what Duly must do at the least (the same rows, the same durability) and nothing else: nothing
is opened, validated, looked up in the ledger or handed to a thread.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Engine

from duly.model.ids import new_id
from duly.store.dialect.base import ENDED
from duly.store.schema import Tables

BATCH = 500
WORKER = "bare"

Row = tuple[Any, ...]


class Bare(ABC):
    """One connection of the driver that Duly uses here."""

    best_bulk: str

    def __init__(self, engine: Engine, tables: Tables) -> None:
        self._pooled = engine.raw_connection()
        self.driver: Any = self._pooled.driver_connection
        self.words = {
            "jobs": tables.jobs.fullname,
            "executions": tables.executions.fullname,
            "ended": ", ".join(ENDED),
            "columns": ", ".join(column.name for column in tables.jobs.columns),
            "marks": ", ".join([self.mark] * len(tables.jobs.columns)),
        }
        self._at = {column.name: place for place, column in enumerate(tables.jobs.columns)}

    mark: str

    def close(self) -> None:
        """Give the connection back."""
        self._pooled.close()

    def drain(self) -> float:
        """Delete + ledger + claim, 500 at a time, until nothing is left; jobs a second."""
        began, count = time.perf_counter(), 0
        held = self.exchange([])
        while held:
            count += len(held)
            held = self.exchange(held)
        return count / (time.perf_counter() - began)

    def template(self) -> Row:
        """A row that Duly has written, as the driver reads it."""
        cursor = self.driver.cursor()
        cursor.execute("SELECT {columns} FROM {jobs} LIMIT 1".format(**self.words))
        row: Row = cursor.fetchone()
        self.driver.commit()
        return row

    def rows(self, template: Row, count: int) -> list[Row]:
        """Such rows, with ids of their own."""
        return [self.row(template) for _ in range(count)]

    def row(self, template: Row) -> Row:
        """Such a row, with an id of its own."""
        row = list(template)
        row[self._at["id"]] = row[self._at["origin"]] = self.identity(new_id())
        return tuple(row)

    def place(self, column: str) -> int:
        """Where a column stands in a row."""
        return self._at[column]

    def identity(self, identity: UUID) -> Any:
        """An id as the driver takes it."""
        return identity

    @abstractmethod
    def exchange(self, held: Sequence[Row]) -> Sequence[Row]:
        """One transaction: record what is held, claim the next batch."""

    def settle(self, statements: Sequence[str], held: Row) -> None:
        """One transaction: the statements of a task, the fence, the ledger row."""
        self.begin()
        cursor = self.driver.cursor()
        for statement in statements:
            cursor.execute(statement)
        self.record(held)
        self.commit()

    @abstractmethod
    def record(self, held: Row) -> None:
        """Remove the row of a job that is held, and write its ledger row; not committed."""

    @abstractmethod
    def insert(self, row: Row) -> None:
        """One row, not committed."""

    @abstractmethod
    def insert_many(self, rows: Sequence[Row]) -> None:
        """Many rows by the fastest way, not committed."""

    @abstractmethod
    def begin(self) -> None:
        """Begin to write, where the driver does not by itself."""

    def commit(self) -> None:
        """Durable now."""
        self.driver.commit()


class BarePostgreSQL(Bare):
    """psycopg: one prepared statement that is its own transaction for the exchange, COPY for many rows.

    Ids go as an array literal, which takes psycopg less time than a list; the planner is kept from reading
    all of a table whose statistics are old.
    """

    mark = "%s"
    best_bulk = "COPY"

    def __init__(self, engine: Engine, tables: Tables) -> None:
        super().__init__(engine, tables)
        self._exchange = """
            WITH gone AS (
                DELETE FROM {jobs} WHERE id = ANY(CAST(%(held)s AS uuid[])) AND worker = %(worker)s RETURNING *
            ), recorded AS (
                INSERT INTO {executions} (job_id, outcome, attempts, ended_at, {ended})
                SELECT id, 'succeeded', attempt + 1, (SELECT clock_timestamp()), {ended} FROM gone
            ), picked AS (
                SELECT id FROM {jobs}
                WHERE queue = 'default' AND state = 'available' AND run_at <= (SELECT clock_timestamp())
                ORDER BY priority, run_at, id LIMIT %(batch)s FOR UPDATE SKIP LOCKED
            ) UPDATE {jobs} SET state = 'running', claim = claim + 1, worker = %(worker)s
            WHERE id = ANY(ARRAY(SELECT id FROM picked)) RETURNING id, task, claim, envelope
            """.format(**self.words)
        self._record = """
            WITH gone AS (
                DELETE FROM {jobs} WHERE id = %s AND worker = 'bare' RETURNING *
            ) INSERT INTO {executions} (job_id, outcome, attempts, ended_at, {ended})
            SELECT id, 'succeeded', attempt + 1, (SELECT clock_timestamp()), {ended} FROM gone
            """.format(**self.words)
        self._insert = "INSERT INTO {jobs} ({columns}) VALUES ({marks})".format(**self.words)
        self._copy = "COPY {jobs} ({columns}) FROM STDIN".format(**self.words)
        self._cursor = self.driver.cursor(binary=True)

    def drain(self) -> float:
        self.driver.autocommit = True
        for setting in ("enable_seqscan", "enable_sort", "enable_nestloop", "jit"):
            self.driver.execute(f"SET {setting} = off")
        try:
            return super().drain()
        finally:
            self.driver.execute("RESET ALL")
            self.driver.autocommit = False

    def exchange(self, held: Sequence[Row]) -> Sequence[Row]:
        ids = ",".join([row[0].hex for row in held])
        given = {"held": f"{{{ids}}}", "worker": WORKER, "batch": BATCH}
        rows: Sequence[Row] = self._cursor.execute(self._exchange, given, prepare=True).fetchall()
        return rows

    def begin(self) -> None:
        pass

    def record(self, held: Row) -> None:
        self._cursor.execute(self._record, (held[0],), prepare=True)

    def insert(self, row: Row) -> None:
        self._cursor.execute(self._insert, row, prepare=True)

    def insert_many(self, rows: Sequence[Row]) -> None:
        with self._cursor.copy(self._copy) as copy:
            for row in rows:
                copy.write_row(row)


class BareSQLite(Bare):
    """sqlite3: three statements in a transaction for the exchange, executemany for many rows."""

    mark = "?"
    best_bulk = "executemany"

    def __init__(self, engine: Engine, tables: Tables) -> None:
        super().__init__(engine, tables)
        self.driver.execute("PRAGMA synchronous = FULL")
        self._record = """
            INSERT INTO {executions} (job_id, outcome, attempts, ended_at, {ended})
            SELECT id, 'succeeded', attempt + 1, strftime('%Y-%m-%d %H:%M:%f000', 'now'), {ended} FROM {jobs}
            WHERE id IN (SELECT value FROM json_each(?)) AND worker = ?
            """.format(**self.words)
        self._remove = """
            DELETE FROM {jobs} WHERE id IN (SELECT value FROM json_each(?)) AND worker = ?
            """.format(**self.words)
        self._claim = """
            UPDATE {jobs} SET state = 'running', claim = claim + 1, worker = ? WHERE id IN (
                SELECT id FROM {jobs} WHERE queue = 'default' AND state = 'available'
                AND run_at <= strftime('%Y-%m-%d %H:%M:%f000', 'now') ORDER BY priority, run_at, id LIMIT ?
            ) RETURNING id, task, claim, envelope
            """.format(**self.words)
        self._insert = "INSERT INTO {jobs} ({columns}) VALUES ({marks})".format(**self.words)

    def identity(self, identity: UUID) -> Any:
        return str(identity)

    def exchange(self, held: Sequence[Row]) -> Sequence[Row]:
        ids = json.dumps([row[0] for row in held])
        self.begin()
        if held:
            self._settle(ids)
        rows: Sequence[Row] = self.driver.execute(self._claim, (WORKER, BATCH)).fetchall()
        self.driver.commit()
        return rows

    def begin(self) -> None:
        self.driver.execute("BEGIN IMMEDIATE")

    def record(self, held: Row) -> None:
        self._settle(json.dumps([held[0]]))

    def _settle(self, ids: str) -> None:
        self.driver.execute(self._record, (ids, WORKER))
        self.driver.execute(self._remove, (ids, WORKER))

    def insert(self, row: Row) -> None:
        self.driver.execute(self._insert, row)

    def insert_many(self, rows: Sequence[Row]) -> None:
        self.driver.executemany(self._insert, rows)


class BareMySQL(Bare):
    """PyMySQL: four statements in a transaction for the exchange, one INSERT for many rows.

    The indexes are named, as in Duly's own statements: left to itself the planner reads the whole table.
    """

    mark = "%s"
    best_bulk = "multi-row INSERT"

    def __init__(self, engine: Engine, tables: Tables) -> None:
        super().__init__(engine, tables)
        by_claim = next(str(index.name) for index in tables.jobs.indexes if "claim" in str(index.name))
        self._cursor = self.driver.cursor()
        self._cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        self._record = """
            INSERT INTO {executions} (job_id, outcome, attempts, ended_at, {ended})
            SELECT id, 'succeeded', attempt + 1, UTC_TIMESTAMP(6), {ended} FROM {jobs} FORCE INDEX (PRIMARY)
            WHERE worker = 'bare' AND id IN (""".format(**self.words)
        self._remove = """
            DELETE FROM gone USING {jobs} AS gone FORCE INDEX (PRIMARY)
            WHERE gone.worker = 'bare' AND gone.id IN (""".format(**self.words)
        self._pick = f"""
            SELECT id, task, claim, envelope FROM {{jobs}} FORCE INDEX ({by_claim})
            WHERE queue = 'default' AND state = 'available' AND run_at <= UTC_TIMESTAMP(6)
            ORDER BY priority, run_at, id LIMIT {BATCH} FOR UPDATE SKIP LOCKED
            """.format(**self.words)
        self._claim = """
            UPDATE {jobs} FORCE INDEX (PRIMARY) SET state = 'running', claim = claim + 1, worker = 'bare'
            WHERE id IN (""".format(**self.words)
        self._insert = "INSERT INTO {jobs} ({columns}) VALUES ({marks})".format(**self.words)

    def identity(self, identity: UUID) -> Any:
        return str(identity)

    def exchange(self, held: Sequence[Row]) -> Sequence[Row]:
        if held:
            self._settle(held)
        self._cursor.execute(self._pick)
        rows: Sequence[Row] = self._cursor.fetchall()
        if rows:
            self._cursor.execute(self._claim + _listed(rows))
        self.driver.commit()
        return rows

    def begin(self) -> None:
        pass

    def record(self, held: Row) -> None:
        self._settle([held])

    def _settle(self, held: Sequence[Row]) -> None:
        self._cursor.execute(self._record + _listed(held))
        self._cursor.execute(self._remove + _listed(held))

    def insert(self, row: Row) -> None:
        self._cursor.execute(self._insert, row)

    def insert_many(self, rows: Sequence[Row]) -> None:
        self._cursor.executemany(self._insert, rows)


def _listed(rows: Sequence[Row]) -> str:
    """Their ids, which are ours, with the bracket that closes the list."""
    return ",".join([f"'{row[0]}'" for row in rows]) + ")"
