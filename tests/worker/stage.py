"""Apps and workers on one database, in this process; what they tell is kept, and can be waited for.

Two kinds of worker: a ``Working`` one runs in a thread, as in real life, and is waited for by events and
handles; a ``TurnedWorker`` is turned by the test, one turn at a time, on a clock that the test turns as well.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, Self, TypeVar
from uuid import UUID

from sqlalchemy import insert, select, update

from duly import Duly, JobHandle
from duly.clock import Clock
from duly.errors import DatabaseUnavailable
from duly.model.events import Event
from duly.worker.pump import Pump
from duly.worker.queues import Selection
from tests.databases import Database
from tests.worker.turned import TurnedClock

E = TypeVar("E", bound=Event)
PATIENCE = 20.0
"""Seconds that a test waits for what must happen; nothing takes so long."""


class Journal:
    """All events of an app, in order; ``wait_for`` returns when the one awaited is there."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = threading.Condition()

    def note(self, event: Event) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def wait_for(self, kind: type[E], count: int = 1) -> list[E]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.of(kind)) >= count, PATIENCE), (kind, self.events)
            return self.of(kind)


class Stage:
    """One database, and everyone on it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.sqlite = database.name == "sqlite"
        self.patience = 5.0
        self._made: list[Duly] = []
        self._turned: list[TurnedWorker] = []

    # ── who plays ─────────────────────────────────────────────────────────────────────────────

    def app(
        self, *, settings: dict[str, Any] | None = None, on: Database | None = None, **options: Any
    ) -> App:
        """An app with open, migrated tables and short polls."""
        database = on or self.database
        with database.furnished() as url:
            app = App(url, **options)
            app.settings = replace(app.settings, **({"poll": 0.02} | (settings or {})))
            app.migrate()
        self._made.append(app)
        return app

    def turned(self, app: App, **options: Any) -> TurnedWorker:
        """A worker that the test turns."""
        turned = TurnedWorker(self, app, **options)
        self._turned.append(turned)
        return turned

    def close(self) -> None:
        for turned in self._turned:
            turned.close()
        for app in self._made:
            app.close()

    # ── what the database holds ───────────────────────────────────────────────────────────────

    def row(self, app: Duly, job: Any) -> dict[str, Any] | None:
        table = app.store.tables.jobs
        return self._one(app, select(table).where(table.c.id == _id(job)))

    def ended(self, app: Duly, job: Any) -> dict[str, Any] | None:
        table = app.store.tables.executions
        return self._one(app, select(table).where(table.c.job_id == _id(job)))

    def outcome(self, app: Duly, job: Any) -> str | None:
        found = self.ended(app, job)
        return None if found is None else found["outcome"]

    def workers(self, app: Duly) -> set[str]:
        return {worker.id for worker in app.manage.workers()}

    def audited(self, app: Duly) -> list[tuple[str, str, UUID | None]]:
        audit = app.store.tables.audit.c
        with app.store.reading() as connection:
            rows = connection.execute(
                select(audit.actor, audit.action, audit.job_id).order_by(audit.at, audit.id)
            )
            return [tuple(row) for row in rows]

    def _one(self, app: Duly, statement: Any) -> dict[str, Any] | None:
        with app.store.reading() as connection:
            row = connection.execute(statement).one_or_none()
            return None if row is None else dict(row._mapping)

    # ── a turned that reaches in ────────────────────────────────────────────────────────────────

    def alter(self, app: Duly, job: Any, **columns: Any) -> None:
        """Change columns of a job's row, past all rules."""
        jobs = app.store.tables.jobs
        with app.store.writing() as connection:
            assert (
                connection.execute(update(jobs).where(jobs.c.id == _id(job)).values(**columns)).rowcount == 1
            )

    def put_back(self, app: Duly, row: dict[str, Any] | None) -> None:
        """A row of jobs as it was once."""
        assert row is not None
        with app.store.writing() as connection:
            connection.execute(insert(app.store.tables.jobs), [row])

    def make_due(self, app: Duly, job: Any) -> None:
        """What is scheduled comes due now."""
        with app.store.reading() as connection:
            now = connection.execute(select(app.store.dialect.clock)).scalar_one()
        self.alter(app, job, run_at=now - timedelta(seconds=1))

    def remove_worker(self, app: Duly, worker: str) -> None:
        """As its supervisor, or a judge, does."""
        with app.store.writing() as connection:
            app.store.workers.remove(connection, [worker])

    def silence(self, app: Duly, by: float) -> None:
        """All workers' last beats were so many seconds earlier."""
        workers = app.store.tables.workers
        with app.store.writing() as connection:
            for row in connection.execute(select(workers.c.id, workers.c.beat_at)).all():
                moved = row.beat_at - timedelta(seconds=by)
                connection.execute(update(workers).where(workers.c.id == row.id).values(beat_at=moved))

    # ── effects ───────────────────────────────────────────────────────────────────────────────

    def make_effects(self, *databases: Database) -> None:
        """A table of the application's."""
        for database in databases or (self.database,):
            database.rows("CREATE TABLE effects (name TEXT NOT NULL)")

    def effects(self, database: Database | None = None) -> list[str]:
        return sorted(row[0] for row in (database or self.database).rows("SELECT name FROM effects"))


