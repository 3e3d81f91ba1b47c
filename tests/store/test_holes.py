"""Holes that were once found where sessions, engines, locks and clocks meet the tables."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, select, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool, SingletonThreadPool, StaticPool

from duly import Duly
from duly.errors import EnqueueError, LeaseLost, SettingsError, WrongDatabase
from duly.store import Names, Store, make_engine, migrate
from tests.databases import Database
from tests.store.scene import Scene, failed, now, retried, succeeded
from tests.worker.turned import TurnedClock

PATIENCE = 10.0


@pytest.fixture
def make() -> Iterator[Any]:
    """Apps with one task; they are closed at the end."""
    made: list[Duly] = []

    def make(database: Any, **options: Any) -> Any:
        app = Duly(database, **options)
        made.append(app)
        return app, app.task(name="tests.note")(_note)

    yield make
    for app in made:
        app.close()


def _note(n: int = 0) -> None:
    if n < 0:
        raise ValueError


# ── an async engine on another database ───────────────────────────────────────────────────────


@pytest.mark.parametrize("migrated", [True, False], ids=["with tables", "without"])
def test_an_async_engine_on_another_database_is_refused(
    database: Database, other_database: Database, store: Store, open_store: Any, make: Any, migrated: bool
) -> None:
    elsewhere = open_store(other_database, made_tables=migrated)
    app, note = make(
        database.url, async_engine=create_async_engine(other_database.async_url, poolclass=NullPool)
    )
    app.task(name="tests.async", effects="transactional")(_async_note)
    with pytest.raises((SettingsError, WrongDatabase)):
        app.check_ready()
    for _ in range(2):
        with pytest.raises(WrongDatabase):
            asyncio.run(note.aenqueue(1))
        with pytest.raises(WrongDatabase):
            asyncio.run(app.aenqueue_many([note.call(1), note.call(2)]))
    assert Scene(store).count() == 0
    if migrated:
        assert Scene(elsewhere).count() == 0


async def _async_note() -> None: ...


def test_an_async_engine_on_the_queues_database_is_taken(database: Database, store: Store, make: Any) -> None:
    app, note = make(database.url, async_engine=create_async_engine(database.async_url, poolclass=NullPool))
    app.task(name="tests.async", effects="transactional")(_async_note)
    app.check_ready()
    asyncio.run(note.aenqueue(1))
    assert app.drain() == {"succeeded": 1}


# ── transactions that are none ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("where", ["engine", "connection", "known engine"])
def test_a_session_that_commits_each_statement_is_refused(
    database: Database, store: Store, make: Any, where: str
) -> None:
    app, note = make(database.url)
    options = {"isolation_level": "AUTOCOMMIT"}
    engine = create_engine(database.url, poolclass=NullPool, **(options if where == "engine" else {}))
    if where == "known engine":
        with Session(engine) as session, session.begin():
            note.using(session=session).enqueue(1)
    elsewise = {} if where == "engine" else options
    with engine.connect().execution_options(**elsewise) as connection, Session(connection) as session:
        with pytest.raises(EnqueueError):
            note.using(session=session).enqueue(2)
        with pytest.raises(EnqueueError):
            app.enqueue_many([note.call(2), note.call(3)], session=session)
        with pytest.raises(EnqueueError):
            note.using(connection=connection).enqueue(4)
        session.rollback()
    assert app.drain() == ({"succeeded": 1} if where == "known engine" else {})


def test_an_async_session_that_commits_each_statement_is_refused(
    database: Database, store: Store, make: Any
) -> None:
    app, note = make(database.url)
    engine = create_async_engine(database.async_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")

    async def enqueue() -> None:
        async with AsyncSession(engine) as session:
            with pytest.raises(EnqueueError):
                await note.using(session=session).aenqueue(1)
            await session.rollback()

    asyncio.run(enqueue())
    assert app.drain() == {}


def test_an_sqlite_engine_that_begins_by_itself_is_taken(
    sqlite_database: Database, open_store: Any, make: Any
) -> None:
    """SQLAlchemy's recipe for real savepoints: sqlite3 is told to begin nothing, and an event does."""
    open_store(sqlite_database)
    app, note = make(sqlite_database.url)
    engine = create_engine(sqlite_database.url, poolclass=NullPool)

    @event.listens_for(engine, "connect")
    def leave_it(driver: Any, _: Any) -> None:
        driver.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    with Session(engine) as session:
        note.using(session=session).enqueue(1)
        session.rollback()
        note.using(session=session).enqueue(2)
        session.commit()
    assert app.drain() == {"succeeded": 1}


