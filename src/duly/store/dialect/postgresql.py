"""PostgreSQL: SKIP LOCKED, row heartbeats, COPY, and the exchange as a single statement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    DateTime,
    Engine,
    Insert,
    Table,
    TextClause,
    bindparam,
    delete,
    func,
    inspect,
    or_,
    select,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateSchema

from duly.errors import DulyError, InvalidOptions
from duly.model.job import ClaimedJob, NewJob
from duly.model.report import Succeeded
from duly.model.states import Outcome
from duly.store.dialect import postgresql_errors as errors
from duly.store.dialect import postgresql_sql as sql
from duly.store.dialect.base import (
    BEST_FIRST,
    CLAIMED,
    ENDED,
    OURS,
    Due,
    Exchanged,
    Held,
    Position,
    Pulse,
    StoreDialect,
    Waker,
    job_row,
)
from duly.store.dialect.listener import Listener, channel_of
from duly.store.schema import Tables

_TRUSTED = "duly_trusted"

_COPIED = {
    "id": "uuid",
    "origin": "uuid",
    "task": "varchar",
    "fingerprint": "varchar",
    "queue": "varchar",
    "priority": "int2",
    "state": "varchar",
    "run_at": "timestamptz",
    "expires_at": "timestamptz",
    "enqueued_at": "timestamptz",
    "principal": "varchar",
    "digest": "bytea",
    "key_id": "varchar",
    "envelope": "bytea",
    "trace": "varchar",
    "holds": "int2",
}
"""The columns of a new job, and what COPY is told that they are."""

_values_of = attrgetter(*("state.value" if name == "state" else name for name in _COPIED))

JUMP = timedelta(seconds=1)
"""A beat so far in the future has seen the clock jump. One that lands while the clock is read may be a little ahead."""


class PostgreSQL(StoreDialect):
    """PostgreSQL 12 and newer, through psycopg 3; other drivers may enqueue."""

    name = "postgresql"
    beats = True
    rots = True
    asks_to_be_woken = True

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables)
        quote = postgresql.dialect().identifier_preparer.format_table  # type: ignore[no-untyped-call]
        self._words = {
            "jobs": quote(tables.jobs),
            "executions": quote(tables.executions),
            "workers": quote(tables.workers),
            "ended": ", ".join(ENDED),
            "claimed": ", ".join(CLAIMED),
            "claimed_c": ", ".join(f"claimed.{name}" for name in CLAIMED),
            "clock": sql.CLOCK,
            "free": sql.FREE,
            "best": sql.BEST,
        }
        record, accepted = sql.RECORD + ",", sql.ACCEPTED
        self.exchange_one = self._exchange(sql.PICK_ONE, record, accepted)
        self.exchange_several = self._exchange(sql.PICK_SEVERAL, record, accepted)
        # With nothing to record: half the words, and half the time to make a plan of them.
        self.claim_one = self._exchange(sql.PICK_ONE)
        self.claim_several = self._exchange(sql.PICK_SEVERAL)
        self.claim_behind = self._exchange(sql.PICK_BEHIND)
        self._waiting_queues = self._sql(sql.WAITING_QUEUES)
        self._pulse = self._sql(sql.PULSE)
        self._wake = self._sql(sql.WAKE)
        columns = [tables.jobs.c[name] for name in _COPIED]
        self._insert = self._sql(
            sql.INSERT, copied=", ".join(_COPIED), values=", ".join(f":{name}" for name in _COPIED)
        ).bindparams(*(bindparam(column.name, type_=column.type) for column in columns))
        self._channel = channel_of(tables)
        self._copy = f"COPY {self._words['jobs']} ({', '.join(_COPIED)}) FROM STDIN (FORMAT BINARY)"

    def _sql(self, template: str, **more: str) -> TextClause:
        return text(template.format(**self._words, **more))

    def _exchange(self, pick: str, record: str = "", accepted: str = "0") -> TextClause:
        return self._sql(f"WITH {sql.SELF}, {record} {pick}, {sql.CLAIM}", accepted=accepted)

    @property
    def clock(self) -> ColumnElement[datetime]:
        """``(SELECT clock_timestamp())``."""
        return _CLOCK

    def prepare_schema(self, connection: Connection) -> None:
        """An advisory lock for the transaction, so that two migrations run one after the other."""
        connection.execute(_LOCK_SCHEMA, {"lock": f"duly migrate {self.tables.jobs.fullname}"})
        schema = self.tables.metadata.schema
        if schema is not None and not inspect(connection).has_schema(schema):
            connection.execute(CreateSchema(schema, if_not_exists=True))

    def join(self, connection: Connection) -> None:
        """A connection that commits each statement by itself cannot take a job back."""
        if getattr(connection.connection.dbapi_connection, "autocommit", False) is True:
            raise InvalidOptions(
                "the session given is on an AUTOCOMMIT connection, where nothing can be rolled back: give one whose "
                "transaction is real, or leave session= out"
            )

    def begin(self, connection: Connection) -> None:
        """READ COMMITTED, whatever the application's engine uses."""
        if not connection.get_execution_options().get(OURS):
            _prepare_nothing(connection)
            connection.execution_options(isolation_level="READ COMMITTED")
        connection.begin()

    def limit_waits(self, connection: Connection, *, lock: float, statement: float, idle: float) -> None:
        """``SET LOCAL``, as one statement: nothing outlives the transaction behind a pooler.

        The idle limit frees what a frozen worker holds: its own row among the workers above all, which
        nobody could else declare dead.
        """
        connection.exec_driver_sql(sql.limits(lock=lock, statement=statement, idle=idle))

    def begin_limited(self, connection: Connection, *, lock: float, statement: float, idle: float) -> None:
        """Both in one round trip, by words of our own: the driver's BEGIN would be another."""
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            _prepare_nothing(connection)
            connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.begin()
        limits = sql.limits(lock=lock, statement=statement, idle=idle)
        connection.exec_driver_sql(f"{sql.BEGIN}; {limits}")

    def trust_session(self, connection: Connection) -> None:
        """Planning the exchange anew takes half of the time in which an idle worker starts a job."""
        connection.info[_TRUSTED] = True

    def end_limited(self, connection: Connection) -> None:
        """What was prepared stays with the session, and does no harm there."""
        connection.info.pop(_TRUSTED, None)

    def limit_task(self, connection: Connection, *, statement: float, idle: float) -> None:
        """As one statement that every driver takes. A frozen worker's transaction ends, and a statement too long."""
        limits = {"statement": statement, "idle": idle}
        bounded = {name: f"{min(int(limit * 1000), 2_000_000_000)}ms" for name, limit in limits.items()}
        connection.execute(_LIMIT_TASK, bounded)

    def savepoint_is_gone(self, error: BaseException) -> bool:
        """By SQLSTATE."""
        return errors.savepoint_is_gone(error)

    def pulse(self, connection: Connection, worker: str, lease: timedelta) -> Pulse | None:
        """One statement, which rings the bell of this worker as well."""
        row = connection.execute(
            self._pulse, {"worker": worker, "lease": lease, "channel": self._channel}
        ).one()
        if row.now is None:
            return None
        held = {UUID(job): Held(claim, cancelling) for job, claim, cancelling in row.held or ()}
        due = Due.seen(row.run, row.expiry, row.now)
        return Pulse(row.now, held, due, row.free, row.dead, row.suspects)

    def insert(self, connection: Connection, job: NewJob) -> None:
        """The job, and NOTIFY where a worker sleeps, in one statement."""
        connection.execute(self._insert, job_row(job) | {"channel": self._channel})

    def wake(self, connection: Connection) -> None:
        """NOTIFY where a worker sleeps; PostgreSQL sends one a transaction, however often it is asked."""
        connection.execute(self._wake, {"channel": self._channel})

    def waker(self, engine: Engine) -> Waker:
        """LISTEN, on a connection of its own."""
        return Listener(engine, self._channel)

    def insert_many(self, connection: Connection, jobs: Sequence[NewJob]) -> bool:
        """COPY under a savepoint where the driver is psycopg, else one multi-row INSERT."""
        try:
            with connection.begin_nested():
                driver = connection.connection.driver_connection
                if _speaks_copy(driver):
                    self._copy_in(driver, jobs)
                else:
                    connection.execute(self.tables.jobs.insert(), [job_row(job) for job in jobs])
        except Exception as error:
            if errors.is_duplicate(error):
                return False
            if isinstance(error, DBAPIError) or not type(error).__module__.startswith("psycopg"):
                raise
            # COPY goes past SQLAlchemy, which would have wrapped the driver's error.
            raise DBAPIError("COPY", None, error) from error
        return True

    def _copy_in(self, driver: Any, jobs: Sequence[NewJob]) -> None:
        with driver.cursor() as cursor, cursor.copy(self._copy) as copy:
            copy.set_types(list(_COPIED.values()))
            for job in jobs:
                copy.write_row(_values_of(job))

    def insert_or_ignore(self, table: Table) -> Insert:
        """``ON CONFLICT DO NOTHING``."""
        return postgresql.insert(table).on_conflict_do_nothing()

    def exchange(
        self,
        connection: Connection,
        worker: str,
        succeeded: Sequence[Succeeded],
        queues: Sequence[str],
        limit: int,
        after: Mapping[str, Position],
    ) -> Exchanged:
        """One statement; a second where an outcome met no row, a row had ended, or all of several queues are empty."""
        several = len(queues) != 1
        where = {"worker": worker, "limit": limit}
        where |= _lines(queues, after) if several else _line(queues[0], after)
        if succeeded:
            statement = self.exchange_several if several else self.exchange_one
            where |= _outcomes(succeeded)
        else:
            statement = self.claim_several if several else self.claim_one
        with _preparing(connection):
            rows = connection.execute(statement, where).all()
        reply = Exchanged(alive=rows[0].alive)
        if rows[0].accepted < len(succeeded):
            reply.lost = self._not_recorded(connection, succeeded)
        if several and queues and limit and reply.alive and rows[0].id is None:
            named = {"worker": worker, "queues": list(queues), "limit": limit}
            rows = connection.execute(self.claim_behind, named).all()
        for _, _, *columns, replayed in rows:
            if columns[0] is not None:
                (reply.replayed if replayed else reply.claimed).append(ClaimedJob(*columns))
        # RETURNING has no order.
        reply.claimed.sort(key=BEST_FIRST)
        return reply

    def _not_recorded(self, connection: Connection, succeeded: Sequence[Succeeded]) -> set[Any]:
        ledger = self.tables.executions.c
        known = connection.execute(
            select(ledger.job_id, ledger.claim).where(
                ledger.job_id.in_([s.id for s in succeeded]), ledger.outcome == Outcome.SUCCEEDED.value
            )
        )
        recorded = {(row.job_id, row.claim) for row in known}
        return {s.id for s in succeeded if (s.id, s.claim) not in recorded}

    def translate(self, error: DBAPIError) -> DulyError | None:
        """By SQLSTATE."""
        return errors.translate(error)

    def waiting_queues(self) -> TextClause:
        """A loose index scan: one probe a queue."""
        return self._waiting_queues

    def hold_liveness(self, worker: str) -> None:
        """Nothing to hold: the heartbeat row shows it."""

    def drop_liveness(self, worker: str) -> None:
        """Nothing to drop."""

    def dead_workers(self, connection: Connection, lease: timedelta, judge: str) -> list[str]:
        """Silent for a lease, or with a beat in the future (the database's clock has jumped).

        Nobody, where the judge's own beat is old: it was frozen since it asked whether it may judge, and
        the living perhaps with it.
        """
        workers, own = self.tables.workers.c, self.tables.workers.alias("own").c
        silent = or_(workers.beat_at < _CLOCK - lease, workers.beat_at > _CLOCK + JUMP)
        frozen = select(own.id).where(own.id == judge, own.beat_at < _CLOCK - lease / 2).exists()
        others = select(workers.id).where(silent, workers.id != judge, ~frozen)
        stale = self.lock_rows(others, skip_locked=True)
        return list(
            connection.scalars(delete(self.tables.workers).where(workers.id.in_(stale)).returning(workers.id))
        )