class App(Duly):
    """An app that keeps its events."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.journal = Journal()
        self.emitter.subscribe(self.journal.note, successes=True)


class Working:
    """A worker in a thread: ``with working(app) as worker: …``; it drains at the end."""

    def __init__(
        self, app: Duly, *, queues: tuple[str, ...] = ("*",), threads: int = 2, **options: Any
    ) -> None:
        self.pump = Pump(app, Selection(queues), threads=threads, coroutines=10, **options)
        self.ids: list[str] = []
        self.clean: bool | None = None
        self.error: BaseException | None = None
        self._joined = threading.Event()
        self._thread = threading.Thread(target=self._run, name="duly-test-worker")

    def _run(self) -> None:
        try:
            self.clean = self.pump.run(self._announce)
        except BaseException as error:
            self.error = error
            self._joined.set()

    def _announce(self, worker: str) -> None:
        self.ids.append(worker)
        self._joined.set()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._joined.wait(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, grace: float = PATIENCE) -> None:
        self.pump.drain(grace)
        self.join()

    def join(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error


class TurnedWorker:
    """A worker whose pump the test turns; its lanes are real."""

    def __init__(
        self,
        stage: Stage,
        app: App,
        *,
        threads: int = 2,
        coroutines: int = 4,
        queues: tuple[str, ...] = ("*",),
        clock: Clock | None = None,
    ) -> None:
        self.stage, self.app = stage, app
        self.clock = clock or TurnedClock()
        self.pump = Pump(app, Selection(queues), threads=threads, coroutines=coroutines, clock=self.clock)
        self.gone = False
        self.pump._lanes.start()
        with self.pump._transaction() as connection:
            self.pump._standing.join(connection)

    @property
    def id(self) -> str:
        return self.pump.membership.id

    @property
    def held(self) -> set[UUID]:
        return {ticket.job.id for ticket in self.pump._hand.tickets}

    def turn(self, seconds: float = 0.0) -> bool:
        """One turn, after the clock was turned."""
        if seconds:
            assert isinstance(self.clock, TurnedClock)
            self.clock.turn(seconds)
        self.pump._look = True
        return self.pump.turn()

    def beat(self) -> bool:
        return self.turn(self.app.settings.beat)

    def until(self, condition: Callable[[], Any], what: str = "what the test waits for") -> None:
        """Turn until it is so; what the lanes hand in ends each rest."""
        deadline = time.monotonic() + self.stage.patience
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come"
            if not self.turn():
                with contextlib.suppress(AttributeError):
                    self.pump._sleep()

    def until_ended(self, *handles: JobHandle[Any]) -> None:
        self.until(lambda: all(handle.refresh().outcome for handle in handles), "the end of the jobs")

    def die(self) -> None:
        """As a killed process does: its connection and its lock are gone, its row and its claims stay."""
        self.gone = True
        for ticket in self.pump._hand.tickets:
            ticket.take()
            ticket.cancellation.set()
        self.pump._line.close()
        self.app.store.dialect.drop_liveness(self.id)
        self.pump._lanes.stop()

    def leave(self) -> bool:
        self.gone = True
        return self.pump._leave()

    def close(self) -> None:
        if not self.gone:
            self.leave()

    # ── trouble ───────────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def cut_off(self) -> Iterator[None]:
        """While it lasts the database is not there, for this worker."""
        line = self.pump._line

        @contextlib.contextmanager
        def transaction() -> Iterator[Any]:
            line.close()
            raise DatabaseUnavailable("cut off by the test")
            yield

        line.transaction = transaction  # type: ignore[method-assign]
        try:
            yield
        finally:
            del line.transaction

    def lose_commit(self, service: Any, verb: str) -> list[int]:
        """The first transaction in which *verb* was used is rolled back just before its COMMIT; whether one was."""
        line, act, used, lost = self.pump._line, getattr(service, verb), [], list[int]()
        real = line.transaction

        def noted(*args: Any, **options: Any) -> Any:
            used.append(1)
            return act(*args, **options)

        @contextlib.contextmanager
        def transaction() -> Iterator[Any]:
            with real() as connection:
                yield connection
                if used:
                    lost.append(1)
                    del line.transaction
                    delattr(service, verb)
                    raise DatabaseUnavailable("lost before its COMMIT")

        setattr(service, verb, noted)
        line.transaction = transaction  # type: ignore[method-assign]
        return lost

    def lose_reply(self, times: int = 1) -> None:
        """The next exchanges commit, and nobody reads their replies: the connection is gone."""
        line, jobs = self.pump._line, self.app.store.jobs
        real, exchange, left, seen = line.transaction, jobs.exchange, [times], []

        def noted(*args: Any, **options: Any) -> Any:
            seen.append(1)
            return exchange(*args, **options)

        @contextlib.contextmanager
        def transaction() -> Iterator[Any]:
            seen.clear()
            with real() as connection:
                yield connection
            if seen and left[0]:
                left[0] -= 1
                if not left[0]:
                    del line.transaction
                    del jobs.exchange
                line.close()
                raise DatabaseUnavailable("the reply was lost")

        jobs.exchange = noted  # type: ignore[method-assign]
        line.transaction = transaction  # type: ignore[method-assign]


class Gate:
    """A job that says it runs and waits to be let go."""

    def __init__(self) -> None:
        self.running = threading.Semaphore(0)
        self._open = threading.Event()
        self.runs = 0

    def pass_through(self) -> None:
        self.runs += 1
        self.running.release()
        assert self._open.wait(PATIENCE), "nobody opened the gate"

    def wait_running(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.running.acquire(timeout=PATIENCE), "no job came to the gate"

    def open(self) -> None:
        self._open.set()


def _id(job: Any) -> UUID:
    return job if isinstance(job, UUID) else job.id