def test_duly_works_on_an_autocommit_engine_in_transactions_of_its_own(
    database: Database, store: Store, make: Any
) -> None:
    app, note = make(create_engine(database.url, isolation_level="AUTOCOMMIT"))
    note.enqueue(1)
    with contextlib.suppress(ZeroDivisionError), app.store.writing() as connection:
        connection.execute(text("DELETE FROM duly_jobs"))
        raise ZeroDivisionError
    assert app.drain() == {"succeeded": 1}


@pytest.mark.parametrize("pool", [StaticPool, SingletonThreadPool])
def test_an_sqlite_engine_whose_connections_are_one_is_refused(
    sqlite_database: Database, make: Any, pool: type[Any]
) -> None:
    """Duly's transaction would be the application's, and end it."""
    for made in (False, True):
        engine = create_engine(sqlite_database.url, poolclass=pool)
        app, note = make(engine)
        with pytest.raises(SettingsError, match=pool.__name__):
            note.enqueue(1)
        with pytest.raises(SettingsError, match=pool.__name__):
            app.migrate()
        engine.dispose()
        if not made:
            migrated, _ = make(sqlite_database.url)
            migrated.migrate()
            migrated.close()


# ── psycopg's settings ────────────────────────────────────────────────────────────────────────


def parameters(url: str) -> dict[str, Any]:
    """What psycopg would be told."""
    engine, told = make_engine(url), dict[str, Any]()

    class Stop(Exception): ...

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, record: Any, args: Any, given: dict[str, Any]) -> None:
        told.update(given)
        raise Stop

    with pytest.raises(Stop):
        engine.connect()
    return told


def test_a_silent_network_is_noticed_in_seconds() -> None:
    told = parameters("postgresql://host/name")
    for name in ("connect_timeout", "keepalives_idle", "keepalives_interval", "keepalives_count"):
        assert 0 < int(told[name]) <= 30, name
    assert told.get("keepalives", 1) == 1
    assert 0 < int(told["tcp_user_timeout"]) <= 30_000, "in milliseconds"


def test_what_the_url_says_of_the_network_stands() -> None:
    told = parameters("postgresql://host/name?connect_timeout=77&keepalives_idle=78&tcp_user_timeout=79")
    assert [int(told[n]) for n in ("connect_timeout", "keepalives_idle", "tcp_user_timeout")] == [77, 78, 79]


def test_libpq_takes_what_it_is_told(postgresql_database: Database) -> None:
    engine = make_engine(postgresql_database.url)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    engine.dispose()


def threshold(connection: Connection) -> Any:
    driver: Any = connection.connection.driver_connection
    return driver.prepare_threshold


def test_dulys_transactions_prepare_nothing_on_an_engine_of_the_users(
    postgresql_database: Database, open_store: Any
) -> None:
    """Behind a pooler the statement would be prepared in another session."""
    store = open_store(postgresql_database, pool_size=1, max_overflow=0)
    with store.writing() as connection:
        assert threshold(connection) is None
        for _ in range(12):
            store.workers.pulse(connection, "nobody", timedelta(seconds=15))
        assert connection.scalar(text("SELECT count(*) FROM pg_prepared_statements")) == 0
    line = store.line(lock=1.0, statement=1.0, idle=15.0)
    with line.transaction() as connection:
        assert threshold(connection) is None
    line.close()


# ── locks ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("report", [failed, retried])
def test_a_locked_row_is_passed_over_when_outcomes_are_settled(
    server: Scene, report: Callable[..., Any]
) -> None:
    scene, worker = server, server.worker()
    scene.enqueue_many(3)
    locked, second, third = worker.claim(3)
    jobs = scene.store.tables.jobs.c
    with scene.frozen() as connection, scene.store.writing() as own:
        connection.execute(select(jobs.id).where(jobs.id == locked.id).with_for_update())
        scene.store.dialect.limit_waits(own, lock=0.2, statement=30, idle=30)
        reply = worker.exchange(report(locked), report(second), succeeded(third), on=own)
        own.commit()
    assert reply.lost == set()
    assert scene.row(locked.id)["state"] == "running"  # type: ignore[index]
    assert scene.attempts(locked.id) == []
    assert len(scene.attempts(second.id)) == 1
    assert scene.outcome(third.id) == "succeeded"
    assert worker.exchange(report(locked)).lost == set()
    assert len(scene.attempts(locked.id)) == 1
    assert scene.row(locked.id) is None or scene.row(locked.id)["state"] == "scheduled"  # type: ignore[index]


