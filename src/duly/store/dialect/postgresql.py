"""PostgreSQL: SKIP LOCKED, row heartbeats, COPY, and the exchange as a single statement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    DateTime,
    Insert,
    Table,
    TextClause,
    delete,
    func,
    inspect,
    or_,
    select,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.schema import CreateSchema

from duly.errors import DatabaseBusy, DulyError, InvalidOptions, SchemaError
from duly.model.job import ClaimedJob, NewJob
from duly.model.report import Succeeded
from duly.store.dialect.base import BEST_FIRST, CLAIMED, ENDED, Exchanged, StoreDialect, job_row, unavailable
from duly.store.schema import Tables

# The clock stands as a scalar sub-select everywhere: bare, clock_timestamp() is volatile, so it is
# asked again for each row and cannot bound an index scan (110 ms against 0.24 ms with a million
# scheduled rows).
CLOCK = "(SELECT clock_timestamp())"

BUSY = {
    "55P03",
    "40P01",
    "40001",
    "57014",
    "26000",
    "42P05",
}  # the last two: prepared, elsewhere; lock not available, deadlock, serialization, statement time-out
MISSING = {"42P01", "42703", "3F000"}  # table, column, schema
GONE = ("08", "53", "57P", "25P03")  # connection, resources, shutdown, idle in transaction for too long
READ_ONLY = "25006"  # a standby, since a failover
NO_SAVEPOINT = {"3B001", "25P01"}  # no such savepoint, no transaction

_RECORD = """
done AS (
    SELECT id, claim, started_at, result
    FROM unnest(CAST(:ids AS uuid[]), CAST(:claims AS integer[]),
                CAST(:started AS timestamptz[]), CAST(:results AS bytea[])) AS d(id, claim, started_at, result)
), gone AS (
    DELETE FROM {jobs} AS j USING done
    WHERE j.id = ANY(CAST(:ids AS uuid[])) AND j.id = done.id AND j.claim = done.claim AND j.worker = :worker
    RETURNING j.*, done.started_at AS began_at, done.result
), recorded AS (
    INSERT INTO {executions} (job_id, outcome, attempts, started_at, ended_at, result, {ended})
    SELECT id, 'succeeded', attempt + 1, began_at, {clock}, result, {ended} FROM gone
    ON CONFLICT (job_id) DO NOTHING
)"""

# Only rows that are due and have not expired, by the database's clock; promotion and expiry move the others.
_FREE = f"state = 'available' AND run_at <= {CLOCK} AND expires_at > {CLOCK}"
_BEST = "ORDER BY priority, run_at, id"

# One queue: the index gives the order, the lock skips what others hold.
_PICK_ONE = """
picked AS (
    SELECT id FROM {jobs} WHERE queue = :queue AND {free} {best} LIMIT :limit FOR UPDATE SKIP LOCKED
)"""

# Several queues. `queue = ANY(…)` loses the index order, and locking sub-selects per queue would lock
# far more than is taken, so that a second worker sees nothing. So: read the merged heads without locks,
# count how many of them fall to each queue, then lock that many per queue.
_PICK_SEVERAL = """
heads AS MATERIALIZED (
    SELECT q.queue FROM unnest(CAST(:queues AS text[])) AS q(queue) CROSS JOIN LATERAL (
        SELECT priority, run_at, id FROM {jobs} WHERE queue = q.queue AND {free} {best} LIMIT :limit
    ) AS head ORDER BY head.priority, head.run_at, head.id LIMIT :limit
), quota AS (
    SELECT queue, count(*) AS share FROM heads GROUP BY queue
), picked AS (
    SELECT mine.id FROM quota CROSS JOIN LATERAL (
        SELECT id FROM {jobs} WHERE queue = quota.queue AND {free} {best}
        LIMIT quota.share FOR UPDATE SKIP LOCKED
    ) AS mine
)"""

# When others hold all those heads, their quotas are spent on locked rows though other queues have free ones. So
# an empty answer is followed by a look behind: queue by queue, in no order among them, until there are enough.
_PICK_BEHIND = """
picked AS (
    SELECT mine.id FROM unnest(CAST(:queues AS text[])) AS q(queue) CROSS JOIN LATERAL (
        SELECT id FROM {jobs} WHERE queue = q.queue AND {free} {best} LIMIT :limit FOR UPDATE SKIP LOCKED
    ) AS mine LIMIT :limit
)"""

# `id = ANY(ARRAY(…))` keeps an index scan where a join turns into a sequential one (161,000 against
# 104,000 a second). A worker whose own row is gone is given nothing.
_CLAIM = """
claimed AS (
    UPDATE {jobs} SET state = 'running', claim = claim + 1, worker = :worker
    WHERE id = ANY(ARRAY(SELECT id FROM picked)) AND (SELECT alive FROM self)
    RETURNING {claimed}
)
SELECT (SELECT count(*) FROM gone) AS accepted, (SELECT alive FROM self) AS alive, {claimed_c},
       claimed.id = ANY(ARRAY(SELECT job_id FROM {executions}
                              WHERE job_id = ANY(ARRAY(SELECT id FROM claimed)))) AS replayed
