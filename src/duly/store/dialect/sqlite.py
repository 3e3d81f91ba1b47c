"""SQLite: one writer at a time, WAL, BEGIN IMMEDIATE, and an OS lock per worker for liveness."""

from __future__ import annotations

import json
import sqlite3
import weakref
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Insert,
    Select,
    Table,
    TextClause,
    Transaction,
    delete,
    event,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.pool import SingletonThreadPool, StaticPool

from duly.errors import DatabaseBusy, DulyError, InvalidOptions, SchemaError, SettingsError, WrongDatabase
from duly.model.job import ClaimedJob, NewJob
from duly.model.report import Succeeded
from duly.store.dialect.base import BEST_FIRST, CLAIMED, ENDED, Exchanged, StoreDialect, job_row, unavailable
from duly.store.dialect.lives import Lives
from duly.store.schema import Instant, Tables

OLDEST = (3, 35, 0)  # RETURNING
BUSY_TIMEOUT_MS = 5_000

# SQLite's clock has milliseconds; the stored form has six digits, so that text compares as time does.
CLOCK = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"

_RECORD = """
INSERT INTO {executions} (job_id, outcome, attempts, started_at, ended_at, {ended})
SELECT j.id, 'succeeded', j.attempt + 1, json_extract(done.value, '$[2]'), {clock}, {ended_j}
FROM json_each(:done) AS done JOIN {jobs} AS j ON j.id = json_extract(done.value, '$[0]')
WHERE j.worker = :worker AND j.claim = json_extract(done.value, '$[1]')
ON CONFLICT (job_id) DO NOTHING
RETURNING job_id"""

_REMOVE = """
DELETE FROM {jobs} WHERE worker = :worker AND (id, claim) IN (
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:done)
) RETURNING id"""

_ENDED = "SELECT job_id, claim FROM {executions} WHERE job_id IN (SELECT value FROM json_each(:ids))"

_BEST_OF = """
SELECT id, priority, run_at FROM {jobs}
WHERE state = 'available' AND queue = :queue{n} AND run_at <= {clock} AND expires_at > {clock}
ORDER BY priority, run_at, id LIMIT :limit"""

# SQLite merges 500 selections at the most. Beyond MOST_MERGED queues it reads and sorts all that is available.
MOST_MERGED = 100
_BEST_OF_MANY = """
SELECT id, priority, run_at FROM {jobs}
WHERE state = 'available' AND queue IN (SELECT value FROM json_each(:queues))
AND run_at <= {clock} AND expires_at > {clock}"""

_CLAIM = """
UPDATE {jobs} SET state = 'running', claim = claim + 1, worker = :worker
WHERE id IN (SELECT id FROM ({heads}) ORDER BY priority, run_at, id LIMIT :limit)
RETURNING {claimed}"""

_WAITING_QUEUES = """
WITH RECURSIVE seen (queue) AS (
    SELECT * FROM (SELECT queue FROM {jobs} WHERE state = 'available' ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT queue FROM {jobs} WHERE state = 'available' AND queue > seen.queue ORDER BY queue LIMIT 1)
    FROM seen WHERE seen.queue IS NOT NULL
) SELECT queue FROM seen WHERE queue IS NOT NULL"""


