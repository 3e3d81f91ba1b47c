"""Time limits, and attempts that do not stop: their neighbours, and what is recorded of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from duly import Backoff, Retry, given
from duly.errors import TimeLimit
from duly.model.events import JobRetried, Notice
from duly.store.tasktransaction import TaskTransaction
from duly.worker import watch
from duly.worker.interrupt import Region
from duly.worker.watch import Watch
from tests.worker.play import WRITE
from tests.worker.stage import PATIENCE, App, Gate, Stage, Working

LIMIT = 0.2
LONG = {"postgresql": "SELECT pg_sleep(60)", "mysql": "SELECT BENCHMARK(1000000000000, SHA2('a', 512))"}
OVER = "over its max_run_time of 0.2 s"


@pytest.fixture
def app(stage: Stage) -> App:
    return stage.app(max_run_time=LIMIT, retry=Backoff.fixed(3600))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not stop is given up soon."""
    monkeypatch.setattr(watch, "DEAF", 0.2)
    monkeypatch.setattr(watch, "PATIENCE", 0.1)


class Looks:
    """Tells when the watch has looked at a region whose time was up."""

    def __init__(self) -> None:
        self.began = 0.0
        self._late = threading.Event()

    def note(self, now: float) -> None:
        if self.began and now > self.began + LIMIT:
            self._late.set()

    def outlast(self) -> None:
        """Past the limit, and past a look of the watch."""
        assert self._late.wait(PATIENCE)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    looks, look, run = Looks(), Watch.look, Region.run

    def noted(self: Watch, now: float) -> float:
        until = look(self, now)
        looks.note(now)
        return until

    def called(self: Region, *rest: Any) -> Any:
        looks.began = self.began
        return run(self, *rest)

    monkeypatch.setattr(Watch, "look", noted)
    monkeypatch.setattr(Region, "run", called)
    return looks


def spin() -> None:
    """Python code without end."""
    while True:
        pass


def history(app: App, job: Any) -> list[tuple[str, str]]:
    """What went wrong in each attempt: the cause, and the exception."""
    return [
        (one.cause, one.error.type.rpartition(".")[2] if one.error else "")
        for one in app.manage.attempts(job.id)
    ]


# ── whose time is up ──────────────────────────────────────────────────────────────────────────


def test_a_sync_task_over_its_time_has_failed_once(app: App) -> None:
    @app.task
    def endless() -> None:
        spin()

    job = endless.enqueue()
    assert app.drain() == {"retried": 1}
    assert (job.refresh().state, job.attempts) == ("scheduled", 1)
    assert history(app, job) == [(OVER, "TimeLimit")]
    assert [event.error for event in app.journal.of(JobRetried)] == [OVER]


def test_an_async_task_over_its_time_has_failed_once(app: App) -> None:
    @app.task
    async def endless() -> None:
        await asyncio.Event().wait()

    job = endless.enqueue()
    assert app.drain() == {"retried": 1}
    assert (job.refresh().state, job.attempts) == ("scheduled", 1)
    assert history(app, job) == [(OVER, "TimeLimit")]


def test_a_timeout_of_the_tasks_own_is_not_ours(app: App) -> None:
    @app.task
    async def impatient() -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    job = impatient.enqueue()
    app.drain()
    assert history(app, job) == [("TimeoutError", "TimeoutError")]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_last_attempt_over_its_time_ends_the_job(app: App, kind: str) -> None:
    @app.task(name="sync", max_attempts=1)
    def sync() -> None:
        spin()

    @app.task(name="async", max_attempts=1)
    async def coroutine() -> None:
        await asyncio.Event().wait()

    job = (sync if kind == "sync" else coroutine).enqueue()
    app.drain()
    assert job.refresh().outcome == "failed"
    assert app.manage.job(job.id).cause == f"{OVER} in attempt 1, the last"


def test_a_task_may_tidy_up_and_say_how_it_goes_on(app: App) -> None:
    tidied = []

    @app.task(name="returns")
    def returns() -> None:
        try:
            spin()
        except TimeLimit:
            tidied.append(1)

    @app.task(name="retries")
    def retries() -> None:
        try:
            spin()
        except TimeLimit:
            raise Retry("once more", after=60) from None

    first, second = returns.enqueue(), retries.enqueue()
    assert app.drain() == {"succeeded": 1, "retried": 1}
    assert tidied == [1]
    assert first.refresh().outcome == "succeeded"
    assert history(app, second) == [("Retry", "Retry")]