FROM (SELECT 1) AS always LEFT JOIN claimed ON true"""

_SELF = "self AS (SELECT EXISTS (SELECT 1 FROM {workers} WHERE id = :worker) AS alive)"

_WAITING_QUEUES = """
WITH RECURSIVE seen AS (
    (SELECT queue FROM {jobs} WHERE state = 'available' ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT queue FROM {jobs} WHERE state = 'available' AND queue > seen.queue ORDER BY queue LIMIT 1)
    FROM seen WHERE seen.queue IS NOT NULL
) SELECT queue FROM seen WHERE queue IS NOT NULL"""

_COPIED = (
    "id", "origin", "task", "fingerprint", "queue", "priority", "state", "run_at", "expires_at",
    "enqueued_at", "principal", "digest", "key_id", "envelope", "trace",
)  # fmt: skip
_COPIED_TYPES = (
    "uuid", "uuid", "varchar", "varchar", "varchar", "int2", "varchar", "timestamptz", "timestamptz",
    "timestamptz", "varchar", "bytea", "varchar", "bytea", "varchar",
)  # fmt: skip


class PostgreSQL(StoreDialect):
    """PostgreSQL 12 and newer, through psycopg 3; other drivers may enqueue."""

    name = "postgresql"
    beats = True

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
            "clock": CLOCK,
            "free": _FREE,
            "best": _BEST,
        }
        self.exchange_one = self._sql(f"WITH {_SELF}, {_RECORD}, {_PICK_ONE}, {_CLAIM}")
        self.exchange_several = self._sql(f"WITH {_SELF}, {_RECORD}, {_PICK_SEVERAL}, {_CLAIM}")
        self.exchange_behind = self._sql(f"WITH {_SELF}, {_RECORD}, {_PICK_BEHIND}, {_CLAIM}")
        self._waiting_queues = self._sql(_WAITING_QUEUES)
        self._copy = f"COPY {self._words['jobs']} ({', '.join(_COPIED)}) FROM STDIN (FORMAT BINARY)"

    def _sql(self, template: str) -> TextClause:
        return text(template.format(**self._words))

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
        driver = connection.connection.driver_connection
        if getattr(driver, "prepare_threshold", None) is not None:
            driver.prepare_threshold = None  # type: ignore[union-attr] # psycopg's: a pooler has other sessions
        connection.execution_options(isolation_level="READ COMMITTED")
        connection.begin()

    def limit_waits(self, connection: Connection, *, lock: float, statement: float, idle: float) -> None:
        """``SET LOCAL``, as one statement: nothing outlives the transaction behind a pooler.

        The idle limit frees what a frozen worker holds: its own row among the workers above all, which
        nobody could else declare dead.
        """
        limits = {"lock": lock, "statement": statement, "idle": idle}
        connection.execute(_SET_WAITS, {name: f"{int(limit * 1000)}ms" for name, limit in limits.items()})

    def begin_task(self, connection: Connection, *, idle: float) -> None:
        """A frozen worker's transaction ends by itself after its idle limit, and with it its locks."""
        self.begin(connection)
        self.limit_idle(connection, idle=idle)

    def limit_idle(self, connection: Connection, *, idle: float) -> None:
        """``SET LOCAL idle_in_transaction_session_timeout``."""
        connection.execute(_SET_IDLE, {"idle": f"{min(int(idle * 1000), 2_000_000_000)}ms"})

    def savepoint_is_gone(self, error: BaseException) -> bool:
        """SQLSTATE 3B001 or 25P01."""
        return isinstance(error, DBAPIError) and _state(error) in NO_SAVEPOINT

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
            if _is_duplicate(error):
                return False
            if isinstance(error, DBAPIError) or not type(error).__module__.startswith("psycopg"):
                raise
            # COPY goes past SQLAlchemy, which would have wrapped the driver's error.
            raise DBAPIError("COPY", None, error) from error
        return True

    def _copy_in(self, driver: Any, jobs: Sequence[NewJob]) -> None:
        with driver.cursor() as cursor, cursor.copy(self._copy) as copy:
            copy.set_types(_COPIED_TYPES)
            for job in jobs:
                copy.write_row(
                    (
                        job.id, job.origin, job.task, job.fingerprint, job.queue, job.priority, job.state.value,
                        job.run_at, job.expires_at, job.enqueued_at, job.principal, job.digest, job.key_id,
                        job.envelope, job.trace,
                    )
                )  # fmt: skip

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
    ) -> Exchanged:
        """One statement; a second where an outcome met no row, a row had ended before, or several queues gave none."""
        several = len(queues) != 1
        rows = connection.execute(
            self.exchange_several if several else self.exchange_one,
            {
                "worker": worker,
                # As array literals: the driver's own way to write arrays takes longer than all else here.
                "ids": _array(s.id.hex for s in succeeded),
                "claims": _array(str(s.claim) for s in succeeded),
                "started": _array(s.started_at.isoformat() for s in succeeded),
                # None pads with NULL: results are kept by the few.
                "results": [s.result for s in succeeded]
                if any(s.result is not None for s in succeeded)
                else None,
                "limit": limit,
                **({"queues": list(queues)} if several else {"queue": queues[0]}),
            },
        ).all()
        reply = Exchanged(alive=rows[0].alive)
        if rows[0].accepted < len(succeeded):
            reply.lost = self._not_recorded(connection, succeeded)
        if several and queues and limit and reply.alive and rows[0].id is None:
            nothing = {"ids": "{}", "claims": "{}", "started": "{}", "results": None}
            named = {"worker": worker, "queues": list(queues), "limit": limit}
            rows = connection.execute(self.exchange_behind, nothing | named).all()
        for _, _, *columns, replayed in rows:
            if columns[0] is not None:
                (reply.replayed if replayed else reply.claimed).append(ClaimedJob(*columns))
        # RETURNING has no order.
        reply.claimed.sort(key=BEST_FIRST)
        return reply

    def _not_recorded(self, connection: Connection, succeeded: Sequence[Succeeded]) -> set[Any]:
        ledger = self.tables.executions.c
        known = connection.execute(
            select(ledger.job_id, ledger.claim).where(ledger.job_id.in_([s.id for s in succeeded]))
        )
        recorded = {(row.job_id, row.claim) for row in known}
        return {s.id for s in succeeded if (s.id, s.claim) not in recorded}

    def translate(self, error: DBAPIError) -> DulyError | None:
        """By SQLSTATE."""
        state = _state(error)
        if error.connection_invalidated or state == READ_ONLY or (state or "").startswith(GONE):
            return unavailable(error)
        if state in BUSY:
            return DatabaseBusy(
                f"a lock was not granted in time, or a deadlock was resolved ({state}); try again"
            )
        if state in MISSING:
            return SchemaError("Duly's tables are not there: run `duly migrate`")
        if state is None and type(error.orig).__name__ in {"OperationalError", "InterfaceError"}:
            return unavailable(error)
        return None

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
        silent = or_(workers.beat_at < _CLOCK - lease, workers.beat_at > _CLOCK)
        frozen = select(own.id).where(own.id == judge, own.beat_at < _CLOCK - lease / 2).exists()
        others = select(workers.id).where(silent, workers.id != judge, ~frozen)
        stale = self.lock_rows(others, skip_locked=True)
        return list(
            connection.scalars(delete(self.tables.workers).where(workers.id.in_(stale)).returning(workers.id))
        )


