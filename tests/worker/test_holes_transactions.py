"""Holes that were once found in transactional tasks: sessions gone elsewhere, miscounted errors, late starts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import create_engine, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from duly import given
from duly.errors import DatabaseBusy, DatabaseUnavailable, SettingsError
from duly.model.events import JobEnded, JobPutBack
from duly.model.report import Ended
from duly.store.tasktransaction import _Steps
from duly.task.context import Cancellation
from duly.worker.attempt import Attempt
from duly.worker.executor import Executor
from duly.worker.verdict import MOST_PASSING
from duly.worker.writeturn import WriteTurn
from tests.databases import Database
from tests.worker.stage import PATIENCE, App, Stage

WRITE = text("INSERT INTO effects VALUES (:name)")
ROUTES = ("binds", "get_bind")


class Base(DeclarativeBase): ...


class Effect(Base):
    __tablename__ = "effects"
    name: Mapped[str] = mapped_column(primary_key=True)


def engine_on(database: Database, **options: Any) -> Any:
    quick = {"connect_args": {"timeout": 0.05}} if database.name == "sqlite" else {}
    return create_engine(database.url, poolclass=NullPool, **quick, **options)


def async_engine_on(database: Database) -> Any:
    quick = {"connect_args": {"timeout": 0.05}} if database.name == "sqlite" else {}
    return create_async_engine(database.async_url, poolclass=NullPool, **quick)


def to_engine(engine: Any) -> type[Session]:
    """A session class that routes by itself, as Flask-SQLAlchemy's does."""

    class Routing(Session):
        def get_bind(self, mapper: Any = None, *, bind: Any = None, **_: Any) -> Any:
            return bind if bind is not None else engine

    return Routing


def factory_of(route: str, engine: Any) -> Any:
    if route == "binds":
        return sessionmaker(binds={Effect: engine})
    return sessionmaker(class_=to_engine(engine))


def async_factory_of(route: str, engine: Any) -> Any:
    if route == "binds":
        return async_sessionmaker(binds={Effect: engine})
    return async_sessionmaker(sync_session_class=to_engine(engine.sync_engine))


# ── a session that would go elsewhere ─────────────────────────────────────────────────────────


@pytest.mark.parametrize("route", ROUTES)
def test_a_factory_that_routes_by_itself_writes_in_dulys_transaction(stage: Stage, route: str) -> None:
    stage.make_effects()
    app, committed = stage.app(session=factory_of(route, engine_on(stage.database))), []

    @app.task(effects="transactional", max_attempts=1)
    def write(name: str, *, session: Session = given) -> None:
        session.add(Effect(name=name))
        session.commit()
        committed.append(name)
        assert name in session.scalars(select(Effect.name)).all()
        if name == "lost":
            raise ValueError

    kept, lost = write.enqueue("kept"), write.enqueue("lost")
    app.drain()
    assert committed == ["kept", "lost"]
    assert (kept.refresh().outcome, lost.refresh().outcome) == ("succeeded", "failed")
    assert stage.effects() == ["kept"]


@pytest.mark.parametrize("route", ROUTES)
def test_an_async_factory_that_routes_by_itself_writes_in_dulys_transaction(stage: Stage, route: str) -> None:
    stage.make_effects()
    factory = async_factory_of(route, async_engine_on(stage.database))
    app, committed = stage.app(async_engine=async_engine_on(stage.database), async_session=factory), []

    @app.task(effects="transactional", max_attempts=1)
    async def write(name: str, *, session: AsyncSession = given) -> None:
        session.add(Effect(name=name))
        await session.commit()
        committed.append(name)
        assert name in (await session.scalars(select(Effect.name))).all()
        if name == "lost":
            raise ValueError

    kept, lost = write.enqueue("kept"), write.enqueue("lost")
    app.drain()
    assert sorted(committed) == ["kept", "lost"]
    assert (kept.refresh().outcome, lost.refresh().outcome) == ("succeeded", "failed")
    assert stage.effects() == ["kept"]


@pytest.mark.parametrize("place", ["here", "elsewhere"])
def test_binds_on_another_database_are_refused_at_start(
    stage: Stage, other_database: Database, place: str
) -> None:
    there = {"here": stage.database, "elsewhere": other_database}[place]
    app = stage.app(session=sessionmaker(binds={Effect: engine_on(there)}))

    @app.task(effects="transactional")
    def write(*, session: Session = given) -> None: ...

    with pytest.raises(SettingsError) if place == "elsewhere" else contextlib.nullcontext():
        app.check_ready()


