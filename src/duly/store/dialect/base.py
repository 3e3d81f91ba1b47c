"""What differs between databases: the clock, how a transaction begins, the hot statements, liveness."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    Insert,
    Row,
    Select,
    Table,
    TextClause,
    delete,
)
from sqlalchemy.exc import DBAPIError

from duly.errors import DatabaseError, DatabaseUnavailable, DulyError
from duly.model.job import ClaimedJob, NewJob
from duly.model.report import Succeeded
from duly.store.schema import Tables

CLAIMED = (
    "id", "origin", "task", "queue", "priority", "claim", "attempt", "rescues",
    "run_at", "expires_at", "enqueued_at", "principal", "envelope", "holds", "transients",
)  # fmt: skip
"""The columns of a claim, in the order of ``ClaimedJob``'s fields."""

ENDED = (
    "origin", "task", "queue", "fingerprint", "priority", "worker", "claim", "deaths", "rescues",
    "enqueued_at", "run_at", "expires_at", "principal", "digest", "key_id", "trace",
)  # fmt: skip
"""The columns that go from a job's row into its ledger row as they are."""

OURS = "duly_engine"
"""An execution option of engines that Duly made: their connections are as it wants them from the start."""

BEST_FIRST = attrgetter("priority", "run_at", "id.int")
"""The order of claimed jobs. The id by its number, since UUIDs compare in Python, and many are due at once."""


Locking = TypeVar("Locking", bound="Select[*tuple[Any, ...]]")
Position = tuple[int, datetime, UUID]
"""A place in a queue's order: priority, run_at, id."""


@dataclass(slots=True)
class Exchanged:
    """What an exchange brought: jobs to run, and which of the outcomes handed in were not accepted.

    ``lost``: ids whose fence was gone and that the ledger does not know as succeeded under that claim.
    ``replayed``: claimed rows that the ledger says have ended before; they are removed already.
    ``alive`` is False when the worker's own row is gone, so that it was given nothing.
    """

    claimed: list[ClaimedJob] = field(default_factory=list)
    lost: set[UUID] = field(default_factory=set)
    replayed: list[ClaimedJob] = field(default_factory=list)
    alive: bool = True


@dataclass(frozen=True, slots=True)
class Due:
    """What is due now, and how long until the next scheduled job is."""

    promote: bool
    expire: bool
    next_due: timedelta | None

    @classmethod
    def seen(cls, run: datetime | None, expiry: datetime | None, now: datetime) -> Due:
        """From the first scheduled and the first expiring instant that there are."""
        wait = None if run is None else run - now
        return cls(
            promote=wait is not None and wait <= timedelta(0),
            expire=expiry is not None and expiry <= now,
            next_due=wait,
        )


