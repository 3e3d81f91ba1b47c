"""The store: everything SQL, behind one object that the rooms above are given.

It owns no policy and opens no envelopes. Own transactions are begun by ``writing`` and ``reading``;
the caller's are joined through ``joined``; a worker has a ``Line`` of its own.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import Connection, Engine, inspect, select
from sqlalchemy.exc import DBAPIError, UnboundExecutionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from duly.clock import Clock, DatabaseClock
from duly.errors import DatabaseUnavailable, SchemaError, SettingsError, WrongDatabase
from duly.model.job import ClaimedJob
from duly.store.dialect import StoreDialect, dialect_named
from duly.store.jobs import Jobs
from duly.store.ledger import Ledger
from duly.store.line import Line
from duly.store.marks import Marks
from duly.store.onces import Onces
from duly.store.passing import passes
from duly.store.proofs import Proofs
from duly.store.prune import Prune
from duly.store.rehearsal import Rehearsal
from duly.store.rescue import Rescue
from duly.store.resolutions import Resolutions
from duly.store.schema import REVISIONS, Names, tables
from duly.store.steps import Steps
from duly.store.suspects import Suspects
from duly.store.tasktransaction import AsyncTaskTransaction, TaskTransaction, async_session_class
from duly.store.upkeep import Upkeep
from duly.store.workers import Workers

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession


class Store:
    """One installation of Duly's tables in one database."""

    def __init__(
        self, engine: Engine, names: Names, clock: Clock, *, async_engine: AsyncEngine | None = None
    ) -> None:
        self.engine = engine
        self.async_engine = async_engine
        self.names = names
        self.tables = tables(names, engine.dialect.name)
        self.dialect: StoreDialect = dialect_named(engine.dialect.name, self.tables)
        self.jobs = Jobs(self.tables, self.dialect)
        self.outcomes = self.jobs.outcomes
        self.audit = self.jobs.audit_log
        self.upkeep = Upkeep(self.tables, self.dialect)
        self.rescue = Rescue(self.tables, self.dialect)
        self.rehearsal = Rehearsal(self.tables, self.dialect)
        self.suspects = Suspects(self.tables, self.dialect, self.jobs)
        self.ledger = Ledger(self.tables, self.dialect)
        self.marks = Marks(self.tables, self.dialect)
        self.prune = Prune(self.tables, self.dialect)
        self.resolutions = Resolutions(self.tables, self.dialect)
        self.workers = Workers(self.tables, self.dialect)
        self.steps = Steps(self.tables, self.dialect)
        self.onces = Onces(self.tables, self.dialect)
        self.proofs = Proofs(self.tables, self.dialect)
        self.clock = DatabaseClock(clock)
        self.installation: UUID | None = None
        self._known: weakref.WeakSet[Engine] = weakref.WeakSet()
        os.register_at_fork(before=_weakly(self._before_fork), after_in_child=_weakly(self._after_fork))

    def open(self) -> None:
        """Look at the database once: is it ours, of this release, and what time is it there?

        Raises ``SchemaError`` where the tables are missing, or older or newer than this release.
        """
        with self.guarded(), self.engine.connect() as connection:
            self.dialect.attach(connection)
            self._check_revision(self.revision(connection))
            connection.rollback()
            with connection.begin():
                self.installation = connection.scalar(select(self.tables.installation.c.id))
                self.clock.learn(connection.execute(select(self.dialect.clock)).scalar_one())
        self.adopt(self.engine)

    def adopt(self, engine: Engine) -> None:
        """Remember an engine as one of the queue's database."""
        if engine not in self._known:
            self.dialect.adopt(engine)
            self._known.add(engine)

    def revision(self, connection: Connection) -> str | None:
        """The schema's revision; None where there are no tables."""
        version = self.tables.version
        if not inspect(connection).has_table(version.name, schema=version.schema):
            return None
        found: str | None = connection.scalar(select(version.c.version_num))
        return found

    def _check_revision(self, found: str | None) -> None:
        if found is None:
            raise SchemaError("Duly's tables are not in this database yet: run `duly migrate`")
        self.check_not_newer(found)
        if found != REVISIONS[-1]:
            raise SchemaError(
                f"the tables are at revision {found}, this release needs {REVISIONS[-1]}: run `duly migrate`"
            )

    def check_not_newer(self, found: str) -> None:
        """Refuse tables that this release does not know."""
        if found not in REVISIONS:
            raise SchemaError(
                f"the tables are newer (revision {found}) than this release of Duly, which knows "
                f"{REVISIONS[-1]}: upgrade the package here, it never works on tables it does not know"
            )

    # ── transactions ──────────────────────────────────────────────────────────────────────────

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Turn the driver's errors into Duly's: unavailable, busy, no tables. Others pass as they are."""
        try:
            yield
        except DBAPIError as error:
            ours = self.dialect.translate(error)
            if ours is None:
                raise
            raise ours from error
        except OSError as error:  # asyncpg's, where the server is not there; a lock file that cannot be made
            raise DatabaseUnavailable(
                f"the database does not answer ({error}); nothing is half-written, try again"
            ) from error
        except PoolTimeout as error:
            raise DatabaseUnavailable(
                "no connection was free in the engine's pool; make the pool larger"
            ) from error

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A write transaction of Duly's own: committed at the end, rolled back by an exception."""
        with self.guarded(), self.engine.connect() as connection:
            self.dialect.begin(connection)
            yield connection
            connection.commit()

    @contextmanager
    def tending(self) -> Iterator[Connection]:
        """As ``writing``, for work on other people's rows: a freeze in it must not hold them up for long."""
        with self.writing() as connection:
            self.dialect.limit_waits(connection, lock=5.0, statement=30.0, idle=15.0)
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection for looking only."""
        with self.guarded(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def joined(self, connection: Connection) -> Iterator[Connection]:
        """The caller's own transaction, seen to be on the queue's database."""
        self.recognize(connection)
        moved = connection.get_execution_options().get("schema_translate_map") or {}
        if self.names.schema in moved:
            raise WrongDatabase(
                "the session's schema_translate_map would move Duly's tables: give Duly "
                "a schema of its own that the map leaves alone, Duly(url, schema=…)"
            )
        with self.guarded():
            self.dialect.join(connection)
            yield connection

    @asynccontextmanager
    async def writing_async(self) -> AsyncIterator[AsyncConnection]:
        """As ``writing``, on the async engine; run store functions on it by ``run_sync``."""
        assert self.async_engine is not None  # noqa: S101 - callers ask first
        with self.guarded():
            async with self.async_engine.connect() as connection:
                await self.get_to_know(connection)
                await connection.run_sync(self.dialect.begin)
                yield connection
                await connection.commit()

    def recognize(self, connection: Connection) -> None:
        """Check, once an engine, that a connection is on the queue's database; else ``WrongDatabase``.

        Asked through the connection itself (which installation do you see?), since two URLs may name
        one database, and one URL two.
        """
        if connection.engine in self._known:
            return
        if not self.dialect.speaks_to(connection.dialect.name):
            raise WrongDatabase(
                f"the session given is on {connection.dialect.name}, the queue on {self.dialect.name}: the job "
                "could not commit with it; leave session= out, or give a session on the queue's database"
            )
        table = self.tables.installation
        seen = None
        if inspect(connection).has_table(table.name, schema=table.schema):
            seen = connection.scalar(select(table.c.id))
        if seen != self.installation:
            raise WrongDatabase(
                "the session given is on another database than the queue: the job could not commit with it; "
                "leave session= out, or give a session on the queue's database"
            )
        self.adopt(connection.engine)

    @staticmethod
    def passes(error: BaseException) -> bool:
        """Whether what a task's own statements met passes by itself: busy, away, or a lost race."""
        return passes(error)

    async def get_to_know(self, connection: AsyncConnection) -> None:
        """``recognize``, on a connection fresh from its pool, which it leaves like that."""
        if connection.engine.sync_engine not in self._known:
            await connection.run_sync(self.recognize)
            await connection.rollback()

    def held_up_by(self, connection: Connection) -> bool:
        """Whether a write transaction of ours would wait for the one that *connection* is in, for ever.

        A driver that begins before the first write cannot tell the one from the other.
        """
        if not (self.dialect.one_writer and self.dialect.speaks_to(connection.dialect.name)):
            return False
        with suppress(WrongDatabase):
            self.recognize(connection)
            driver: Any = connection.connection.driver_connection
            return bool(driver.in_transaction)
        return False

    def tell_time(self) -> None:
        """Read the database's clock again when the last reading is old."""
        if self.clock.stale:
            with self.reading() as connection:
                self.clock.learn(connection.execute(select(self.dialect.clock)).scalar_one())

    def owns(self, factory: Callable[..., Any]) -> bool:
        """Whether the sessions of the application's factory are on the queue's database; unbound ones will be."""
        with self.guarded():
            try:
                for bind in (getattr(factory, "kw", {}).get("binds") or {}).values():
                    if isinstance(bind, Engine):
                        with bind.connect() as connection:
                            self.recognize(connection)
                with closing(factory()) as session:
                    self.recognize(session.connection())
            except UnboundExecutionError:
                return True
            except WrongDatabase:
                return False
        return True

    async def recognize_async(self, factory: Callable[..., Any] | None) -> None:
        """``SettingsError`` unless the async engine, and what *factory* binds, are on the queue's database."""
        engines = [self.async_engine, *(getattr(factory, "kw", {}).get("binds") or {}).values()]
        for engine in engines:
            if hasattr(engine, "run_sync") or not hasattr(engine, "sync_engine"):
                continue  # a connection, or no async engine at all
            with self.guarded():
                try:
                    async with engine.connect() as connection:
                        await connection.run_sync(self.recognize)
                except RuntimeError:
                    continue  # the engine is at work in another loop: its first enqueue will tell
                except WrongDatabase:
                    raise SettingsError(
                        "async_engine= or async_session= is on another database than the queue: jobs enqueued "
                        "through it would not be seen, nor could async tasks commit with them; use one database"
                    ) from None
                finally:
                    with suppress(RuntimeError):
                        await engine.dispose()  # its connections belong to this loop

    def task_transaction(self, worker: str, job: ClaimedJob, **limits: Any) -> TaskTransaction:
        """The transaction of one attempt of a transactional task."""
        return TaskTransaction(self, worker, job, **limits)

    def async_task_transaction(self, worker: str, job: ClaimedJob, **limits: Any) -> AsyncTaskTransaction:
        """The same on the async engine."""
        return AsyncTaskTransaction(self, worker, job, **limits)

    def own_session(self, factory: Callable[..., Session] | None) -> Session:
        """A session in a transaction of its own, for a task that is not transactional."""
        return factory() if factory is not None else Session(self.engine)

    def own_async_session(self, factory: Callable[..., AsyncSession] | None) -> AsyncSession:
        """The same for async tasks."""
        return factory() if factory is not None else async_session_class()(self.async_engine)

    def line(self, *, lock: float, statement: float, idle: float) -> Line:
        """A worker's own connection, with its own short time-outs in seconds."""
        return Line(self, lock=lock, statement=statement, idle=idle)

    def disconnect(self) -> None:
        """Close what the engine's pool holds: before a fork, and when the app closes."""
        self.engine.dispose()

    def _before_fork(self) -> None:
        """SQLite keeps state of a file per process: a child that inherits it may read a stale index of the WAL."""
        if self.dialect.name == "sqlite":
            self.engine.dispose()

    def _after_fork(self) -> None:
        """In a forked child: the parent's connections are not ours to use or to close."""
        self.engine.dispose(close=False)
        if self.async_engine is not None:
            self.async_engine.sync_engine.dispose(close=False)

    def describe(self) -> dict[str, Any]:
        """Where this is, without secrets."""
        return {"database": self.engine.url.render_as_string(hide_password=True), "prefix": self.names.prefix}


def _weakly(method: Callable[[], None]) -> Callable[[], None]:
    """The method while its object lives: what is registered at fork stays registered for ever."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        alive = reference()
        if alive is not None:
            alive()

    return call