def test_async_binds_on_another_database_are_refused_at_start(stage: Stage, other_database: Database) -> None:
    factory = async_sessionmaker(binds={Effect: async_engine_on(other_database)})
    app = stage.app(async_engine=async_engine_on(stage.database), async_session=factory)

    @app.task(effects="transactional")
    async def write(*, session: AsyncSession = given) -> None: ...

    with pytest.raises(SettingsError):
        app.check_ready()


def test_a_scoped_session_serves_job_after_job_of_a_thread(stage: Stage) -> None:
    stage.make_effects()
    engine = engine_on(stage.database)
    app = stage.app(session=scoped_session(sessionmaker(engine)))

    @app.task(effects="transactional", max_attempts=1)
    def within(name: str, *, session: Session = given) -> None:
        session.execute(WRITE, {"name": name})
        if name == "lost":
            raise ValueError

    @app.task(max_attempts=1)
    def beside(name: str, *, session: Session = given) -> None:
        session.execute(WRITE, {"name": name})

    app.check_ready()
    jobs = [within.enqueue("a"), within.enqueue("b"), beside.enqueue("c"), within.enqueue("lost"),
            beside.enqueue("d"), within.enqueue("e")]  # fmt: skip
    app.drain()
    assert [job.refresh().outcome for job in jobs] == [
        "succeeded", "succeeded", "succeeded", "failed", "succeeded", "succeeded",
    ]  # fmt: skip
    assert stage.effects() == ["a", "b", "c", "d", "e"]


# ── whose fault was it ────────────────────────────────────────────────────────────────────────


