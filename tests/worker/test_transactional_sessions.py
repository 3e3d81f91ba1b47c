"""Transactional tasks: whose sessions they are given, and SQLite's single writer."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool

from duly import given
from duly.errors import SettingsError
from tests.worker.play import KINDS, WRITE, Play
from tests.worker.stage import PATIENCE, Gate, Stage, Working

# ── whose sessions ────────────────────────────────────────────────────────────────────────────


class MySession(Session):
    """A session class of the application's."""


class MyAsyncSession(AsyncSession):
    """The same for async tasks."""


def test_the_applications_session_factory_is_used(stage: Stage) -> None:
    engine = create_engine(stage.database.url, poolclass=NullPool)
    async_engine = create_async_engine(stage.database.async_url, poolclass=NullPool)
    app = stage.app(
        session=sessionmaker(engine, class_=MySession, expire_on_commit=False),
        async_session=async_sessionmaker(async_engine, class_=MyAsyncSession),
        async_engine=async_engine,
    )
    stage.make_effects()
    seen: list[Any] = []

    @app.task(effects="transactional")
    def transactional(*, session: Session = given) -> None:
        assert isinstance(session, MySession)
        seen.append(session.expire_on_commit)
        session.execute(WRITE, {"name": "a"})

    @app.task
    def plain(*, session: Session = given) -> None:
        assert isinstance(session, MySession)
        seen.append(session.expire_on_commit)
        session.execute(WRITE, {"name": "b"})

    @app.task(effects="transactional")
    async def atransactional(*, session: AsyncSession = given) -> None:
        assert isinstance(session, MyAsyncSession)
        seen.append(True)
        await session.execute(WRITE, {"name": "c"})

    @app.task
    async def aplain(*, session: AsyncSession = given) -> None:
        assert isinstance(session, MyAsyncSession)
        seen.append(True)
        await session.execute(WRITE, {"name": "d"})

    app.check_ready()
    jobs = [task.enqueue() for task in (transactional, plain, atransactional, aplain)]
    app.drain()
    assert {job.refresh().outcome for job in jobs} == {"succeeded"}
    assert sorted(seen) == [False, False, True, True]
    assert stage.effects() == ["a", "b", "c", "d"]


def test_the_session_of_a_task_that_is_not_transactional_commits_when_it_returns(stage: Stage) -> None:
    async_engine = create_async_engine(stage.database.async_url, poolclass=NullPool)
    app = stage.app(async_engine=async_engine, max_attempts=1)
    stage.make_effects()

    @app.task
    def by_session(fail: bool, *, session: Session = given) -> None:
        session.execute(WRITE, {"name": "bad" if fail else "session"})
        if fail:
            raise ValueError

    @app.task
    def by_connection(fail: bool, *, connection: Connection = given) -> None:
        connection.execute(WRITE, {"name": "bad" if fail else "connection"})
        if fail:
            raise ValueError

    @app.task
    async def by_async_session(fail: bool, *, session: AsyncSession = given) -> None:
        await session.execute(WRITE, {"name": "bad" if fail else "async session"})
        if fail:
            raise ValueError

    @app.task
    async def by_async_connection(fail: bool, *, connection: AsyncConnection = given) -> None:
        await connection.execute(WRITE, {"name": "bad" if fail else "async connection"})
        if fail:
            raise ValueError

    for task in (by_session, by_connection, by_async_session, by_async_connection):
        task.enqueue(True)
        task.enqueue(False)
    assert app.drain() == {"succeeded": 4, "failed": 4}
    assert stage.effects() == sorted(KINDS)


def test_sessions_on_another_database_are_refused_at_start(other_database: Any, stage: Stage) -> None:
    engine = create_engine(other_database.url, poolclass=NullPool)
    app = stage.app(session=sessionmaker(engine))

    @app.task(name="pay", effects="transactional")
    def pay(*, session: Session = given) -> None: ...

    with pytest.raises(SettingsError, match=r"pay .*another database"):
        app.check_ready()
    stage.app(on=other_database)  # one with tables of its own
    with pytest.raises(SettingsError, match="another database"):
        app.check_ready()


def test_sessions_on_the_same_database_through_another_engine_are_accepted(stage: Stage) -> None:
    engine = create_engine(stage.database.url, poolclass=NullPool)
    app = stage.app(session=sessionmaker(engine))

    @app.task(effects="transactional")
    def pay(*, session: Session = given) -> None: ...

    app.check_ready()


@pytest.mark.parametrize("hint", ["session", "connection", "nothing"])
def test_an_async_transaction_without_an_async_engine_is_refused_at_start(sqlite: Stage, hint: str) -> None:
    app = sqlite.app()
    if hint == "session":

        @app.task(name="pay")
        async def pay(*, session: AsyncSession = given) -> None: ...

    elif hint == "connection":

        @app.task(name="pay")
        async def pay(*, connection: AsyncConnection = given) -> None: ...

    else:

        @app.task(name="pay", effects="transactional")
        async def pay() -> None: ...

    with pytest.raises(SettingsError, match=r"pay is async .* async_engine="):
        app.check_ready()


# ── SQLite: one writer ────────────────────────────────────────────────────────────────────────


def test_on_sqlite_one_transactional_task_runs_at_a_time_and_the_pump_goes_first(
    sqlite: Stage, gate: Gate
) -> None:
    stage, app = (
        sqlite,
        sqlite.app(async_engine=create_async_engine(sqlite.database.async_url, poolclass=NullPool)),
    )
    stage.make_effects()
    inside, most, lock = 0, 0, threading.Lock()

    def enter(by: int) -> None:
        nonlocal inside, most
        with lock:
            inside += by
            most = max(most, inside)

    @app.task(effects="transactional")
    def write(*, session: Session = given) -> None:
        enter(1)
        session.execute(WRITE, {"name": "sync"})
        enter(-1)

    @app.task(effects="transactional")
    async def awrite(*, session: AsyncSession = given) -> None:
        enter(1)
        await session.execute(WRITE, {"name": "async"})
        enter(-1)

    jobs = app.enqueue_many([(write, awrite)[n % 2].call() for n in range(20)])
    with Working(app, threads=4):
        for job in jobs:
            assert job.join(PATIENCE) == "succeeded"
    assert most == 1
    assert {stage.ended(app, job)["claim"] for job in jobs} == {1}  # type: ignore[index]
    assert len(stage.effects()) == 20


def test_on_sqlite_a_busy_writer_uses_no_attempt(sqlite: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duly.store.dialect.writelock.PATIENCE", 0.001)
    play = Play(sqlite, "session")
    job = play.task.enqueue()
    turned = play.turned()
    taken = turned.pump._turn_of._enter_task
    stack = contextlib.ExitStack()

    def enter() -> None:
        taken()
        stack.enter_context(play.app.store.writing())  # another process writes

    turned.pump._turn_of._enter_task = enter  # type: ignore[method-assign]
    turned.turn()
    done = turned.pump._done.get(timeout=PATIENCE)
    turned.pump._done.put(done)
    turned.pump._turn_of._enter_task = taken  # type: ignore[method-assign]
    stack.close()
    turned.until(lambda: not turned.held)
    row: Any = sqlite.row(play.app, job)
    assert (row["state"], row["attempt"]) == ("scheduled", 0)
    sqlite.make_due(play.app, job)
    turned.turn(1.0)
    turned.until_ended(job)
    assert play.effects == ["effect"]
