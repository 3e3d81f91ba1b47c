"""Enqueue from async code: in an AsyncSession's transaction, on an async engine, or through a thread."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from duly import Duly
from duly.errors import DatabaseUnavailable, IdTaken, InvalidOptions
from duly.model.ids import new_id
from duly.store import Store
from tests.databases import Database

Steps = Callable[[Any, AsyncEngine], Awaitable[None]]


@pytest.fixture
def run(database: Database, store: Store) -> Any:
    """Runs async steps with an app (with or without an async engine) and an engine of the application's."""

    def run(steps: Steps, *, own: bool = True, url: str | None = None) -> dict[str, int]:
        async def all_of_it() -> dict[str, int]:
            async with engine_of(url or database.async_url) as engine:
                app = Duly(database.url, async_engine=engine if own else None)
                try:
                    app.task(name="tests.add")(_add)
                    await steps(app, engine)
                    return await asyncio.to_thread(app.drain)
                finally:
                    app.close()

        return asyncio.run(all_of_it())

    return run


def _add(a: int, b: int = 0) -> int:
    return a + b


@contextlib.asynccontextmanager
async def engine_of(url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url)
    try:
        yield engine
    finally:
        await engine.dispose()


both = pytest.mark.parametrize("own", [True, False], ids=["the app's engine", "a foreign engine"])


@both
def test_async_session_enqueue_commits_and_rolls_back_with_its_session(run: Any, own: bool) -> None:
    async def steps(app: Duly, engine: AsyncEngine) -> None:
        add = app.find("tests.add")
        async with AsyncSession(engine) as session, session.begin():
            await add.using(session=session).aenqueue(1)
        async with AsyncSession(engine) as session:
            await add.using(session=session).aenqueue(2)
            await session.rollback()
        with contextlib.suppress(ZeroDivisionError):
            async with AsyncSession(engine) as session, session.begin():
                await add.using(session=session).aenqueue(3)
                raise ZeroDivisionError

    assert run(steps, own=own) == {"succeeded": 1}


@both
def test_async_session_enqueue_in_a_savepoint_goes_with_the_savepoint(run: Any, own: bool) -> None:
    async def steps(app: Duly, engine: AsyncEngine) -> None:
        add = app.find("tests.add")
        async with AsyncSession(engine) as session, session.begin():
            await add.using(session=session).aenqueue(1)
            async with session.begin_nested() as savepoint:
                await add.using(session=session).aenqueue(2)
                await savepoint.rollback()
        async with AsyncSession(engine) as session:
            async with session.begin_nested():
                await add.using(session=session).aenqueue(3)
            await session.rollback()

    assert run(steps, own=own) == {"succeeded": 1}


@both
def test_async_session_enqueue_many_is_all_or_nothing(run: Any, own: bool) -> None:
    async def steps(app: Duly, engine: AsyncEngine) -> None:
        add = app.find("tests.add")
        async with AsyncSession(engine) as session, session.begin():
            handles = await app.aenqueue_many([add.call(n) for n in range(20)], session=session)
        assert len(handles) == 20
        async with AsyncSession(engine) as session, session.begin():
            with pytest.raises(IdTaken):
                await app.aenqueue_many([add.call(5), add.using(id=handles[0].id).call(99)], session=session)
        async with engine.connect() as connection:
            await app.aenqueue_many([add.call(n) for n in range(3)], connection=connection)
            await connection.rollback()

    assert run(steps, own=own) == {"succeeded": 20}


@both
def test_async_enqueue_without_a_session_commits_by_itself(run: Any, own: bool) -> None:
    async def steps(app: Duly, engine: AsyncEngine) -> None:
        add = app.find("tests.add")
        handle = await add.aenqueue(1)
        assert (await handle.arefresh()).state == "available"
        assert len(await app.aenqueue_many([add.call(n) for n in range(5)])) == 5
        identity = new_id()
        for _ in range(2):
            await add.using(id=identity).aenqueue(1)

    assert run(steps, own=own) == {"succeeded": 7}


def test_async_connection_enqueue_joins_its_transaction(run: Any) -> None:
    async def steps(app: Duly, engine: AsyncEngine) -> None:
        add = app.find("tests.add")
        async with engine.begin() as connection:
            await add.using(connection=connection).aenqueue(1)
        async with engine.connect() as connection:
            await add.using(connection=connection).aenqueue(2)
            await connection.rollback()

    assert run(steps) == {"succeeded": 1}


def test_async_session_enqueue_through_asyncpg(postgresql_database: Database, open_store: Any) -> None:
    pytest.importorskip("asyncpg")
    store = open_store(postgresql_database)

    async def steps() -> None:
        async with engine_of(postgresql_database.url.replace("+psycopg", "+asyncpg")) as engine:
            app = Duly(store.engine, async_engine=engine)
            add = app.task(name="tests.add")(_add)
            async with AsyncSession(engine) as session, session.begin():
                await add.using(session=session).aenqueue(1)
                await app.aenqueue_many([add.call(n) for n in range(5)], session=session)
                await add.using(session=session, id=new_id()).aenqueue(1)
            async with AsyncSession(engine) as session:
                await app.aenqueue_many([add.call(n) for n in range(5)], session=session)
                await session.rollback()
            assert await asyncio.to_thread(app.drain) == {"succeeded": 7}

    asyncio.run(steps())


def test_async_enqueue_whose_reply_was_lost_makes_one_job(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = 0

    async def steps(app: Duly, engine: AsyncEngine) -> None:
        inner = app.store.writing_async

        @contextlib.asynccontextmanager
        async def lost() -> AsyncIterator[Any]:
            nonlocal sent
            async with inner() as connection:
                yield connection
            sent += 1
            if sent in {1, 3}:
                raise DatabaseUnavailable("the reply was lost")

        monkeypatch.setattr(app.store, "writing_async", lost)
        add = app.find("tests.add")
        await add.aenqueue(1)
        await app.aenqueue_many([add.call(n) for n in range(5)])

    assert run(steps) == {"succeeded": 6}
    assert sent == 4


def test_a_cancelled_async_enqueue_is_whole_or_nothing(run: Any) -> None:
    async def steps(app: Duly, engine: AsyncEngine) -> None:
        add = app.find("tests.add")
        await add.aenqueue(0)
        for turns in range(12):
            sending = asyncio.ensure_future(app.aenqueue_many([add.call(n) for n in range(2)]))
            for _ in range(turns):
                await asyncio.sleep(0)
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending
        async with engine.connect() as connection:
            count = (await connection.execute(text("SELECT count(*) FROM duly_jobs"))).scalar_one()
        assert count % 2 == 1

    run(steps)


def test_an_async_session_given_to_a_sync_verb_is_refused_with_the_remedy(run: Any) -> None:
    async def steps(app: Duly, engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session:
            with pytest.raises(InvalidOptions, match="aenqueue"):
                app.find("tests.add").using(session=session).enqueue(1)

    assert run(steps) == {}