def play(app: App, kind: str, error: Exception | None = None) -> Any:
    """A transactional task, sync or async."""
    if kind == "sync":

        @app.task(name="play", effects="transactional", max_attempts=1)
        def work(*, session: Session = given) -> None:
            session.execute(WRITE, {"name": "effect"})
            if error is not None:
                raise error

        return work

    @app.task(name="play", effects="transactional", max_attempts=1)
    async def awork(*, session: AsyncSession = given) -> None:
        await session.execute(WRITE, {"name": "effect"})
        if error is not None:
            raise error

    return awork


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("error", [DatabaseBusy, DatabaseUnavailable])
def test_a_database_error_of_the_tasks_own_uses_an_attempt_when_it_came_ten_times(
    stage: Stage, kind: str, error: type[Exception]
) -> None:
    """It may come from an enqueue that forgot its session: put back uncounted, it would come for ever."""
    stage.make_effects()
    app = stage.app(async_engine=async_engine_on(stage.database))
    job = play(app, kind, error("from the body")).enqueue()
    with app.store.engine.begin() as connection:
        connection.execute(update(app.store.tables.jobs).values(transients=MOST_PASSING))
    turned = stage.turned(app, threads=1)
    turned.until_ended(job)
    assert (job.outcome, job.attempts) == ("failed", 1)
    assert "from the body" in (job.error or "")
    assert stage.effects() == []


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("step", ["begin", "record", "commit"])
def test_a_database_error_of_dulys_own_steps_uses_no_attempt(
    stage: Stage, kind: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.make_effects()
    app = stage.app(async_engine=async_engine_on(stage.database))
    job = play(app, kind).enqueue()
    turned = stage.turned(app, threads=1)

    def away(*_: Any) -> None:
        raise DatabaseUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(_Steps, step, away)
        turned.until(lambda: turned.held, "the claim")
        turned.until(lambda: not turned.held, "the end of the attempt")
    row: Any = stage.row(app, job)
    assert (row["attempt"], row["worker"]) == (0, None)
    assert app.journal.of(JobEnded) == []
    assert stage.effects() == []
    stage.make_due(app, job)
    turned.until(lambda: turned.turn(1.0) is None or job.refresh().outcome, "the end of the job")
    assert (job.refresh().outcome, job.attempts) == ("succeeded", 1)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_commit_that_landed_unheard_is_told_as_succeeded(
    stage: Stage, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.make_effects()
    app = stage.app(async_engine=async_engine_on(stage.database))
    job = play(app, kind).enqueue()
    sound, lost = _Steps.commit, []

    def unheard(self: Any, connection: Any) -> None:
        sound(self, connection)
        lost.append(1)
        raise DatabaseUnavailable("the reply was lost")

    monkeypatch.setattr(_Steps, "commit", unheard)
    assert app.drain() == {"succeeded": 1}
    assert lost == [1]
    assert [(event.id, event.outcome) for event in app.journal.of(JobEnded)] == [(job.id, "succeeded")]
    assert app.journal.of(JobPutBack) == []
    assert (job.refresh().outcome, job.attempts) == ("succeeded", 1)
    assert stage.effects() == ["effect"]


def test_an_async_database_that_refuses_connections_uses_no_attempt(postgresql: Stage) -> None:
    """asyncpg raises the operating system's error, which SQLAlchemy does not wrap."""
    pytest.importorskip("asyncpg")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        dead = create_async_engine(f"postgresql+asyncpg://nobody@127.0.0.1:{port}/no", poolclass=NullPool)
        app, ran = postgresql.app(async_engine=dead), []

        @app.task(effects="transactional", max_attempts=1)
        async def note() -> None:
            ran.append(1)

        with pytest.raises(DatabaseUnavailable):
            asyncio.run(note.aenqueue())
        job = note.enqueue()
        turned = postgresql.turned(app, threads=1)
        turned.until(lambda: turned.held, "the claim")
        turned.until(lambda: not turned.held, "the end of the attempt")
    row: Any = postgresql.row(app, job)
    assert (row["attempt"], row["worker"], ran) == (0, None, [])


# ── too late, since it had to wait ────────────────────────────────────────────────────────────


def passed(stage: Stage, job: Any) -> bool:
    """Whether the job has expired, by the database."""
    clock = {
        "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', 'now')",
        "postgresql": "clock_timestamp()",
        "mysql": "UTC_TIMESTAMP(6)",
    }[stage.database.name]
    mark = "?" if stage.sqlite else "%s"
    ((past,),) = stage.database.rows(
        f"SELECT expires_at <= {clock} FROM duly_jobs WHERE id = {mark}", (str(job.id),)
    )
    return bool(past)


@contextlib.contextmanager
def no_turn(turn: WriteTurn, app: App) -> Iterator[None]:
    with turn.of_task():
        yield


@contextlib.contextmanager
def no_connection(turn: WriteTurn, app: App) -> Iterator[None]:
    with app.store.engine.connect():
        yield


def late(stage: Stage, kind: str, hold: Callable[..., Any], engine: dict[str, Any]) -> tuple[Any, list[int]]:
    """An attempt that was in time when it was prepared, and waits until it is not; its report."""
    stage.make_effects()
    on = replace(stage.database, address=create_engine(stage.database.url, **engine))
    app, ran = stage.app(on=on, async_engine=async_engine_on(stage.database)), list[int]()

    def work() -> None:
        ran.append(1)

    async def awork() -> None:
        ran.append(1)

    job = app.task(effects="transactional", expires_in=1.0)(work if kind == "sync" else awork).enqueue()
    worker = stage.turned(app)
    worker.pump._line.close()  # the pool may hold a single connection
    with app.store.writing() as connection:
        claimed = app.store.jobs.claim_one(connection, worker.id, job.id)
    assert claimed is not None
    turn, reports = WriteTurn(shared=True), []
    executor = Executor(app, turn)
    attempt = executor.prepare(claimed, worker.id, Cancellation())
    assert isinstance(attempt, Attempt)
    call = partial(executor.call, attempt)
    if kind == "async":
        call = partial(asyncio.run, executor.acall(attempt))  # type: ignore[arg-type]
    thread = threading.Thread(target=lambda: reports.append(call()))
    with hold(turn, app):
        thread.start()
        deadline = time.monotonic() + PATIENCE
        while not passed(stage, job):
            assert time.monotonic() < deadline
    thread.join(PATIENCE)
    return reports[0], ran


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_expires_while_it_waits_for_the_write_turn_does_not_start(stage: Stage, kind: str) -> None:
    report, ran = late(stage, kind, no_turn, {})
    assert ran == []
    assert isinstance(report, Ended)
    assert (report.outcome, report.counted) == ("expired", False)


def test_what_expires_while_it_waits_for_a_connection_does_not_start(postgresql: Stage) -> None:
    report, ran = late(postgresql, "sync", no_connection, {"pool_size": 1, "max_overflow": 0})
    assert ran == []
    assert isinstance(report, Ended)
    assert (report.outcome, report.counted) == ("expired", False)
