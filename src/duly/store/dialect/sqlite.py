"""SQLite: one writer at a time, WAL, BEGIN IMMEDIATE, and an OS lock per worker for liveness."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Insert,
    Table,
    TextClause,
    delete,
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
from duly.model.states import Outcome
from duly.store.dialect import savepoints, writelock
from duly.store.dialect import sqlite_sql as sql
from duly.store.dialect.base import (
    CLAIMED,
    ENDED,
    Due,
    Exchanged,
    Held,
    Locking,
    Position,
    Pulse,
    StoreDialect,
    Waker,
    job_row,
    unavailable,
)
from duly.store.dialect.lives import Lives
from duly.store.dialect.walwatch import WalWatch
from duly.store.schema import Instant, Tables

OLDEST = (3, 35, 0)  # RETURNING


class SQLite(StoreDialect):
    """SQLite 3.35 and newer, in a file, through sqlite3 or aiosqlite."""

    name = "sqlite"
    beats = False
    rots = False
    one_writer = True

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
            "workers": quote(tables.workers),
            "ended": ", ".join(ENDED),
            "ended_j": ", ".join(f"j.{name}" for name in ENDED),
            "claimed": ", ".join(name for name in CLAIMED if name != "envelope"),
            "clock": sql.CLOCK,
        }
        self.record = self._sql(sql.RECORD)
        self.remove = self._sql(sql.REMOVE)
        self.record_telling = self._sql(sql.RECORD + " RETURNING job_id")
        self.remove_telling = self._sql(sql.REMOVE + " RETURNING id")
        self.hold = self._sql(sql.HOLD)
        self.ended = self._sql(sql.ENDED)
        self._waiting_queues = self._sql(sql.WAITING_QUEUES)
        self._pulse = self._sql(sql.PULSE)
        self._picks: dict[int, TextClause] = {}
        self.lives = Lives()

    def _sql(self, template: str, **more: str) -> TextClause:
        return text(template.format(**self._words, **more))

    def pick(self, queues: int) -> TextClause:
        """What to claim of so many queues: the best of each, and of these the best."""
        queues = min(queues, sql.MOST_MERGED + 1)
        if queues > sql.MOST_MERGED and queues not in self._picks:
            self._picks[queues] = self._sql(sql.PICK, heads=sql.BEST_OF_MANY.format(**self._words))
        elif queues not in self._picks:
            heads = [sql.BEST_OF.format(**self._words, n=n) for n in range(queues)]
            merged = " UNION ALL ".join(f"SELECT * FROM ({head})" for head in heads)  # noqa: S608 - our own words
            self._picks[queues] = self._sql(sql.PICK, heads=merged)
        return self._picks[queues]

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
            writelock.be_patient(connection)
            connection.exec_driver_sql("PRAGMA synchronous = FULL")
            connection.info["duly_prepared"] = True
        writelock.take(connection)

    def begin_limited(self, connection: Connection, *, lock: float, statement: float, idle: float) -> None:  # noqa: ARG002
        """The line's connection looks for the lock itself for as long as it is the line's."""
        if writelock.is_patient(connection):
            self.begin(connection)
            writelock.be_impatient(connection)
        else:
            _step_out(connection)
            writelock.take(connection)

    def end_limited(self, connection: Connection) -> None:
        """SQLite waits on it again, as whoever uses it next expects."""
        if not writelock.is_patient(connection):
            writelock.be_patient(connection)

    def join(self, connection: Connection) -> None:
        """See that a transaction is open before anything is written into the caller's one.

        ``WrongDatabase`` inside a savepoint that was there before Duly knew the engine (see ``adopt``).
        """
        if connection.in_nested_transaction() and not savepoints.are_real(connection):
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
        """Make savepoints of an application's engine real ones."""
        savepoints.make_real(engine)

    def limit_waits(self, connection: Connection, *, lock: float, statement: float, idle: float) -> None:
        """The busy time-out bounds the only wait there is."""

    def limit_task(self, connection: Connection, *, statement: float, idle: float) -> None:
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
        after: Mapping[str, Position],  # noqa: ARG002 - no index rots here
    ) -> Exchanged:
        """A few statements, since none can write twice; all in one transaction that holds the only write lock."""
        reply = Exchanged(alive=self._alive(connection, worker))
        if succeeded:
            reply.lost = self._record(connection, worker, succeeded)
        if limit and queues and reply.alive:
            self._claim(connection, worker, queues, limit, reply)
        return reply

    def _alive(self, connection: Connection, worker: str) -> bool:
        workers = self.tables.workers.c
        return connection.scalar(select(workers.id).where(workers.id == worker)) is not None

    def _claim(
        self, connection: Connection, worker: str, queues: Sequence[str], limit: int, reply: Exchanged
    ) -> None:
        names = list(dict.fromkeys(queues))
        named = {f"queue{n}": queue for n, queue in enumerate(names)}
        if len(names) > sql.MOST_MERGED:
            named = {"queues": json.dumps(names)}
        rows = json.loads(connection.scalar(self.pick(len(names)), {"limit": limit, **named}) or "[]")
        if not rows:
            return
        ids = [row[0] for row in rows]
        connection.execute(self.hold, {"ids": json.dumps(ids), "worker": worker})
        ended = self._ended(connection, ids)
        rows.sort(key=_BEST_FIRST)
        for row in rows:
            (reply.replayed if row[0] in ended else reply.claimed).append(_claimed(row))

    def _record(self, connection: Connection, worker: str, succeeded: Sequence[Succeeded]) -> set[UUID]:
        ids = [str(s.id) for s in succeeded]  # as they are stored: to make a UUID of each reply takes longer
        done = [(id_, s.claim, _stamp(s.started_at)) for id_, s in zip(ids, succeeded, strict=True)]
        handed_in = {"worker": worker, "done": json.dumps(done)}
        kept = [s for s in succeeded if s.result is not None]
        if not kept and connection.execute(self.record, handed_in).rowcount == len(ids):
            connection.execute(self.remove, handed_in)
            return set()
        return self._record_slowly(connection, succeeded, ids, handed_in)

    def _record_slowly(
        self,
        connection: Connection,
        succeeded: Sequence[Succeeded],
        ids: Sequence[str],
        handed_in: dict[str, str],
    ) -> set[UUID]:
        """With results to keep, or where an outcome met no row: then it matters which."""
        written = set(connection.scalars(self.record_telling, handed_in))
        accepted = set(connection.scalars(self.remove_telling, handed_in))
        executions = self.tables.executions
        for id_, s in zip(ids, succeeded, strict=True):
            if s.result is not None and id_ in written:  # a row that was there before never changes
                connection.execute(
                    executions.update().where(executions.c.job_id == s.id).values(result=s.result)
                )
        refused = {id_: s for id_, s in zip(ids, succeeded, strict=True) if id_ not in accepted}
        recorded = self._ended(connection, list(refused))
        return {s.id for id_, s in refused.items() if recorded.get(id_) != (s.claim, Outcome.SUCCEEDED)}

    def _ended(self, connection: Connection, ids: Sequence[str]) -> dict[str, tuple[int, str]]:
        """Of these ids, those in the ledger, with their claim and outcome."""
        if not ids:
            return {}
        rows = connection.execute(self.ended, {"ids": json.dumps(ids)})
        return {row.job_id: (row.claim, row.outcome) for row in rows}

    def pulse(self, connection: Connection, worker: str, lease: timedelta) -> Pulse | None:  # noqa: ARG002
        """One statement that only looks: the OS lock is the beat. Who holds no lock of its own is dead."""
        row = connection.execute(self._pulse, {"worker": worker}).one()
        if row.alive is None:
            return None
        run, expiry = (None if stamp is None else _moment(stamp) for stamp in (row.run, row.expiry))
        now = datetime.fromisoformat(row.now).replace(tzinfo=UTC)
        held = {
            UUID(job): Held(claim, bool(cancelling))
            for job, claim, cancelling in json.loads(row.held or "[]")
        }
        others = (name for name in json.loads(row.workers) if name != worker)
        dead = bool(row.dead) or any(self.lives.are_over(name) for name in others)
        return Pulse(now, held, Due.seen(run, expiry, now), bool(row.free), dead, bool(row.suspects))

    def waker(self, engine: Engine) -> Waker:  # noqa: ARG002 - the file is known
        """A watch on the -wal file."""
        return WalWatch(self.lives.database)

    def news(self, connection: Connection) -> bool:
        """``PRAGMA data_version``, which moves when others have committed, not when this connection has."""
        driver = _driver(connection)
        version = driver.execute("PRAGMA data_version").fetchone()[0]
        before = connection.info.get("duly_version")
        connection.info["duly_version"] = version
        return bool(version != before)

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

    def lock_rows(
        self,
        statement: Locking,
        *,
        by: str | None = None,  # noqa: ARG002
        skip_locked: bool = False,  # noqa: ARG002
    ) -> Locking:
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


_CLOCK: ColumnElement[datetime] = literal_column(sql.CLOCK, Instant)


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


_BEST_FIRST = itemgetter(4, 8, 0)
"""As ``BEST_FIRST``, by the stored text: it compares as times and numbers do."""


def _claimed(row: list[Any]) -> ClaimedJob:
    """A row as it was before it was taken, the envelope in hexadecimal digits behind it."""
    (
        identity, origin, task, queue, priority, claim, attempt, rescues, run_at, expires_at, enqueued_at,
        principal, holds, transients, envelope,
    ) = row  # fmt: skip
    id_ = UUID(identity)
    return ClaimedJob(
        id_, id_ if origin == identity else UUID(origin), task, queue, priority, claim + 1, attempt, rescues,
        _moment(run_at), _moment(expires_at), _moment(enqueued_at), principal, bytes.fromhex(envelope), holds,
        transients,
    )  # fmt: skip