def test_a_fence_that_waited_past_expiry_does_not_succeed(server: Scene) -> None:
    """It looks at the clock before it waits for the lock, and not again after it."""
    scene, raised = server, list[BaseException]()
    worker, job = scene.running(expires_at=now() + timedelta(seconds=1.5))
    waiting = threading.Event()

    def finish() -> None:
        try:
            with scene.store.writing() as connection:
                waiting.set()
                worker.finish_within(connection, job)
        except LeaseLost as error:
            raised.append(error)

    thread, jobs = threading.Thread(target=finish), scene.store.tables.jobs.c
    with scene.frozen() as connection:
        connection.execute(select(jobs.id).where(jobs.id == job.id).with_for_update())
        thread.start()
        assert waiting.wait(PATIENCE)
        until(lambda: scene.lock_waits() == 1)
        assert scene.database_now() < job.expires_at, "the fence was asked for in time"
        until(lambda: scene.database_now() > job.expires_at)
    thread.join(PATIENCE)
    assert len(raised) == 1
    assert scene.outcome(job.id) is None
    assert scene.row(job.id) is not None


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline


# ── clocks ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["one", "many", "in a session", "async", "async many"])
@pytest.mark.parametrize("slept", [False, True], ids=["old reading", "after a sleep"])
def test_a_stale_clock_is_read_before_the_times_of_a_job_are_settled(
    database: Database, store: Store, make: Any, how: str, slept: bool
) -> None:
    clock = TurnedClock()
    app, note = make(database.url, clock=clock)
    note.enqueue()
    clock.turn(0 if slept else 3600)
    clock.seconds += 30 if slept else 0  # the two disagree
    enqueue: dict[str, Callable[[], Any]] = {
        "one": note.enqueue,
        "many": lambda: app.enqueue_many([note.call()])[0],
        "in a session": lambda: in_a_session(app.store.engine, note),
        "async": lambda: asyncio.run(note.aenqueue()),
        "async many": lambda: asyncio.run(app.aenqueue_many([note.call()]))[0],
    }
    row: Any = Scene(store).row(enqueue[how]().id)
    told = Scene(store).database_now()
    assert row["enqueued_at"] <= told
    assert row["run_at"] <= told
    assert told - row["enqueued_at"] < timedelta(seconds=20)
    assert app.drain() == {"succeeded": 2}


def in_a_session(engine: Engine, note: Any) -> Any:
    with Session(engine) as session, session.begin():
        return note.using(session=session).enqueue()


# ── operators ─────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def role_without_create(database: Database, schema: str) -> Iterator[str]:
    """A URL for a user of the database who owns a schema and may make none."""
    role = f"duly_test_{uuid4().hex[:12]}"
    database.rows(f"CREATE ROLE {role}")
    try:
        database.rows(f"CREATE SCHEMA {schema} AUTHORIZATION {role}")
        yield database.url + ("&" if "?" in database.url else "?") + f"options=-crole%3D{role}"
    finally:
        database.rows(f"DROP OWNED BY {role} CASCADE")
        database.rows(f"DROP ROLE {role}")


def test_migrate_needs_no_right_to_make_schemas_where_the_schema_is_there(
    postgresql_database: Database, open_store: Any
) -> None:
    with role_without_create(postgresql_database, "jobs") as url:
        limited = Database("postgresql", url, url)
        store = open_store(limited, Names(schema="jobs"), made_tables=False, poolclass=NullPool)
        assert migrate(store) == (None, "0003")
        assert migrate(store) == ("0003", "0003")
        assert Scene(store).count() == 0


@pytest.mark.parametrize("actor", ["a" * 5000, "ä" * 300], ids=["long", "wide"])
def test_an_actor_of_any_length_may_act_and_is_noted(
    database: Database, store: Store, make: Any, actor: str
) -> None:
    app, note = make(database.url, max_attempts=1)
    bad = note.enqueue(-1)
    assert app.drain() == {"failed": 1}
    assert app.manage.cancel(note.enqueue(1).id, actor=actor)
    note.enqueue(2)
    assert app.manage.clear(actor=actor) == 1
    app.manage.retry(bad.id, actor=actor)
    audited = Scene(store).audited()
    assert sorted(action for _, action, _ in audited) == ["cancelled", "cleared", "retried"]
    assert all(name and actor.startswith(name) for name, _, _ in audited)