def test_a_loop_that_catches_exceptions_is_stopped(app: App) -> None:
    @app.task
    def stubborn() -> None:
        while True:
            try:
                spin()
            except Exception:
                continue

    stubborn.enqueue()
    assert app.drain() == {"retried": 1}


def test_others_on_the_same_threads_never_notice(app: App) -> None:
    ran = []

    @app.task(name="endless")
    def endless() -> None:
        spin()

    @app.task(name="note")
    def note(n: int) -> None:
        ran.append(n)

    calls = [call for n in range(4) for call in (endless.call(), note.call(n), note.call(10 + n))]
    app.enqueue_many(calls)
    assert app.drain() == {"retried": 4, "succeeded": 8}
    assert sorted(ran) == [0, 1, 2, 3, 10, 11, 12, 13]


# ── what it wrote ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("effects", ["transactional", None])
@pytest.mark.parametrize("kind", ["session", "connection"])
def test_what_a_task_over_its_time_wrote_is_rolled_back(
    stage: Stage, app: App, kind: str, effects: str | None
) -> None:
    stage.make_effects()
    options: Any = {"effects": effects} if effects else {}

    @app.task(name="session", **options)
    def session(*, it: Session = given) -> None:
        it.execute(WRITE, {"name": "effect"})
        spin()

    @app.task(name="connection", **options)
    def connection(*, it: Connection = given) -> None:
        it.execute(WRITE, {"name": "effect"})
        spin()

    tasks: dict[str, Any] = {"session": session, "connection": connection}
    job = tasks[kind].enqueue()
    assert app.drain() == {"retried": 1}
    assert history(app, job) == [(OVER, "TimeLimit")]
    assert stage.effects() == []


def test_a_statement_in_a_transaction_ends_with_the_attempt_and_costs_no_process(
    stage: Stage, app: App
) -> None:
    """The driver waits for it where no exception can reach: the database must end it."""
    if stage.sqlite:
        pytest.skip("there is no server that could end a statement")
    statement = LONG[stage.database.name]

    @app.task(effects="transactional", max_attempts=1)
    def ask(*, session: Session = given) -> None:
        session.execute(text(statement))

    with Working(app):
        job = ask.enqueue()
        job.join(timeout=PATIENCE)
    assert job.outcome == "failed"
    assert not app.journal.of(Notice), "nobody was deaf"


@pytest.mark.parametrize("effects", ["transactional", None])
def test_what_an_async_task_over_its_time_wrote_is_rolled_back(stage: Stage, effects: str | None) -> None:
    engine = create_async_engine(stage.database.async_url, poolclass=NullPool)
    app = stage.app(async_engine=engine, max_run_time=LIMIT, retry=Backoff.fixed(3600))
    stage.make_effects()
    options: Any = {"effects": effects} if effects else {}

    @app.task(**options)
    async def endless(*, it: AsyncConnection = given) -> None:
        await it.execute(WRITE, {"name": "effect"})
        await asyncio.Event().wait()

    job = endless.enqueue()
    assert app.drain() == {"retried": 1}
    assert history(app, job) == [(OVER, "TimeLimit")]
    assert stage.effects() == []