class SQLite(StoreDialect):
    """SQLite 3.35 and newer, in a file, through sqlite3 or aiosqlite."""

    name = "sqlite"
    beats = False

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables)
        if sqlite3.sqlite_version_info < OLDEST:
            raise SettingsError(
                f"SQLite {sqlite3.sqlite_version} is too old: Duly needs {'.'.join(map(str, OLDEST))} or newer"
            )
        quote = sqlite.dialect().identifier_preparer.format_table
        self._words = {
            "jobs": quote(tables.jobs),
            "executions": quote(tables.executions),
            "ended": ", ".join(ENDED),
            "ended_j": ", ".join(f"j.{name}" for name in ENDED),
            "claimed": ", ".join(CLAIMED),
            "clock": CLOCK,
        }
        self.record = self._sql(_RECORD)
        self.remove = self._sql(_REMOVE)
        self.ended = self._sql(_ENDED)
        self._waiting_queues = self._sql(_WAITING_QUEUES)
        self._claims: dict[int, TextClause] = {}
        self.lives = Lives()

    def _sql(self, template: str, **more: str) -> TextClause:
        return text(template.format(**self._words, **more))

    def claim(self, queues: int) -> TextClause:
        """The claim over so many queues: the best of each, and of these the best."""
        queues = min(queues, MOST_MERGED + 1)
        if queues > MOST_MERGED and queues not in self._claims:
            self._claims[queues] = self._sql(_CLAIM, heads=_BEST_OF_MANY.format(**self._words))
        elif queues not in self._claims:
            heads = [_BEST_OF.format(**self._words, n=n) for n in range(queues)]
            merged = " UNION ALL ".join(f"SELECT * FROM ({head})" for head in heads)  # noqa: S608 - our own words
            self._claims[queues] = self._sql(_CLAIM, heads=merged)
        return self._claims[queues]

    @property
    def clock(self) -> ColumnElement[datetime]:
        """``strftime(…, 'now')``: the machine's clock, read by the database, in milliseconds."""
        return _CLOCK

    def attach(self, connection: Connection) -> None:
        """WAL, and where the lock files of workers stand: in a folder beside the database file."""
        file = next(
            (row[2] for row in connection.exec_driver_sql("PRAGMA database_list") if row[1] == "main"), ""
        )
        if not file:
            raise SettingsError(
                "an in-memory SQLite database is seen by one connection alone, so no worker could use it; "
                "name a file, e.g. sqlite:///jobs.db"
            )
        if isinstance(connection.engine.pool, StaticPool | SingletonThreadPool):
            raise SettingsError(
                f"this SQLite engine shares one connection ({type(connection.engine.pool).__name__}), so Duly's "
                "transactions would be yours: make the engine without poolclass="
            )
        self.lives.folder = Path(f"{file}.duly")
        _step_out(connection)
        if connection.exec_driver_sql("PRAGMA journal_mode").scalar() != "wal":
            with suppress(OperationalError):  # somebody writes: it is tried again with the next opening
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")

    def begin(self, connection: Connection) -> None:
        """BEGIN IMMEDIATE: a deferred transaction that upgrades fails at once, again and again."""
        _step_out(connection)
        if not connection.info.get("duly_prepared"):
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
            connection.exec_driver_sql("PRAGMA synchronous = FULL")
            connection.info["duly_prepared"] = True
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def join(self, connection: Connection) -> None:
        """See that a transaction is open before anything is written into the caller's one.

        ``WrongDatabase`` inside a savepoint that was there before Duly knew the engine (see ``adopt``).
        """
        if connection.in_nested_transaction() and connection.get_transaction() not in _REAL_SAVEPOINTS:
            raise WrongDatabase(
                "this engine's first enqueue must not be inside a savepoint on SQLite (sqlite3 begins no "
                "transaction before one): enqueue before the savepoint, or open the app before it (app.store)"
            )
        driver = _driver(connection)
        if not driver.in_transaction:
            if driver.isolation_level is None:
                raise InvalidOptions(
                    "the session given is on an AUTOCOMMIT connection, where nothing can be rolled back: give one "
                    "whose transaction is real, or leave session= out"
                )
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    def adopt(self, engine: Engine) -> None:
        """Make savepoints of an application's engine real ones.

        sqlite3 begins no transaction for SAVEPOINT, so releasing the outermost one *commits*, and a
        later rollback undoes nothing. A BEGIN before it mends that.
        """
        event.listen(engine, "savepoint", _begin_before_savepoint)

    def limit_waits(self, connection: Connection, *, lock: float, statement: float, idle: float) -> None:
        """The busy time-out bounds the only wait there is."""

    def begin_task(self, connection: Connection, *, idle: float) -> None:  # noqa: ARG002
        """BEGIN IMMEDIATE; a worker runs one transactional task at a time."""
        self.begin(connection)

    def limit_idle(self, connection: Connection, *, idle: float) -> None:
        """A dead process's transaction is gone at once; a frozen one is killed by its supervisor."""

    def savepoint_is_gone(self, error: BaseException) -> bool:
        """By its message: SQLite has no code for it."""
        return isinstance(error, DBAPIError) and "no such savepoint" in str(error.orig)

    def insert_many(self, connection: Connection, jobs: Sequence[NewJob]) -> bool:
        """One prepared INSERT, run for each row."""
        try:
            with connection.begin_nested():
                connection.execute(self.tables.jobs.insert(), [job_row(job) for job in jobs])
        except IntegrityError:
            return False
        return True

    def insert_or_ignore(self, table: Table) -> Insert:
        """``ON CONFLICT DO NOTHING``."""
        return sqlite.insert(table).on_conflict_do_nothing()

    def exchange(
        self,
        connection: Connection,
        worker: str,
        succeeded: Sequence[Succeeded],
        queues: Sequence[str],
        limit: int,
    ) -> Exchanged:
        """A few statements, since none can write twice; all in one transaction that holds the only write lock."""
        reply = Exchanged(alive=self._alive(connection, worker))
        if succeeded:
            reply.lost = self._record(connection, worker, succeeded)
        if limit and queues and reply.alive:
            names = list(dict.fromkeys(queues))
            named = {f"queue{n}": queue for n, queue in enumerate(names)}
            if len(names) > MOST_MERGED:
                named = {"queues": json.dumps(names)}
            rows = connection.execute(
                self.claim(len(names)), {"worker": worker, "limit": limit, **named}
            ).all()
            ended = self._ended(connection, [row.id for row in rows])
            for row in rows:
                (reply.replayed if row.id in ended else reply.claimed).append(_claimed(row))
        reply.claimed.sort(key=BEST_FIRST)
        return reply

    def _alive(self, connection: Connection, worker: str) -> bool:
        workers = self.tables.workers.c
        return connection.scalar(select(workers.id).where(workers.id == worker)) is not None

    def _record(self, connection: Connection, worker: str, succeeded: Sequence[Succeeded]) -> set[UUID]:
        ids = [str(s.id) for s in succeeded]  # as they are stored: to make a UUID of each reply takes longer
        done = [(id_, s.claim, _stamp(s.started_at)) for id_, s in zip(ids, succeeded, strict=True)]
        handed_in = {"worker": worker, "done": json.dumps(done)}
        written = set(connection.scalars(self.record, handed_in))
        accepted = set(connection.scalars(self.remove, handed_in))
        executions = self.tables.executions
        for id_, s in zip(ids, succeeded, strict=True):
            if s.result is not None and id_ in written:  # a row that was there before never changes
                connection.execute(
                    executions.update().where(executions.c.job_id == s.id).values(result=s.result)
                )
        refused = {id_: s for id_, s in zip(ids, succeeded, strict=True) if id_ not in accepted}
        recorded = self._ended(connection, list(refused))
        return {s.id for id_, s in refused.items() if recorded.get(id_) != s.claim}

    def _ended(self, connection: Connection, ids: Sequence[str]) -> dict[str, int]:
        """Of these ids, those in the ledger, with their claim."""
        if not ids:
            return {}
        rows = connection.execute(self.ended, {"ids": json.dumps(ids)})
        return {row.job_id: row.claim for row in rows}

    def translate(self, error: DBAPIError) -> DulyError | None:
        """By SQLite's messages."""
        words = str(error.orig)
        if "locked" in words or "busy" in words:
            return DatabaseBusy(
                f"another connection is writing to this SQLite database ({words}); if that is your own open "
                "transaction, enqueue inside it: task.using(session=session).enqueue(…)"
            )
        if "no such table" in words or "no such column" in words:
            return SchemaError("Duly's tables are not there: run `duly migrate`")
        if any(
            sign in words for sign in ("unable to open", "disk", "readonly", "not a database", "malformed")
        ):
            return unavailable(error, "see that the file's folder exists, is writable and has room")
        return None

    def waiting_queues(self) -> TextClause:
        """A loose index scan: one probe a queue."""
        return self._waiting_queues

    def lock_rows(self, statement: Select[Any], *, skip_locked: bool = False) -> Select[Any]:  # noqa: ARG002
        """The transaction holds the only write lock already."""
        return statement

    def hold_liveness(self, worker: str) -> None:
        """Take the worker's lock."""
        self.lives.hold(worker)

    def drop_liveness(self, worker: str) -> None:
        """Give it back, and remove its file."""
        self.lives.drop(worker)

    def dead_workers(self, connection: Connection, lease: timedelta, judge: str) -> list[str]:  # noqa: ARG002
        """Those whose lock can be had: their process is gone. No lease has to pass."""
        workers = self.tables.workers
        dead = [
            name
            for name in connection.scalars(select(workers.c.id))
            if name != judge and self.lives.are_over(name)
        ]
        if dead:
            connection.execute(delete(workers).where(workers.c.id.in_(dead)))
        return dead