_CLOCK: ColumnElement[datetime] = select(
    func.clock_timestamp(type_=DateTime(timezone=True))
).scalar_subquery()
# Statistics of tables that fill and empty within seconds are always wrong, and the planner, left to them, reads
# all available jobs and sorts them, or compares each outcome with each row (100-150 ms an exchange over 10,000
# jobs, where 12 will do); a plan made while the ledger was small is kept and grows slower with every job. So:
# indexes, in their order, and hash joins, always; and no compiler called because these words make plans look dear.
_SET_WAITS = text(
    "SELECT set_config('lock_timeout', :lock, true), set_config('statement_timeout', :statement, true), "
    "set_config('idle_in_transaction_session_timeout', :idle, true), set_config('enable_seqscan', 'off', true), "
    "set_config('enable_sort', 'off', true), set_config('enable_nestloop', 'off', true), "
    "set_config('jit', 'off', true)"
)
_LOCK_SCHEMA = text("SELECT pg_advisory_xact_lock(hashtextextended(:lock, 0))")
_SET_IDLE = text("SELECT set_config('idle_in_transaction_session_timeout', :idle, true)")


def _speaks_copy(driver: object) -> bool:
    """Whether it is psycopg's sync connection; async callers' COPY would have to be awaited."""
    return any((c.__module__, c.__qualname__) == ("psycopg", "Connection") for c in type(driver).__mro__)


def _array(items: Iterable[str]) -> str:
    return "{" + ",".join(items) + "}"


def _state(error: DBAPIError) -> str | None:
    state = getattr(error.orig, "sqlstate", None)
    return state if isinstance(state, str) else None


def _is_duplicate(error: Exception) -> bool:
    if isinstance(error, IntegrityError):
        return _state(error) == "23505"
    return getattr(error, "sqlstate", None) == "23505"
