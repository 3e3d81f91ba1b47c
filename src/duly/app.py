"""``Duly``: the object a user makes. It puts the rooms together, and is the only file that sees them all.

Constructing it costs no database library: the store is opened with the first use.
"""

from __future__ import annotations

import importlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar, Unpack
from uuid import UUID

from duly.client import Client
from duly.clock import Clock
from duly.envelope.arguments import Limits
from duly.envelope.seal import Sealer
from duly.errors import ConfigurationError, DatabaseBusy, DeclarationError, SchemaError, SettingsError
from duly.manage.desk import Desk
from duly.manage.manage import Manage
from duly.model.events import Emitter, Notice
from duly.model.ids import job_id
from duly.model.names import check_name
from duly.model.options import DEFAULTS, Options, QueueOptions
from duly.proof.audit import overdue
from duly.settings import Notifying, Settings
from duly.task.handle import JobHandle
from duly.task.tasks import RouterOptions, Tasks
from duly.worker.assignment import Pool, assign
from duly.worker.drain import drain, run_now
from duly.worker.queues import EVERYTHING, Selection
from duly.worker.ready import check_injections
from duly.worker.supervisor import Supervisor

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
    from sqlalchemy.orm import Session

    from duly.store import Store
    from duly.task.call import Call
    from duly.task.task import Task

R = TypeVar("R")
_PLAIN = "DULY_KEYS is not set, so envelopes are plain; `duly keys new` makes a key"
_QUEUE_OPTIONS = tuple(QueueOptions.__annotations__)