_CLOCK: ColumnElement[datetime] = select(
    func.clock_timestamp(type_=DateTime(timezone=True))
).scalar_subquery()
_LOCK_SCHEMA = text("SELECT pg_advisory_xact_lock(hashtextextended(:lock, 0))")
_LIMIT_TASK = text(
    "SELECT set_config('statement_timeout', :statement, true), "
    "set_config('idle_in_transaction_session_timeout', :idle, true)"
)


def _prepare_nothing(connection: Connection) -> None:
    """Else psycopg prepares what it sees often; and behind a pooler the next statement is on another session."""
    driver: Any = connection.connection.driver_connection
    if getattr(driver, "prepare_threshold", None) is not None:
        driver.prepare_threshold = None


@contextmanager
def _preparing(connection: Connection) -> Iterator[None]:
    """What is executed meanwhile is prepared on the server, where the session is known to be ours."""
    driver: Any = connection.connection.driver_connection
    if connection.info.get(_TRUSTED) and hasattr(driver, "prepare_threshold"):
        driver.prepare_threshold = 0
        try:
            yield
        finally:
            driver.prepare_threshold = None
    else:
        yield


def _outcomes(succeeded: Sequence[Succeeded]) -> dict[str, Any]:
    """As array literals: the driver's own way to write arrays takes longer than all else here."""
    kept = any(s.result is not None for s in succeeded)
    return {
        "ids": _array(s.id.hex for s in succeeded),
        "claims": _array(str(s.claim) for s in succeeded),
        "started": _array(s.started_at.isoformat() for s in succeeded),
        "results": [s.result for s in succeeded] if kept else None,  # None pads with NULL: few are kept
    }


def _line(queue: str, after: Mapping[str, Position]) -> dict[str, Any]:
    return dict(zip(("queue", "priority", "run_at", "id"), (queue, *after.get(queue, sql.HEAD)), strict=True))


def _lines(queues: Sequence[str], after: Mapping[str, Position]) -> dict[str, Any]:
    places = [after.get(queue, sql.HEAD) for queue in queues]
    return {
        "queues": list(queues),
        "priorities": _array(str(priority) for priority, _, _ in places),
        "run_ats": _array(str(run_at) for _, run_at, _ in places),
        "positions": _array(str(identity) for _, _, identity in places),
    }


def _speaks_copy(driver: object) -> bool:
    """Whether it is psycopg's sync connection; async callers' COPY would have to be awaited."""
    return any((c.__module__, c.__qualname__) == ("psycopg", "Connection") for c in type(driver).__mro__)


def _array(items: Iterable[str]) -> str:
    return "{" + ",".join(items) + "}"
