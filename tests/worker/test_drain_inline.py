"""``drain()`` and ``inline()``: a worker's own code, here and now, for the tests of users."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from duly import Backoff, Cancel, Context, Snooze, given
from tests.worker.stage import Stage

WRITE = text("INSERT INTO effects VALUES (:name)")


class Broken(Exception):
    """What a task raises."""


# ── drain ─────────────────────────────────────────────────────────────────────────────────────


def test_drain_runs_what_is_due_and_counts_how_it_ended(stage: Stage) -> None:
    app, ran = stage.app(), []

    @app.task
    def fine(n: int) -> None:
        ran.append(n)

    @app.task
    async def afine(n: int) -> None:
        ran.append(n)

    @app.task(retry=Backoff.fixed(3600))
    def shaky() -> None:
        raise Broken

    @app.task(max_attempts=1)
    def hopeless() -> None:
        raise Broken

    @app.task
    def cancelled() -> None:
        raise Cancel

    @app.task
    def snoozed() -> None:
        raise Snooze(after=3600)

    fine.enqueue(1)
    afine.enqueue(2)
    later = fine.using(run_in=3600).enqueue(3)
    retried = shaky.enqueue()
    for task in (hopeless, cancelled, snoozed):
        task.enqueue()
    counted = app.drain()
    assert counted == {"succeeded": 2, "retried": 1, "failed": 1, "cancelled": 1, "put back": 1}
    assert sorted(ran) == [1, 2]
    assert later.refresh().state == "scheduled"
    assert (retried.refresh().state, retried.attempts) == ("scheduled", 1)
    assert stage.workers(app) == set()
    assert app.drain() == {}


def test_drain_runs_what_its_jobs_enqueue(stage: Stage) -> None:
    app, ran = stage.app(), []

    @app.task
    def countdown(n: int) -> None:
        ran.append(n)
        if n:
            countdown.enqueue(n - 1)

    countdown.enqueue(5)
    assert app.drain() == {"succeeded": 6}
    assert ran == [5, 4, 3, 2, 1, 0]


def test_drain_of_some_queues_leaves_the_others(stage: Stage) -> None:
    app = stage.app()

    @app.task
    def note() -> None: ...

    mail, other = note.using(queue="mail").enqueue(), note.enqueue()
    assert app.drain(queues=["mail"]) == {"succeeded": 1}
    assert (mail.refresh().outcome, other.refresh().state) == ("succeeded", "available")


def test_drain_raises_nothing_that_a_task_raises(stage: Stage) -> None:
    app = stage.app()

    @app.task(max_attempts=1)
    def leave() -> None:
        raise SystemExit

    leave.enqueue()
    assert app.drain() == {"failed": 1}


# ── inline ────────────────────────────────────────────────────────────────────────────────────


def test_inline_runs_each_enqueue_at_once(stage: Stage) -> None:
    app, ran = stage.app(), []

    @app.task(keep_result=True)
    def double(n: int, *, ctx: Context = given) -> int:
        ran.append((n, ctx.attempt))
        return 2 * n

    with app.inline():
        assert double.enqueue(3).result() == 6
        handles = app.enqueue_many(double.call(n) for n in (4, 5))
        assert [handle.result() for handle in handles] == [8, 10]
        assert double.using(run_in=3600).enqueue(6).result() == 12  # due or not
    assert ran == [(3, 1), (4, 1), (5, 1), (6, 1)]
    assert double.enqueue(7).state == "available"
    assert stage.workers(app) == set()


def test_inline_lets_errors_reach_the_caller_and_never_retries(stage: Stage) -> None:
    app = stage.app()

    @app.task(name="shaky")
    def shaky() -> None:
        raise Broken("here")

    with app.inline(), pytest.raises(Broken, match="here"):
        shaky.enqueue()
    assert app.manage.overview().outcomes == {"failed": 1}
    assert app.drain() == {}
    assert stage.workers(app) == set()


def test_inline_of_a_cancel_raises_nothing(stage: Stage) -> None:
    app = stage.app()

    @app.task
    def enough() -> None:
        raise Cancel

    with app.inline():
        assert enough.enqueue().refresh().outcome == "cancelled"


def test_inline_jobs_enqueued_by_inline_jobs_run_at_once_too(stage: Stage) -> None:
    app, ran = stage.app(), []

    @app.task
    def parent() -> None:
        child.enqueue("of a sync one")
        ran.append("sync parent")

    @app.task
    async def aparent() -> None:
        await child.aenqueue("of an async one")
        ran.append("async parent")

    @app.task
    def child(name: str) -> None:
        ran.append(name)

    with app.inline():
        parent.enqueue()
        aparent.enqueue()
    assert ran == ["of a sync one", "sync parent", "of an async one", "async parent"]


def test_inline_with_a_session_runs_at_the_end_if_it_was_committed(stage: Stage) -> None:
    app, ran = stage.app(), []

    @app.task
    def note(name: str) -> None:
        ran.append(name)

    with app.inline():
        with Session(app.store.engine) as session, session.begin():
            committed = note.using(session=session).enqueue("committed")
        with Session(app.store.engine) as session:
            note.using(session=session).enqueue("rolled back")
            session.rollback()
        note.enqueue("at once")
        assert ran == ["at once"]
    assert ran == ["at once", "committed"]
    assert committed.refresh().outcome == "succeeded"
    assert app.manage.overview().enqueued == 2


def test_a_broken_inline_block_runs_nothing_later(stage: Stage) -> None:
    app, ran = stage.app(), []

    @app.task
    def note() -> None:
        ran.append(1)

    def block() -> None:
        with app.inline():
            with Session(app.store.engine) as session, session.begin():
                note.using(session=session).enqueue()
            raise Broken

    with pytest.raises(Broken):
        block()
    assert ran == []
    assert note.enqueue().state == "available"


def test_inline_is_over_when_the_block_is(stage: Stage) -> None:
    app = stage.app()

    @app.task
    def note() -> None: ...

    with pytest.raises(Broken), app.inline():
        raise Broken
    assert note.enqueue().state == "available"


def test_async_tasks_run_inline_inside_a_running_loop(stage: Stage) -> None:
    app, ran = stage.app(), []

    @app.task(keep_result=True)
    async def double(n: int) -> int:
        await asyncio.sleep(0)
        ran.append(n)
        return 2 * n

    @app.task
    async def broken() -> None:
        raise Broken

    async def main() -> None:
        with app.inline():
            assert double.enqueue(3).result() == 6
            assert await (await double.aenqueue(4)).aresult() == 8
            with pytest.raises(Broken):
                await broken.aenqueue()

    asyncio.run(main())
    assert ran == [3, 4]


def test_transactional_tasks_run_inline(stage: Stage) -> None:
    engine = create_async_engine(stage.database.async_url, poolclass=NullPool)
    app = stage.app(async_engine=engine)
    stage.make_effects()

    @app.task(effects="transactional")
    def write(name: str, *, connection: Connection = given) -> None:
        connection.execute(WRITE, {"name": name})
        if name == "bad":
            raise Broken

    @app.task(effects="transactional")
    async def awrite(name: str, *, session: AsyncSession = given) -> None:
        await session.execute(WRITE, {"name": name})
        if name == "bad":
            raise Broken

    with app.inline():
        for task in (write, awrite):
            task.enqueue("good")
            with pytest.raises(Broken):
                task.enqueue("bad")
    assert stage.effects() == ["good", "good"]
    assert app.manage.overview().outcomes == {"succeeded": 2, "failed": 2}


def test_inline_on_the_applications_own_engine(stage: Stage) -> None:
    engine = create_engine(stage.database.url, poolclass=NullPool)
    app = stage.app()
    ran: list[Any] = []

    @app.task
    def note() -> None:
        ran.append(1)

    with app.inline(), Session(engine) as session, session.begin():
        note.using(session=session).enqueue()
        assert ran == []
    assert ran == [1]