class Duly(Tasks):
    """Background jobs on one database.

    ``database`` is a URL (``sqlite:///jobs.db``, ``postgresql://host/name``) or your SQLAlchemy
    ``Engine``; without it ``DULY_DATABASE_URL`` counts, else ``sqlite:///duly.db``. ``async_engine``
    serves async callers and async tasks that ask for an ``AsyncSession``; without it async verbs use
    the sync engine in a thread. ``session`` is your session factory (``sessionmaker``), used for tasks that ask
    for a ``Session``, and ``async_session`` the same for ``AsyncSession``. ``include`` joins ``Tasks``
    routers, modules, or names of modules to import when the app is loaded. ``queues`` gives options
    to whole queues; further options (``max_attempts=…``) are defaults for all jobs of the app. ``strict`` refuses tasks
    that do not state their ``effects=``.

    Raises ``ConfigurationError`` for whatever can be seen to be wrong without a database.
    """

    def __init__(
        self,
        database: str | Engine | None = None,
        *,
        async_engine: AsyncEngine | None = None,
        session: Callable[..., Session] | None = None,
        async_session: Callable[..., AsyncSession] | None = None,
        include: Iterable[str | Tasks | ModuleType] = (),
        queues: Mapping[str, QueueOptions] | None = None,
        prefix: str | None = None,
        schema: str | None = None,
        keys: str | None = None,
        clock: Clock | None = None,
        strict: bool = False,
        **options: Unpack[RouterOptions],
    ) -> None:
        super().__init__()
        self.settings = Settings.read(
            database_url=database if isinstance(database, str) else None,
            prefix=prefix,
            schema=schema,
            keys=keys,
        )
        self.app_options = Options.read(
            dict(options), allowed=(*_QUEUE_OPTIONS, "queue"), where="Duly()", error=DeclarationError
        )
        self.queues = {name: _queue_options(name, given) for name, given in (queues or {}).items()}
        self._strict = strict
        self.emitter = Emitter()
        self.sealer = Sealer(self.settings.keys)
        self.limits = Limits(size=self.settings.arguments_size, depth=self.settings.arguments_depth)
        self.client = Client(self)
        self.desk = Desk(self)
        self.manage = Manage(self)
        # A scoped session hands out one session a thread; what a task needs is one of its own.
        self.session_factory = getattr(session, "session_factory", session)
        self.async_session_factory = getattr(async_session, "session_factory", async_session)
        self._clock = clock or Clock()
        self._engine = _sync_engine(database)
        self._async_engine = async_engine
        self._store: Store | None = None
        self._opening = threading.Lock()
        self._base_options: dict[tuple[str, str | None], Options] = {}
        self._modules = [part for part in include if isinstance(part, str)]
        self._inline: ContextVar[list[UUID] | None] = ContextVar("duly_inline", default=None)
        for part in include:
            if not isinstance(part, str):
                self._join(part)

    # ── tasks ─────────────────────────────────────────────────────────────────────────────────

    def check(self, task: Task[..., Any]) -> None:
        """Where the app is strict: refuse a task that does not say what its effects allow."""
        if self._strict and task.effects is None:
            raise DeclarationError(
                f"{task.name} ({task.where}) does not state its effects, and this app is strict: add effects=, "
                '"transactional" where all it does is in the database, "idempotent" where repeating does no harm, '
                '"unrepeatable" where it must not be repeated'
            )

    def joined(self, task: Task[..., Any]) -> None:
        """A task was declared here or came in with a router: its jobs go through this app."""
        task.client = self.client

    def _join(self, part: Tasks | ModuleType) -> None:
        if isinstance(part, Tasks):
            self.include(part)
            return
        if not isinstance(part, ModuleType):
            raise DeclarationError(f"include= takes module names, modules and Tasks routers, not {part!r}")
        for value in vars(part).values():
            if isinstance(value, Tasks) and not isinstance(value, Duly):
                self.include(value)

    def load(self) -> None:
        """Import the modules that ``include=`` names, and join their routers. Workers do this at start."""
        modules, self._modules = self._modules, []
        for name in modules:
            try:
                self._join(importlib.import_module(name))
            except ModuleNotFoundError as error:
                raise ConfigurationError(f"include={name!r}: no module {error.name!r} on the path") from error

    def options_of(self, task: Task[..., Any], queue: str | None) -> Options:
        """What holds for a task's jobs in *queue* (its own where None): task over queue over app over defaults."""
        found = self._base_options.get((task.name, queue))
        if found is None:
            farther = self.app_options.over(DEFAULTS)
            named = queue or task.options.queue or farther.queue or ""
            found = task.options.over(self.queues.get(named, Options())).over(farther)
            self._base_options[task.name, queue] = found
        return found

    # ── the store ─────────────────────────────────────────────────────────────────────────────

    @property
    def store(self) -> Store:
        """The store, opened with its first use. A new SQLite file gets its tables by itself."""
        return self._store or self._open()

    def _open(self) -> Store:
        with self._opening:
            if self._store is None:
                store = self._make_store()
                try:
                    store.open()
                except SchemaError:
                    if not self._may_make_tables(store):
                        raise
                    self._make_tables(store)
                    store.open()
                self._store = store
        return self._store

    def _make_store(self) -> Store:
        from duly.store import Names, Store, make_engine

        engine = self._engine
        if engine is None:
            engine = self._engine = make_engine(self.settings.database_url)
        names = Names(self.settings.prefix, self.settings.schema)
        if names.schema is not None and engine.dialect.name != "postgresql":
            raise SettingsError(
                "schema= is for PostgreSQL; elsewhere use prefix= (SQLite has none, on MySQL it is the URL's database)"
            )
        return Store(engine, names, self._clock, async_engine=self._async_engine)

    @staticmethod
    def _may_make_tables(store: Store) -> bool:
        with store.reading() as connection:
            return store.dialect.name == "sqlite" and store.revision(connection) is None

    def _make_tables(self, store: Store) -> None:
        try:
            self._migrate(store)
        except DatabaseBusy as error:
            raise SchemaError(
                "Duly's tables are not in this SQLite file yet, and cannot be made while another connection (your own "
                "transaction?) writes to it: call jobs.migrate() once before, or run `duly migrate`"
            ) from error

    @staticmethod
    def _migrate(store: Store) -> tuple[str | None, str | None]:
        from duly.store import migrate

        return migrate(store)

    def migrate(self) -> tuple[str | None, str | None]:
        """Make the tables, or bring them to this release; the revisions before and after."""
        return self._migrate(self._store or self._make_store())

    def close(self) -> None:
        """Give back all database connections. The app opens itself again with the next use."""
        self._store = None
        if self._engine is not None:
            self._engine.dispose()

    # ── jobs ──────────────────────────────────────────────────────────────────────────────────

    def enqueue_many(
        self,
        calls: Iterable[Call[R]],
        *,
        session: Session | None = None,
        connection: Connection | None = None,
    ) -> list[JobHandle[R]]:
        """Enqueue many calls in one round trip, all or nothing: ``jobs.enqueue_many(t.call(i) for i in ids)``."""
        return self.client.enqueue_many(list(calls), target=connection if session is None else session)

    async def aenqueue_many(
        self,
        calls: Iterable[Call[R]],
        *,
        session: AsyncSession | None = None,
        connection: AsyncConnection | None = None,
    ) -> list[JobHandle[R]]:
        """The async twin of ``enqueue_many``."""
        return await self.client.aenqueue_many(list(calls), target=connection if session is None else session)

    def handle(self, job: UUID | str) -> JobHandle[Any]:
        """A handle for a job whose id you kept; it is looked up when you ask it something."""
        return JobHandle(job_id(job), self.desk)

    # ── workers ───────────────────────────────────────────────────────────────────────────────

    def check_ready(self) -> None:
        """See that workers could run what is declared here; ``ConfigurationError`` says what they could not."""
        self.load()
        store = self.store
        if self.sealer.key_id is not None:
            with store.reading() as connection:
                if store.jobs.plain_jobs(connection):
                    raise SettingsError(
                        "DULY_KEYS is set, and jobs with plain envelopes still wait, which a key would reject. "
                        "Let workers without the key finish them (`duly workoff`), or `duly clear`, then start again"
                    )
        check_injections(self)

    def supervise(
        self,
        *,
        queues: Sequence[str] = EVERYTHING,
        processes: int | None = None,
        pools: Sequence[Pool] | None = None,
        threads: int | None = None,
        grace: float | None = None,
        max_jobs: int | None = None,
        max_memory: int | None = None,
        until_empty: bool = False,
    ) -> int:
        """Run workers in processes of their own until a signal says to stop: what ``duly work`` does.

        For the main thread. *processes* of them serve *queues*, or else *pools* say how many serve which.
        What is None comes from the settings; *grace* is in seconds, *max_memory* in MiB. Returns 0 when all
        workers left cleanly, 1 when some were cut off. With *until_empty* they leave when nothing is left to do.
        """
        if pools is not None and (processes is not None or tuple(queues) != EVERYTHING):
            raise SettingsError("supervise() takes pools=, or queues= and processes=, not both")
        asked = self.settings.asked(
            processes=processes, threads=threads, grace=grace, max_jobs=max_jobs, max_memory=max_memory
        )
        assignments = assign(asked, [Pool(queues, asked.processes)] if pools is None else pools, until_empty)
        self.check_ready()
        if self.sealer.key_id is None:
            self.emitter.emit(Notice(_PLAIN, "info"))
        if long_ago := overdue(self):
            self.emitter.emit(Notice(long_ago))
        return Supervisor(self, assignments, notifying=Notifying.read()).run()

    # ── tests ─────────────────────────────────────────────────────────────────────────────────

    def drain(self, *, queues: Sequence[str] = EVERYTHING) -> Counter[str]:
        """Run what is due, here and now, until nothing is; how the attempts ended, counted by word.

        For tests: it is a worker, with its exchange and executor, that runs one job at a time and
        leaves when it finds nothing. A job that fails is put back for its retry, as in any worker.
        """
        self.load()
        return drain(self, Selection(queues))

    @contextmanager
    def inline(self) -> Iterator[None]:
        """Within it each enqueue runs its job at once, and the job's exception reaches the caller.

        For tests. A job enqueued inside a caller's transaction (``session=``) runs at the end of the
        ``with`` block, if it was committed. There are no retries.
        """
        later: list[UUID] = []
        token = self._inline.set(later)
        try:
            yield
        finally:
            self._inline.reset(token)
        run_now(self, later)

    def after_enqueue(self, jobs: Sequence[UUID], *, joined: bool) -> None:
        """While ``inline()``: run jobs at once, or later those that the caller's transaction has yet to commit."""
        later = self._inline.get()
        if later is None:
            return
        if joined:
            later.extend(jobs)
        else:
            run_now(self, jobs)


def _sync_engine(database: str | Engine | None) -> Engine | None:
    if database is None or isinstance(database, str):
        return None
    if hasattr(database, "sync_engine"):
        raise SettingsError(
            "Duly() takes a sync engine or a URL first; give the async one beside it: Duly(url, async_engine=engine)"
        )
    if not hasattr(database, "connect"):
        raise SettingsError(
            f"Duly() takes a database URL or a SQLAlchemy Engine, not {type(database).__name__}"
        )
    return database


def _queue_options(name: str, given: QueueOptions) -> Options:
    try:
        check_name("queue", name)
    except (TypeError, ValueError) as fault:
        raise DeclarationError(f"Duly(queues=…): {fault}") from None
    return Options.read(dict(given), allowed=_QUEUE_OPTIONS, where=f"queue {name!r}", error=DeclarationError)
