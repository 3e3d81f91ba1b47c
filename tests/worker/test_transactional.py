"""Transactional tasks: what they write commits with the ledger row, exactly once, or not at all.

Four ways to write (sync and async, through a session and through a connection), each rule with each of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool

from duly import Backoff, Cancel, Context, Retry, Snooze, given
from duly.errors import DatabaseUnavailable, SettingsError
from duly.model.events import JobEnded, LeaseWasLost
from duly.store.tasktransaction import _Steps
from tests.worker import checks
from tests.worker.stage import PATIENCE, App, Gate, Stage, TurnedWorker, Working

WRITE = text("INSERT INTO effects VALUES (:name)")
Body = Callable[["Doing"], Any]


class Doing:
    """What a task does in its transaction, the same for all four kinds; steps of async ones are awaited."""

    def __init__(self, target: Any, ctx: Context, run: Callable[[Any], Any]) -> None:
        self.target, self.ctx, self._run = target, ctx, run

    def write(self, name: str) -> None:
        self._run(self.target.execute(WRITE, {"name": name}))

    def sql(self, statement: str) -> None:
        self._run(self.target.execute(text(statement)))

    def commit(self) -> None:
        self._run(self.target.commit())

    def rollback(self) -> None:
        self._run(self.target.rollback())


KINDS = ("session", "connection", "async session", "async connection")


class Play:
    """A stage with an app that has one transactional task, *doing* what the test says."""

    def __init__(self, stage: Stage, kind: str, **app: Any) -> None:
        self.stage, self.kind = stage, kind
        engine = create_async_engine(stage.database.async_url, poolclass=NullPool)
        self.app: App = stage.app(async_engine=engine, **app)
        stage.make_effects()
        self.body: Body = lambda doing: doing.write("effect")
        self.task = self._declare()

    def _declare(self) -> Any:
        declare = self.app.task(name="play", effects="transactional", retry=Backoff.fixed(3600))
        play = self

        if self.kind == "session":

            def task(*, it: Session = given, ctx: Context = given) -> str:
                return play._sync(it, ctx)

            return declare(task)
        if self.kind == "connection":

            def task_c(*, it: Connection = given, ctx: Context = given) -> str:
                return play._sync(it, ctx)

            return declare(task_c)
        if self.kind == "async session":

            async def atask(*, it: AsyncSession = given, ctx: Context = given) -> str:
                return await play._async(it, ctx)

            return declare(atask)

        async def atask_c(*, it: AsyncConnection = given, ctx: Context = given) -> str:
            return await play._async(it, ctx)

        return declare(atask_c)

    def _sync(self, it: Any, ctx: Context) -> str:
        self.body(Doing(it, ctx, lambda done: done))
        return "done"

    async def _async(self, it: Any, ctx: Context) -> str:
        from greenlet import getcurrent  # noqa: F401 - needed by SQLAlchemy, said early
        from sqlalchemy.util import await_only, greenlet_spawn

        await greenlet_spawn(self.body, Doing(it, ctx, await_only))
        return "done"

    def does(self, body: Body) -> None:
        self.body = body

    def turned(self) -> TurnedWorker:
        return self.stage.turned(self.app, threads=1)

    def run(self, turned: TurnedWorker | None = None) -> Any:
        """One attempt, until the turned holds nothing; the handle."""
        job = self.task.enqueue()
        self.attempt(turned or self.turned())
        return job.refresh()

    def attempt(self, turned: TurnedWorker) -> None:
        turned.until(lambda: turned.held, "the claim")
        turned.until(lambda: not turned.held, "the end of the attempt")

    @property
    def effects(self) -> list[str]:
        return self.stage.effects()

    def claims(self, job: Any) -> Any:
        ended = self.stage.ended(self.app, job)
        return ended and ended["claim"]


@pytest.fixture(params=KINDS)
def play(request: pytest.FixtureRequest, stage: Stage) -> Play:
    return Play(stage, request.param)


@pytest.fixture(params=["session", "async connection"])
def some(request: pytest.FixtureRequest, stage: Stage) -> Play:
    """For what does not depend on how the task writes."""
    return Play(stage, request.param)


# ── together, or not at all ───────────────────────────────────────────────────────────────────


def test_effect_and_outcome_commit_together(play: Play) -> None:
    seen = []

    def look(doing: Doing) -> None:
        doing.write("effect")
        if not play.stage.sqlite:
            seen.append(play.effects)  # from outside

    play.does(look)
    job = play.run()
    assert (job.outcome, job.attempts) == ("succeeded", 1)
    assert play.effects == ["effect"]
    assert seen in ([], [[]])
    assert play.stage.row(play.app, job) is None


def test_an_exception_rolls_back(play: Play) -> None:
    def fail(doing: Doing) -> None:
        doing.write("effect")
        raise ValueError("no")

    play.does(fail)
    job = play.run()
    assert (job.state, job.attempts, job.error) == ("scheduled", 1, "ValueError: no")
    assert play.effects == []


@pytest.mark.parametrize(
    ("error", "outcome", "attempts"),
    [(Cancel(), "cancelled", 1), (Snooze(), None, 0), (Retry(after=60), None, 1), (SystemExit(), None, 1)],
)
def test_whatever_it_says_by_raising_rolls_back(
    some: Play, error: BaseException, outcome: str | None, attempts: int
) -> None:
    def fail(doing: Doing) -> None:
        doing.write("effect")
        raise error

    some.does(fail)
    job = some.run()
    assert (job.outcome, job.attempts) == (outcome, attempts)
    assert some.effects == []


def test_a_result_that_cannot_be_kept_rolls_back_and_ends_failed(stage: Stage) -> None:
    app = stage.app()
    stage.make_effects()

    @app.task(effects="transactional", keep_result=True)
    def odd(*, session: Session = given) -> int:
        session.execute(WRITE, {"name": "effect"})
        return object()  # type: ignore[return-value]

    job = odd.enqueue()
    app.drain()
    assert job.refresh().outcome == "failed"
    assert stage.effects() == []


def test_a_result_commits_with_the_effect(stage: Stage) -> None:
    app = stage.app()
    stage.make_effects()

    @app.task(effects="transactional", keep_result=True)
    def count(*, session: Session = given) -> int:
        session.execute(WRITE, {"name": "effect"})
        return 7

    job = count.enqueue()
    app.drain()
    assert job.result() == 7


def test_what_a_transactional_task_enqueues_commits_with_it(stage: Stage) -> None:
    app, ran = stage.app(), []

    @app.task
    def child(name: str) -> None:
        ran.append(name)

    @app.task(effects="transactional", retry=Backoff.fixed(3600))
    def parent(fail: bool, *, session: Session = given) -> None:
        child.using(session=session).enqueue("of a failure" if fail else "of a success")
        if fail:
            raise ValueError

    parent.enqueue(True)
    parent.enqueue(False)
    app.drain()
    assert ran == ["of a success"]
    assert app.manage.overview().enqueued == 3


# ── commit() and rollback() inside ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["session", "async session"])
def test_commit_inside_does_not_split_it(stage: Stage, kind: str) -> None:
    play = Play(stage, kind)

    def split(doing: Doing) -> None:
        doing.write("one")
        doing.commit()
        doing.write("two")
        raise ValueError

    play.does(split)
    play.run()
    assert play.effects == []


@pytest.mark.parametrize("kind", ["session", "async session"])
def test_rollback_inside_undoes_what_came_before_it_and_no_more(stage: Stage, kind: str) -> None:
    play = Play(stage, kind)

    def part(doing: Doing) -> None:
        doing.write("kept")
        doing.commit()
        doing.write("undone")
        doing.rollback()
        doing.write("after")

    play.does(part)
    assert play.run().outcome == "succeeded"
    assert play.effects == ["after", "kept"]


@pytest.mark.parametrize("verb", ["commit", "rollback"])
@pytest.mark.parametrize("kind", ["connection", "async connection"])
def test_commit_on_the_connection_is_refused_and_rolls_back(stage: Stage, kind: str, verb: str) -> None:
    play = Play(stage, kind)

    def refused(doing: Doing) -> None:
        doing.write("effect")
        getattr(doing, verb)()

    play.does(refused)
    job = play.run()
    assert (job.state, job.attempts) == ("scheduled", 1)
    assert job.error is not None
    assert "CommitInTask" in job.error
    assert play.effects == []


def test_a_refusal_that_the_task_swallows_changes_nothing(stage: Stage) -> None:
    play = Play(stage, "connection")

    def swallow(doing: Doing) -> None:
        doing.write("one")
        with contextlib.suppress(Exception):
            doing.commit()
        doing.write("two")

    play.does(swallow)
    assert play.run().outcome == "succeeded"
    assert play.effects == ["one", "two"]


@pytest.mark.parametrize("raises", [False, True])
def test_a_raw_commit_ends_uncertain_and_is_not_retried(play: Play, raises: bool) -> None:
    def raw(doing: Doing) -> None:
        doing.write("stands")
        doing.sql("COMMIT")
        if raises:
            raise ValueError("afterwards")

    play.does(raw)
    job = play.run()
    assert (job.outcome, job.attempts) == ("uncertain", 1)
    ended: Any = play.stage.ended(play.app, job)
    assert "ended from outside" in ended["cause"]
    assert play.effects == ["stands"]


def test_work_after_a_raw_commit_is_rolled_back(some: Play) -> None:
    def raw(doing: Doing) -> None:
        doing.write("stands")
        doing.sql("COMMIT")
        if some.stage.sqlite:
            doing.sql("BEGIN")
        doing.write("rolled back")

    some.does(raw)
    assert some.run().outcome == "uncertain"
    assert some.effects == ["stands"]


def test_a_raw_rollback_ends_uncertain_too(some: Play) -> None:
    """Nothing stands, but who ended the transaction cannot be known."""

    def raw(doing: Doing) -> None:
        doing.write("gone")
        doing.sql("ROLLBACK")

    some.does(raw)
    assert some.run().outcome == "uncertain"
    assert some.effects == []


def test_a_time_out_after_a_raw_commit_is_uncertain_too(stage: Stage) -> None:
    """The cut must not hide that the transaction had been ended."""
    engine = create_async_engine(stage.database.async_url, poolclass=NullPool)
    app = stage.app(async_engine=engine)
    stage.make_effects()

    @app.task(effects="transactional", max_run_time=0.2)
    async def slow(*, connection: AsyncConnection = given) -> None:
        await connection.execute(WRITE, {"name": "stands"})
        await connection.execute(text("COMMIT"))
        await asyncio.Event().wait()

    job = slow.enqueue()
    stage.turned(app).until_ended(job)
    assert job.outcome == "uncertain"


def test_a_cancellation_after_a_raw_commit_is_uncertain_too(stage: Stage) -> None:
    """Given back as unstarted it would run again, though its writes stand."""
    app = stage.app(async_engine=create_async_engine(stage.database.async_url, poolclass=NullPool))
    stage.make_effects()
    began = threading.Event()

    @app.task(effects="transactional")
    async def endless(*, connection: AsyncConnection = given) -> None:
        await connection.execute(WRITE, {"name": "stands"})
        await connection.execute(text("COMMIT"))
        began.set()
        await asyncio.Event().wait()

    job = endless.enqueue()
    turned = stage.turned(app)
    turned.turn()
    assert began.wait(PATIENCE)
    turned.leave()
    assert job.refresh().outcome == "uncertain"
    assert stage.effects() == ["stands"]


# ── the fence ─────────────────────────────────────────────────────────────────────────────────


def test_an_effect_stands_only_with_its_outcome(stage: Stage) -> None:
    checks.check_an_effect_stands_only_with_its_outcome(stage)


@contextlib.contextmanager
def before_the_end(monkeypatch: pytest.MonkeyPatch, act: Callable[[Any], None]) -> Iterator[None]:
    """Do something when the task has returned, just before the fence, on the task's own connection."""
    real = _Steps.record

    def record(self: Any, connection: Any, *rest: Any) -> None:
        act(connection)
        real(self, connection, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(_Steps, "record", record)
        yield


FENCE = {
    "gone": "DELETE FROM duly_jobs",
    "another's claim": "UPDATE duly_jobs SET claim = claim + 1",
    "another worker's": "UPDATE duly_jobs SET worker = 'somebody.else'",
}


@pytest.mark.parametrize("lost", FENCE)
def test_a_lost_lease_rolls_back(some: Play, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    with before_the_end(monkeypatch, lambda connection: connection.execute(text(FENCE[lost]))):
        job = some.run()
    assert some.effects == []
    assert (job.outcome, job.attempts) == (None, 0)
    assert len(some.app.journal.of(LeaseWasLost)) == 1
    assert some.app.journal.of(JobEnded) == []


def test_one_that_expires_while_it_runs_rolls_back_and_ends_expired(
    some: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = some.task.enqueue()
    turned = some.turned()
    expires = some.stage.row(some.app, job)["expires_at"]  # type: ignore[index]
    past = some.app.store.clock.now() - timedelta(seconds=1)
    jobs = some.app.store.tables.jobs

    def time_flies(connection: Connection) -> None:
        connection.execute(jobs.update().values(expires_at=past))
        some.app.store.clock.learn(expires)

    with before_the_end(monkeypatch, time_flies):
        turned.until_ended(job)
    assert (job.outcome, job.attempts) == ("expired", 1)
    assert some.effects == []
    assert [event.outcome for event in some.app.journal.of(JobEnded)] == ["expired"]


def test_a_replayed_row_rolls_back(some: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was put back after it ended, and slipped through the look at the claim."""
    stage, app = some.stage, some.app
    job = some.task.enqueue()
    row = stage.row(app, job)
    turned = some.turned()
    turned.until_ended(job)
    assert some.effects == ["effect"]
    ended = stage.database.rows("SELECT job_id FROM duly_executions")

    def put_back(doing: Doing) -> None:
        doing.write("doubled")

    some.does(put_back)
    other = some.task.enqueue()  # another job, that becomes the replayed one in the task's own transaction
    swap = text("UPDATE duly_jobs SET id = :id")
    executions = text("SELECT 1")

    def record(connection: Any) -> None:
        connection.execute(executions)
        connection.execute(swap.bindparams(id=ended[0][0]))

    real = app.store.ledger.finish

    def finish(connection: Any, worker: str, claimed: Any, **rest: Any) -> None:
        import dataclasses

        real(connection, worker, dataclasses.replace(claimed, id=job.id), **rest)

    monkeypatch.setattr(app.store.ledger, "finish", finish)
    with before_the_end(monkeypatch, record):
        some.attempt(turned)
    assert some.effects == ["effect"]
    assert row is not None
    assert other.refresh().outcome is None
    assert len(app.journal.of(LeaseWasLost)) == 1


@pytest.mark.parametrize("landed", [True, False])
def test_a_lost_commit_reply_neither_doubles_nor_loses(
    some: Play, monkeypatch: pytest.MonkeyPatch, landed: bool
) -> None:
    commit, lost = _Steps.commit, []

    def reply_lost(self: Any, connection: Any) -> None:
        if lost:
            return commit(self, connection)
        lost.append(1)
        if landed:
            commit(self, connection)
        else:
            type(connection).rollback(connection)
        raise DatabaseUnavailable("the reply was lost")

    monkeypatch.setattr(_Steps, "commit", reply_lost)
    job = some.task.enqueue()
    turned = some.turned()
    some.attempt(turned)
    if not landed:
        assert job.refresh().outcome is None
        assert job.attempts == 0
        some.stage.make_due(some.app, job)
        turned.turn(1.0)
        turned.until_ended(job)
    assert some.effects == ["effect"]
    assert (job.refresh().outcome, job.attempts) == ("succeeded", 1)
    assert some.claims(job) == (1 if landed else 2)


# ── cancelled ─────────────────────────────────────────────────────────────────────────────────


def test_a_cancelled_async_attempt_discards_its_connection(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = Play(stage, "async connection")
    began, discarded = threading.Event(), []
    real = AsyncConnection.invalidate

    async def invalidate(self: AsyncConnection, *args: Any) -> None:
        discarded.append(1)
        await real(self, *args)

    monkeypatch.setattr(AsyncConnection, "invalidate", invalidate)

    @play.app.task(effects="transactional")
    async def endless(*, connection: AsyncConnection = given) -> None:
        await connection.execute(WRITE, {"name": "effect"})
        began.set()
        await asyncio.Event().wait()

    job = endless.enqueue()
    turned = play.turned()
    turned.turn()
    assert began.wait(PATIENCE)
    turned.leave()
    assert discarded == [1]
    row: Any = stage.row(play.app, job)
    assert (row["state"], row["attempt"]) == ("available", 0)
    assert play.effects == []


def test_a_statement_under_way_does_not_keep_a_cancelled_attempt(postgresql: Stage) -> None:
    stage, app = (
        postgresql,
        postgresql.app(async_engine=create_async_engine(postgresql.database.async_url, poolclass=NullPool)),
    )
    stage.make_effects()
    began = threading.Event()

    @app.task(effects="transactional")
    async def endless(*, connection: AsyncConnection = given) -> None:
        await connection.execute(WRITE, {"name": "effect"})
        began.set()
        await connection.execute(text("SELECT pg_sleep(60)"))

    job = endless.enqueue()
    turned = stage.turned(app)
    turned.turn()
    assert began.wait(PATIENCE)
    assert turned.leave()
    assert stage.effects() == []
    assert job.refresh().state == "available"


def test_no_cancellation_reaches_the_end_however_often_it_comes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = Play(stage, "async connection")
    pool: list[Any] = []

    def cancel_twice(_: Any) -> None:
        (task,) = pool[0]._running.values()
        for _ in range(3):  # we are in a greenlet on the loop; let it deliver each
            task.cancel()
            from sqlalchemy.util import await_only

            await_only(asyncio.sleep(0))
            await_only(asyncio.sleep(0))

    turned = play.turned()
    pool.append(turned.pump._loop)
    with before_the_end(monkeypatch, cancel_twice):
        job = play.run(turned)
    assert (job.outcome, job.attempts) == ("succeeded", 1)
    assert play.effects == ["effect"]
    assert [event.outcome for event in play.app.journal.of(JobEnded)] == ["succeeded"]


def test_an_async_transactional_task_past_its_run_time_rolls_back(stage: Stage) -> None:
    play = Play(stage, "async session")

    @play.app.task(effects="transactional", max_run_time=0.2, max_attempts=1)
    async def slow(*, session: AsyncSession = given) -> None:
        await session.execute(WRITE, {"name": "effect"})
        await asyncio.Event().wait()

    job = slow.enqueue()
    play.turned().until_ended(job)
    assert job.outcome == "failed"
    assert play.effects == []


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
    monkeypatch.setattr("duly.store.dialect.sqlite.BUSY_TIMEOUT_MS", 1)
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