class Held(NamedTuple):
    """A running row, as its worker should know it: the claim, and whether somebody cancels the job."""

    claim: int
    cancelling: bool


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a worker learns with each beat.

    ``free``: some available job stands in some queue. ``dead``: it may be worth looking for dead workers.
    ``suspects``: there are some, of whatever queue.
    """

    now: datetime
    held: dict[UUID, Held]
    due: Due
    free: bool
    dead: bool
    suspects: bool


class Waker(ABC):
    """Wakes a worker that sleeps, when jobs may have come. No promise rests on it: polling goes on underneath."""

    @property
    @abstractmethod
    def proven(self) -> bool:
        """Whether it is known to work at the moment, so that polling may be slow."""

    @abstractmethod
    def start(self, ring: Callable[[], None], worker: Callable[[], str]) -> None:
        """From now on call *ring*, from a thread of its own, when the worker should look; *worker* tells its id."""

    @property
    def wants_ping(self) -> bool:
        """Whether a pulse should come at once: it listens since a moment ago."""
        return False

    @abstractmethod
    def expect_echo(self) -> None:
        """A pulse is about to be sent: what it sends to its own worker should be heard in a moment."""

    @abstractmethod
    def close(self) -> None:
        """Stop, and give back what it holds."""


class StoreDialect(ABC):
    """One database's ways. Every statement here is written once and used from ``duly.store`` alone."""

    name: str
    beats: bool
    """Whether liveness is a heartbeat row (else an OS lock)."""
    rots: bool
    """Whether dead entries gather at the head of an index, so that claims need a cursor."""
    one_writer: bool = False
    """Whether a transaction that has written keeps all others from writing."""
    asks_to_be_woken: bool = False
    """Whether workers say in their row that they sleep, so that enqueues wake them."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    @property
    @abstractmethod
    def clock(self) -> ColumnElement[datetime]:
        """The database's time now, as an expression."""

    def speaks_to(self, name: str) -> bool:
        """Whether this is the dialect of what SQLAlchemy calls *name*."""
        return name == self.name

    def attach(self, connection: Connection) -> None:
        """Look at the database once, when the store is opened."""

    def join(self, connection: Connection) -> None:
        """Prepare the caller's own transaction for a write of Duly's."""

    def adopt(self, engine: Engine) -> None:
        """Mend what an application's engine needs before its transactions can be joined."""

    def prepare_schema(self, connection: Connection) -> None:
        """Before a migration: make the schema where one is named, and keep other migrations waiting."""

    def leave_schema(self, connection: Connection) -> None:
        """After a migration, however it went: let others go on, where the end of the transaction does not."""

    @abstractmethod
    def begin(self, connection: Connection) -> None:
        """Begin a write transaction of Duly's own on a connection fresh from the pool."""

    @abstractmethod
    def limit_waits(self, connection: Connection, *, lock: float, statement: float, idle: float) -> None:
        """Bound, for this transaction, how long a lock, a statement and a pause between two may take (seconds)."""

    def begin_limited(self, connection: Connection, *, lock: float, statement: float, idle: float) -> None:
        """``begin`` and ``limit_waits``, for a worker's own line, which does both all the time."""
        self.begin(connection)
        self.limit_waits(connection, lock=lock, statement=statement, idle=idle)

    def trust_session(self, connection: Connection) -> None:
        """From now on such a line's statements may be prepared: nothing stands between it and its session."""

    def end_limited(self, connection: Connection) -> None:
        """Before such a line's connection goes back to its pool."""

    @abstractmethod
    def limit_task(self, connection: Connection, *, statement: float, idle: float) -> None:
        """Bound, in a task's transaction, how long a statement and a pause between two may take (seconds)."""

    def set_savepoint(self, connection: Connection, name: str) -> None:
        """Set the savepoint under everything that a transactional task does."""
        connection.exec_driver_sql(f"SAVEPOINT {name}")

    def was_undone(self, connection: Connection) -> bool:  # noqa: ARG002 - for those that do such a thing
        """Whether the database itself has rolled all back since then, so that nothing of it can be committed."""
        return False

    @abstractmethod
    def savepoint_is_gone(self, error: BaseException) -> bool:
        """Whether the error says that a savepoint does not exist: somebody else ended the transaction."""

    @abstractmethod
    def insert_many(self, connection: Connection, jobs: Sequence[NewJob]) -> bool:
        """Insert jobs with new ids by the fastest way; False, with nothing written, when an id exists."""

    @abstractmethod
    def insert_or_ignore(self, table: Table) -> Insert:
        """An INSERT that passes over rows whose primary key exists."""

    @abstractmethod
    def exchange(
        self,
        connection: Connection,
        worker: str,
        succeeded: Sequence[Succeeded],
        queues: Sequence[str],
        limit: int,
        after: Mapping[str, Position],
    ) -> Exchanged:
        """The hot case: record successes and claim at most *limit* jobs of *queues*, the best first.

        Of a queue that *after* names only jobs that stand behind that position are claimed (where the
        database's index rots at its head; elsewhere it is not looked at).
        """

    @abstractmethod
    def pulse(self, connection: Connection, worker: str, lease: timedelta) -> Pulse | None:
        """Beat, and look at all that a worker has to see to; None when its own row is gone."""

    def insert(self, connection: Connection, job: NewJob) -> None:
        """Insert one new job, and wake a worker that sleeps."""
        connection.execute(self.tables.jobs.insert(), job_row(job))

    def wake(self, connection: Connection) -> None:
        """Wake a worker that sleeps, when this transaction commits (where a database can)."""

    def waker(self, engine: Engine) -> Waker | None:  # noqa: ARG002 - for those that have one
        """What wakes a worker here; None where it has to poll."""
        return None

    def news(self, connection: Connection) -> bool:  # noqa: ARG002 - for those that can tell
        """Whether others may have written since this connection, which is in no transaction, was last asked."""
        return True

    @abstractmethod
    def translate(self, error: DBAPIError) -> DulyError | None:
        """Duly's error for the driver's: unavailable, busy or no tables. None: a fault that is ours to see."""

    @abstractmethod
    def waiting_queues(self) -> TextClause:
        """The names of all queues with available jobs, without reading those jobs."""

    @abstractmethod
    def hold_liveness(self, worker: str) -> None:
        """Show, as long as this process lives, that *worker* lives (where liveness is an OS lock)."""

    @abstractmethod
    def drop_liveness(self, worker: str) -> None:
        """Stop showing it."""

    @abstractmethod
    def dead_workers(self, connection: Connection, lease: timedelta, judge: str) -> list[str]:
        """Delete the rows of workers that are dead, and say which they were."""

    def lock_rows(
        self,
        statement: Locking,
        *,
        by: str | None = None,  # noqa: ARG002 - for those that lock what they read
        skip_locked: bool = False,
    ) -> Locking:
        """The same selection, with its rows locked (where the database has row locks).

        *by* names the index that finds the rows, without the prefix; None: they are found by their keys.
        """
        return statement.with_for_update(skip_locked=skip_locked)

    def share_rows(self, statement: Locking, *, skip_locked: bool = False) -> Locking:
        """The same selection, of rows found by their keys, which others may share but not change."""
        return statement.with_for_update(read=True, skip_locked=skip_locked)

    def remove_rows(self, connection: Connection, table: Table, keys: Sequence[Any]) -> None:
        """Delete the rows of these keys."""
        key = table.primary_key.columns.values()[0]
        connection.execute(delete(table).where(key.in_(list(keys))))

    def remove_owned(
        self,
        connection: Connection,
        owner: Column[Any],
        owners: Sequence[UUID],
        *where: ColumnElement[bool],
        by: str,  # noqa: ARG002 - for those that lock what they read
    ) -> None:
        """Delete the rows of the table of *owner* that are these *owners'*; the index *by* finds them."""
        connection.execute(delete(owner.table).where(owner.in_(list(owners)), *where))

    def as_they_are(self, statement: Locking) -> Locking:
        """The same selection, of rows that an insert of this transaction has met, as they are now.

        Where an insert locks what it meets, and a transaction may have an older view of it.
        """
        return statement

    def removal(self, table: Table, *where: ColumnElement[bool]) -> Any:
        """What ``remove_one`` runs: made once, since to build it takes longer than to run it."""
        return delete(table).where(*where).returning(*table.c)

    def remove_one(self, connection: Connection, removal: Any, values: Mapping[str, Any]) -> Row[Any] | None:
        """Delete the one row that is so, by the *values* of its parameters, and return it; None where there is none."""
        return connection.execute(removal, values).one_or_none()

    def insert_fresh(self, connection: Connection, table: Table, row: Mapping[str, Any]) -> bool:
        """Insert a row; False where its key exists, if need be when whoever writes it now has committed."""
        insert = self.insert_or_ignore(table).values(**row)
        return connection.execute(insert.execution_options(preserve_rowcount=True)).rowcount == 1

    def entry(self, ledger: Table) -> Any:
        """What ``enter`` runs: made once, as a removal is."""
        return self.insert_or_ignore(ledger).values(ended_at=self.clock).returning(ledger.c.ended_at)

    def enter(self, connection: Connection, entry: Any, row: Mapping[str, Any]) -> datetime | None:
        """Insert a row of the ledger, ended now; the database's time then, or None where its key exists."""
        moment: datetime | None = connection.scalar(entry, row)
        return moment


def unavailable(error: BaseException, remedy: str = "") -> DatabaseError:
    """The usual words for a database that cannot be reached."""
    first = str(error.__cause__ or error).strip().splitlines()[:1]
    return DatabaseUnavailable(
        f"the database does not answer ({first[0] if first else type(error).__name__}); "
        f"{remedy or 'see that it runs and that DULY_DATABASE_URL names it; nothing is half-written'}"
    )


def job_row(job: NewJob) -> dict[str, Any]:
    """A new job as the columns of its row."""
    return {
        "id": job.id,
        "origin": job.origin,
        "task": job.task,
        "fingerprint": job.fingerprint,
        "queue": job.queue,
        "priority": job.priority,
        "state": job.state.value,
        "run_at": job.run_at,
        "expires_at": job.expires_at,
        "enqueued_at": job.enqueued_at,
        "principal": job.principal,
        "digest": job.digest,
        "key_id": job.key_id,
        "envelope": job.envelope,
        "trace": job.trace,
        "holds": job.holds,
    }