_CLOCK: ColumnElement[datetime] = literal_column(CLOCK, Instant)


_REAL_SAVEPOINTS: weakref.WeakSet[Transaction] = weakref.WeakSet()
"""Transactions that were begun in the database before their first savepoint was set."""


def _begin_before_savepoint(connection: Connection, name: str | None) -> None:  # noqa: ARG001
    if connection.in_nested_transaction():
        return  # what counts is the outermost one
    if not _driver(connection).in_transaction:
        connection.exec_driver_sql("BEGIN")
    transaction = connection.get_transaction()
    if transaction is not None:
        _REAL_SAVEPOINTS.add(transaction)


def _step_out(connection: Connection) -> None:
    """Begin for SQLAlchemy, and undo what the application's engine has thereby begun in the database.

    Pragmas do not work inside of a transaction, and a deferred one is not what we want.
    """
    if not connection.in_transaction():
        connection.begin()
    if _driver(connection).in_transaction:
        connection.exec_driver_sql("ROLLBACK")


def _driver(connection: Connection) -> Any:
    return connection.connection.driver_connection


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


@lru_cache(1024)  # many jobs of a batch share theirs
def _moment(stamp: str) -> datetime:
    return datetime.fromisoformat(stamp).replace(tzinfo=UTC)


def _claimed(row: Any) -> ClaimedJob:
    (
        identity,
        origin,
        task,
        queue,
        priority,
        claim,
        attempt,
        rescues,
        run_at,
        expires_at,
        enqueued_at,
        *rest,
    ) = row
    id_ = UUID(identity)
    return ClaimedJob(
        id_, id_ if origin == identity else UUID(origin), task, queue, priority, claim, attempt, rescues,
        _moment(run_at), _moment(expires_at), _moment(enqueued_at), *rest,
    )  # fmt: skip
