"""MySQL and MariaDB: SKIP LOCKED, row heartbeats, no partial index, and the exchange as plain statements."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    Insert,
    Row,
    Table,
    TextClause,
    bindparam,
    delete,
    event,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from duly.errors import DatabaseBusy, DulyError, InvalidOptions, SettingsError
from duly.model.job import NewJob
from duly.model.report import Succeeded
from duly.store.dialect import mysql_errors as errors
from duly.store.dialect import mysql_session as session
from duly.store.dialect import mysql_sql as sql
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
    job_row,
)
from duly.store.dialect.mysql_exchange import Claims, Outcomes, aware
from duly.store.schema import MYSQL, Instant, Tables

OLDEST_MARIADB, OLDEST_MYSQL = (
    (10, 6),
    (8, 0, 19),
)  # SKIP LOCKED, JSON_TABLE; and `ON DUPLICATE KEY` as we write it
MIGRATION_PATIENCE = 60


class MySQL(StoreDialect):
    """MariaDB 10.6 and newer, MySQL 8.0.19 and newer, through PyMySQL or mysqlclient; other drivers may enqueue."""

    name = "mysql"
    beats = True
    rots = True

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables)
        self._quote = mysql.dialect().identifier_preparer
        prefix = tables.jobs.name.removesuffix("jobs")
        self._prefix = prefix
        self._words = {
            "jobs": self._quote.format_table(tables.jobs),
            "executions": self._quote.format_table(tables.executions),
            "workers": self._quote.format_table(tables.workers),
            "by_claim": self._index("jobs_claim"),
            "by_expiry": self._index("jobs_expiring"),
            "ended": ", ".join(ENDED),
            "ended_j": ", ".join(f"j.{name}" for name in ENDED),
            "claimed": ", ".join(CLAIMED),
            "clock": sql.CLOCK,
        }
        self._words["silent"] = sql.SILENT.format(**self._words)
        self.outcomes = Outcomes(self._words)
        self.claims = Claims(self._words, self.outcomes)
        self._see = self._sql(sql.SEE)
        self._dead = self._sql(sql.DEAD)
        self._now = select(self.clock)
        self._waiting_queues = self._sql(sql.WAITING_QUEUES)

    def speaks_to(self, name: str) -> bool:
        """By either of its two names."""
        return name in MYSQL

    def _sql(self, template: str) -> TextClause:
        return text(template.format(**self._words))

    def _index(self, name: str) -> str:
        return self._quote.quote(self._prefix + name)

    # ── transactions ──────────────────────────────────────────────────────────────────────────

    @property
    def clock(self) -> ColumnElement[datetime]:
        """``UTC_TIMESTAMP(6)``."""
        return _CLOCK

    def attach(self, connection: Connection) -> None:
        """Refuse servers that are too old, and those whose tables know no transactions."""
        mariadb = bool(getattr(connection.dialect, "is_mariadb", False))
        name, oldest = ("MariaDB", OLDEST_MARIADB) if mariadb else ("MySQL", OLDEST_MYSQL)
        version = connection.dialect.server_version_info or ()
        if tuple(version) < oldest:
            raise SettingsError(
                f"this is {name} {'.'.join(map(str, version))}: Duly needs {'.'.join(map(str, oldest))} or newer"
            )
        engine = connection.exec_driver_sql("SELECT @@default_storage_engine").scalar()
        if engine != "InnoDB":
            raise SettingsError(
                f"this server's tables are {engine}, which knows no transactions, so a job could not commit together "
                "with your data: set default_storage_engine=InnoDB"
            )

    def adopt(self, engine: Engine) -> None:
        """See that what Duly tells a session is put back before the application gets the connection again.

        And that a deadlock, which undoes the whole transaction with its savepoints, is not taken for a commit.
        """
        event.listen(engine, "checkin", session.put_back)
        event.listen(engine, "handle_error", session.after_deadlock)

    def prepare_schema(self, connection: Connection) -> None:
        """A lock of the session, since every table that is made commits."""
        name = self.tables.jobs.name
        taken = connection.scalar(_LOCK_SCHEMA, {"name": name, "patience": MIGRATION_PATIENCE})
        if taken != 1:
            raise DatabaseBusy("another migration of these tables has been under way for a minute; try again")

    def leave_schema(self, connection: Connection) -> None:
        """Give the lock back."""
        with suppress(SQLAlchemyError):  # a session that is gone has given it back
            connection.execute(_UNLOCK_SCHEMA, {"name": self.tables.jobs.name})

    def join(self, connection: Connection) -> None:
        """A connection that commits each statement by itself cannot take a job back."""
        if _commits_by_itself(connection):
            raise InvalidOptions(
                "the session given is on an AUTOCOMMIT connection, where nothing can be rolled back: give one whose "
                "transaction is real, or leave session= out"
            )

    def begin(self, connection: Connection) -> None:
        """READ COMMITTED, whatever the application's engine uses: no gap is locked, so workers do not deadlock."""
        if _commits_by_itself(connection):
            connection.execution_options(isolation_level="READ COMMITTED")
            connection.begin()
        elif session.session_of(connection).level != session.READ_COMMITTED:
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        elif not connection.in_transaction():
            connection.begin()

    def limit_waits(self, connection: Connection, *, lock: float, statement: float, idle: float) -> None:
        """Variables of the session, told where they differ.

        The idle limit frees what a frozen worker holds: its own row among the workers above all, which
        nobody could else declare dead.
        """
        session.limit(connection, lock=lock, statement=statement, idle=idle)

    def limit_task(self, connection: Connection, *, statement: float, idle: float) -> None:
        """``max_statement_time`` and ``idle_transaction_timeout``; on MySQL the nearest to them that there is."""
        session.limit(connection, statement=statement, idle=idle)

    def set_savepoint(self, connection: Connection, name: str) -> None:
        """Remembered, to be set again when a deadlock has undone it."""
        connection.info[session.SAVEPOINT] = name
        super().set_savepoint(connection, name)

    def was_undone(self, connection: Connection) -> bool:
        """By a deadlock."""
        return session.UNDONE in connection.info

    def savepoint_is_gone(self, error: BaseException) -> bool:
        """By its number."""
        return isinstance(error, DBAPIError) and errors.code_of(error) == errors.NO_SAVEPOINT

    def translate(self, error: DBAPIError) -> DulyError | None:
        """By the server's number."""
        return errors.translate(error)

    # ── writing ───────────────────────────────────────────────────────────────────────────────

    def insert_many(self, connection: Connection, jobs: Sequence[NewJob]) -> bool:
        """INSERTs of many rows, as many as a packet takes, under a savepoint."""
        try:
            with connection.begin_nested():
                connection.execute(self.tables.jobs.insert(), [job_row(job) for job in jobs])
        except IntegrityError as error:
            if errors.code_of(error) != errors.DUPLICATE:
                raise
            return False
        return True

    def insert_or_ignore(self, table: Table) -> Insert:
        """``ON DUPLICATE KEY UPDATE`` that changes nothing: IGNORE would also pass over values that do not fit."""
        key = table.primary_key.columns.values()[0]
        return mysql.insert(table).on_duplicate_key_update({key.name: key})

    def insert_fresh(self, connection: Connection, table: Table, row: Mapping[str, Any]) -> bool:
        """INSERT: the count of one that changes nothing does not tell."""
        return self._is_fresh(connection, table.insert(), row)

    def _is_fresh(self, connection: Connection, insert: Any, row: Mapping[str, Any]) -> bool:
        try:
            connection.execute(insert, row)
        except IntegrityError as error:
            if errors.code_of(error) != errors.DUPLICATE:
                raise
            return False
        return True

    def entry(self, ledger: Table) -> Any:
        """INSERT alone: MySQL returns nothing."""
        return ledger.insert().values(ended_at=self.clock)

    def enter(self, connection: Connection, entry: Any, row: Mapping[str, Any]) -> datetime | None:
        """INSERT, and then a look at the clock."""
        if not self._is_fresh(connection, entry, row):
            return None
        now: datetime = connection.execute(self._now).scalar_one()
        return now

    def removal(self, table: Table, *where: ColumnElement[bool]) -> Any:
        """Two statements: lock and read the row; delete it."""
        key = table.primary_key.columns.values()[0]
        read = select(table).where(*where).with_for_update()
        return read, delete(table).where(key == bindparam("found", type_=key.type)), key.name

    def remove_one(self, connection: Connection, removal: Any, values: Mapping[str, Any]) -> Row[Any] | None:
        """Lock the row, read it, delete it."""
        read, remove, key = removal
        row: Row[Any] | None = connection.execute(read, values).one_or_none()
        if row is not None:
            connection.execute(remove, {"found": getattr(row, key)})
        return row

    def remove_rows(self, connection: Connection, table: Table, keys: Sequence[Any]) -> None:
        """Through the primary key, whatever the planner thinks: a scan waits for every locked row that it meets."""
        if keys:
            key = table.primary_key.columns.values()[0]
            kind = key.type.compile(connection.dialect)
            words = {"table": self._quote.format_table(table), "key": key.name, "type": kind}
            ids = json.dumps([str(key) for key in keys])
            connection.execute(text(sql.REMOVE_ROWS.format(**words)), {"ids": ids})

    def remove_owned(
        self,
        connection: Connection,
        owner: Column[Any],
        owners: Sequence[UUID],
        *where: ColumnElement[bool],
        by: str,
    ) -> None:
        """Look first, then delete in the order of the keys: others take several of them in that order."""
        key = owner.table.primary_key.columns.values()[0]
        looked = self._through(select(key, owner).where(owner.in_(list(owners)), *where), self._index(by))
        rows = sorted((str(row[0]), str(row[1])) for row in connection.execute(looked))
        if rows:
            words = {"table": self._quote.format_table(owner.table), "key": key.name, "owner": owner.name}
            kinds = {
                "type": key.type.compile(connection.dialect),
                "owner_type": owner.type.compile(connection.dialect),
            }
            connection.execute(text(sql.REMOVE_OWNED.format(**words, **kinds)), {"rows": json.dumps(rows)})

    def as_they_are(self, statement: Locking) -> Locking:
        """Read with a lock, as an insert has taken already: a plain look may be as old as the transaction."""
        return self.share_rows(statement, skip_locked=True)

    def share_rows(self, statement: Locking, *, skip_locked: bool = False) -> Locking:
        """``LOCK IN SHARE MODE``, through the primary key."""
        return self._through(statement, "PRIMARY").with_for_update(read=True, skip_locked=skip_locked)

    def lock_rows(self, statement: Locking, *, by: str | None = None, skip_locked: bool = False) -> Locking:
        """``FOR UPDATE``, with the index named: MySQL locks what it reads, and waits for what others hold of it.

        Where rows are found by their keys, select more than the key: else it may read all keys there are.
        """
        index = "PRIMARY" if by is None else self._index(by)
        return self._through(statement, index).with_for_update(skip_locked=skip_locked)

    def _through(self, statement: Locking, index: str) -> Locking:
        table = statement.get_final_froms()[0]
        for name in MYSQL:
            statement = statement.with_hint(table, f"FORCE INDEX ({index})", name)
        return statement

    # ── the exchange ──────────────────────────────────────────────────────────────────────────

    def exchange(
        self,
        connection: Connection,
        worker: str,
        succeeded: Sequence[Succeeded],
        queues: Sequence[str],
        limit: int,
        after: Mapping[str, Position],
    ) -> Exchanged:
        """Plain statements: is the worker there, record, pick and lock, claim, look the claimed up in the ledger."""
        reply = Exchanged(alive=self._alive(connection, worker))
        if succeeded:
            reply.lost = self.outcomes.record(connection, worker, succeeded)
        if limit and queues and reply.alive:
            self.claims.claim(connection, worker, list(dict.fromkeys(queues)), limit, after, reply)
        return reply

    def _alive(self, connection: Connection, worker: str) -> bool:
        workers = self.tables.workers.c
        return connection.scalar(select(workers.id).where(workers.id == worker)) is not None

    def waiting_queues(self) -> TextClause:
        """A loose index scan: one probe a queue."""
        return self._waiting_queues

    # ── who lives ─────────────────────────────────────────────────────────────────────────────

    def pulse(self, connection: Connection, worker: str, lease: timedelta) -> Pulse | None:
        """The beat, one look, and the rows that name this worker."""
        workers, jobs = self.tables.workers, self.tables.jobs
        beat = workers.update().where(workers.c.id == worker).values(beat_at=self.clock)
        if not connection.execute(beat).rowcount:
            return None
        seen = connection.execute(self._see, {"worker": worker, "lease": _micros(lease)}).one()
        now, run, expiry = (
            None if moment is None else aware(moment) for moment in (seen.now, seen.run, seen.expiry)
        )
        if now is None:
            return None
        mine = select(jobs.c.id, jobs.c.claim, jobs.c.cancelling).where(
            jobs.c.state == literal_column("'running'"), jobs.c.worker == worker
        )
        held = {row.id: Held(row.claim, row.cancelling) for row in connection.execute(mine)}
        due = Due.seen(run, expiry, now)
        return Pulse(now, held, due, bool(seen.free), bool(seen.dead), bool(seen.suspects))

    def hold_liveness(self, worker: str) -> None:
        """Nothing to hold: the heartbeat row shows it."""

    def drop_liveness(self, worker: str) -> None:
        """Nothing to drop."""

    def dead_workers(self, connection: Connection, lease: timedelta, judge: str) -> list[str]:
        """Silent for a lease, or with a beat in the future (the database's clock has jumped).

        Nobody, where the judge's own beat is old: it was frozen since it asked whether it may judge, and
        the living perhaps with it.
        """
        named = {"judge": judge, "lease": _micros(lease), "half": _micros(lease / 2)}
        dead = list(connection.scalars(self._dead, named))
        self.remove_rows(connection, self.tables.workers, dead)
        return dead


_CLOCK: ColumnElement[datetime] = literal_column(sql.CLOCK, Instant)
# Locks belong to the server, not to a database, and their names have 64 characters at the most.
_LOCK_NAME = "CONCAT('duly ', MD5(CONCAT(DATABASE(), '.', :name)))"
_LOCK_SCHEMA = text(f"SELECT GET_LOCK({_LOCK_NAME}, :patience)")
_UNLOCK_SCHEMA = text(f"SELECT RELEASE_LOCK({_LOCK_NAME})")


def _commits_by_itself(connection: Connection) -> bool:
    ask = getattr(connection.connection.driver_connection, "get_autocommit", None)
    return bool(ask and ask())


def _micros(span: timedelta) -> int:
    return span // timedelta(microseconds=1)
