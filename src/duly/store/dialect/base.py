"""What differs between databases: the clock, how a transaction begins, the hot statements, liveness."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Engine, Insert, Select, Table, TextClause
from sqlalchemy.exc import DBAPIError

from duly.errors import DatabaseError, DatabaseUnavailable, DulyError
from duly.model.job import ClaimedJob, NewJob
from duly.model.report import Succeeded
from duly.store.schema import Tables

CLAIMED = (
    "id", "origin", "task", "queue", "priority", "claim", "attempt", "rescues",
    "run_at", "expires_at", "enqueued_at", "principal", "envelope",
)  # fmt: skip
"""The columns of a claim, in the order of ``ClaimedJob``'s fields."""

ENDED = (
    "origin", "task", "queue", "fingerprint", "priority", "worker", "claim", "deaths", "rescues",
    "enqueued_at", "run_at", "expires_at", "principal", "digest", "key_id", "trace",
)  # fmt: skip
"""The columns that go from a job's row into its ledger row as they are."""

BEST_FIRST = attrgetter("priority", "run_at", "id.int")
"""The order of claimed jobs. The id by its number, since UUIDs compare in Python, and many are due at once."""


@dataclass(slots=True)
class Exchanged:
    """What an exchange brought: jobs to run, and which of the outcomes handed in were not accepted.

    ``lost``: ids whose fence was gone and that the ledger does not know under that claim.
    ``replayed``: claimed rows that the ledger says have ended before; they are removed already.
    ``alive`` is False when the worker's own row is gone, so that it was given nothing.
    """

    claimed: list[ClaimedJob] = field(default_factory=list)
    lost: set[UUID] = field(default_factory=set)
    replayed: list[ClaimedJob] = field(default_factory=list)
    alive: bool = True


class StoreDialect(ABC):
    """One database's ways. Every statement here is written once and used from ``duly.store`` alone."""

    name: str
    beats: bool
    """Whether liveness is a heartbeat row (else an OS lock)."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    @property
    @abstractmethod
    def clock(self) -> ColumnElement[datetime]:
        """The database's time now, as an expression."""

    def attach(self, connection: Connection) -> None:
        """Look at the database once, when the store is opened."""

    def join(self, connection: Connection) -> None:
        """Prepare the caller's own transaction for a write of Duly's."""

    def adopt(self, engine: Engine) -> None:
        """Mend what an application's engine needs before its transactions can be joined."""

    def prepare_schema(self, connection: Connection) -> None:
        """Before a migration: make the schema where one is named, and keep other migrations waiting."""

    @abstractmethod
    def begin(self, connection: Connection) -> None:
        """Begin a write transaction of Duly's own on a connection fresh from the pool."""

    @abstractmethod
    def limit_waits(self, connection: Connection, *, lock: float, statement: float, idle: float) -> None:
        """Bound, for this transaction, how long a lock, a statement and a pause between two may take (seconds)."""

    @abstractmethod
    def begin_task(self, connection: Connection, *, idle: float) -> None:
        """Begin the transaction of a transactional task, which may stay idle for so many seconds."""

    @abstractmethod
    def limit_idle(self, connection: Connection, *, idle: float) -> None:
        """Lower the idle limit, just before the first statement that locks the job's row."""

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
    ) -> Exchanged:
        """The hot case: record successes and claim at most *limit* jobs of *queues*, the best first."""

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

    def lock_rows(self, statement: Select[Any], *, skip_locked: bool = False) -> Select[Any]:
        """The same selection, with its rows locked (where the database has row locks)."""
        return statement.with_for_update(skip_locked=skip_locked)


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
    }