def test_the_limit_does_not_reach_the_end_of_a_transaction(
    stage: Stage, app: App, looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.make_effects()
    finish = TaskTransaction.finish

    def slow(self: TaskTransaction, *rest: Any) -> None:
        looks.outlast()
        finish(self, *rest)

    monkeypatch.setattr(TaskTransaction, "finish", slow)

    @app.task(effects="transactional")
    def write(*, it: Session = given) -> None:
        it.execute(WRITE, {"name": "effect"})

    write.enqueue()
    assert app.drain() == {"succeeded": 1}
    assert stage.effects() == ["effect"]


def test_a_wait_for_a_connection_uses_no_run_time(
    stage: Stage, app: App, looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = TaskTransaction.start

    def slow(self: TaskTransaction) -> Any:
        threading.Event().wait(2 * LIMIT)
        return start(self)

    monkeypatch.setattr(TaskTransaction, "start", slow)

    @app.task(effects="transactional")
    def write(*, it: Session = given) -> None: ...

    write.enqueue()
    assert app.drain() == {"succeeded": 1}


# ── who does not stop ─────────────────────────────────────────────────────────────────────────


@pytest.fixture
def neighbour() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


@pytest.mark.usefixtures("impatient")
def test_a_deaf_thread_leaves_its_neighbours_unharmed(
    stage: Stage, app: App, gate: Gate, neighbour: Gate
) -> None:
    """It hangs where no exception reaches it. The neighbour may finish, and nothing more is claimed."""

    @app.task(name="deaf", max_attempts=1)
    def deaf() -> None:
        gate.pass_through()

    @app.task(name="sound", max_run_time=3600)
    def sound() -> None:
        neighbour.pass_through()

    with Working(app) as worker:
        lost, well = deaf.enqueue(), sound.enqueue()
        gate.wait_running()
        neighbour.wait_running()
        (notice,) = app.journal.wait_for(Notice)
        later = sound.enqueue()
        neighbour.open()
        worker.join()
    assert str(lost.id) in notice.text
    assert (worker.clean, worker.pump.deaf) == (False, True)
    assert (well.refresh().outcome, well.attempts) == ("succeeded", 1)
    assert (lost.refresh().outcome, lost.attempts) == ("failed", 1)
    assert app.manage.job(lost.id).cause == f"{OVER} in attempt 1, the last"
    row: Any = stage.row(app, later)
    assert (row["state"], row["attempt"], row["worker"], row["deaths"]) == ("available", 0, None, 0)
    assert stage.workers(app) == set()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("way", ["swallows", "blocks"])
def test_a_coroutine_that_does_not_stop_is_given_up(stage: Stage, app: App, gate: Gate, way: str) -> None:
    """One swallows its cancellation, one blocks the loop, so that not even its own timer gets through."""

    @app.task(name="swallows", max_attempts=1)
    async def swallows() -> None:
        while not gate._open.is_set():
            try:
                await asyncio.to_thread(gate.pass_through)
            except asyncio.CancelledError:
                continue

    @app.task(name="blocks", max_attempts=1)
    async def blocks() -> None:
        gate.pass_through()

    job = (swallows if way == "swallows" else blocks).enqueue()
    assert app.drain() == {"failed": 1}
    assert (job.refresh().outcome, job.attempts) == ("failed", 1)
    assert app.manage.job(job.id).cause == f"{OVER} in attempt 1, the last"


@pytest.mark.usefixtures("impatient")
def test_drain_in_a_test_comes_back_from_a_deaf_thread(app: App, gate: Gate) -> None:
    @app.task
    def deaf() -> None:
        gate.pass_through()

    job = deaf.enqueue()
    assert app.drain() == {"retried": 1}
    assert history(app, job) == [(OVER, "TimeLimit")]


@pytest.mark.usefixtures("impatient")
def test_a_deaf_transaction_does_not_hold_the_worker(stage: Stage, app: App, gate: Gate) -> None:
    """On SQLite it holds the write lock, so that nothing can be recorded while the process lives."""
    stage.make_effects()

    @app.task(effects="transactional", max_attempts=1)
    def deaf(*, it: Session = given) -> None:
        it.execute(WRITE, {"name": "effect"})
        gate.pass_through()

    job = deaf.enqueue()
    with Working(app, threads=1) as worker:
        gate.wait_running()
        worker.join()
    assert (worker.pump.deaf, worker.pump.stuck) == (True, stage.sqlite)
    if not stage.sqlite:
        assert (job.refresh().outcome, job.attempts) == ("failed", 1)
        assert stage.effects() == []
    gate.open()
    for thread in worker.pump._lanes._threads._threads:
        thread.join(PATIENCE)  # gives its connection back


def test_one_that_stops_late_counts_as_it_ended(
    app: App, gate: Gate, monkeypatch: pytest.MonkeyPatch, neighbour: Gate
) -> None:
    """It was given up, but comes back before the worker leaves."""
    monkeypatch.setattr(watch, "DEAF", 0.2)

    @app.task(name="late")
    def late() -> None:
        try:
            gate.pass_through()
        except TimeLimit:
            return

    @app.task(name="sound", max_run_time=3600)
    def sound() -> None:
        neighbour.pass_through()

    with Working(app) as worker:
        job, _ = late.enqueue(), sound.enqueue()
        neighbour.wait_running()
        app.journal.wait_for(Notice)
        gate.open()
        assert job.join(PATIENCE) == "succeeded"
        neighbour.open()
        worker.join()
    assert worker.pump.deaf
