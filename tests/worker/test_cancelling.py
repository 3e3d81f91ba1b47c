"""Cancelling a job that runs: its worker learns of it with the next beat, and its task is stopped."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from duly import Backoff, Context, Retry, Snooze, given
from duly.errors import AttemptStopped
from duly.model.events import JobEnded, Notice
from duly.store import outcomes
from duly.worker import watch
from tests.worker.play import WRITE
from tests.worker.stage import PATIENCE, App, Gate, Stage, TurnedWorker, Working


@pytest.fixture
def app(stage: Stage) -> App:
    return stage.app(retry=Backoff.fixed(0))


@pytest.fixture
def worker(stage: Stage, app: App) -> TurnedWorker:
    return stage.turned(app)


def start(worker: TurnedWorker, gate: Gate) -> None:
    worker.turn()
    gate.wait_running()


def stopped(stage: Stage, app: App, job: Any) -> None:
    """The job ended as one that was cancelled while it ran."""
    ended: Any = stage.ended(app, job)
    assert (ended["outcome"], ended["attempts"], ended["cause"]) == ("cancelled", 1, "cancelled while it ran")
    assert stage.row(app, job) is None
    assert [event.outcome for event in app.journal.of(JobEnded)] == ["cancelled"]


def test_a_task_that_asks_its_context_finds_out(
    stage: Stage, app: App, worker: TurnedWorker, gate: Gate
) -> None:
    @app.task
    def polite(*, ctx: Context = given) -> None:
        gate.running.release()
        while True:
            ctx.check()

    job = polite.enqueue()
    start(worker, gate)
    assert job.cancel()
    assert (job.state, job.outcome) == ("running", None)
    assert stage.audited(app) == [("handle", "asked to stop", job.id)]
    worker.beat()
    worker.until_ended(job)
    stopped(stage, app, job)
    assert not job.cancel()


def test_a_task_that_does_not_ask_is_stopped(
    stage: Stage, app: App, worker: TurnedWorker, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may find out by itself for a moment; then the exception is raised in it."""
    monkeypatch.setattr(watch, "PATIENCE", 0.1)
    raised = []

    @app.task
    def busy() -> None:
        gate.running.release()
        try:
            while True:
                pass
        except AttemptStopped as error:
            raised.append(type(error))
            raise

    job = busy.enqueue()
    start(worker, gate)
    assert app.manage.cancel(job.id, actor="ada")
    assert stage.audited(app) == [("ada", "asked to stop", job.id)]
    worker.beat()
    worker.until_ended(job)
    assert raised == [AttemptStopped]
    stopped(stage, app, job)


def test_an_async_task_is_cancelled_once(stage: Stage, app: App, worker: TurnedWorker, gate: Gate) -> None:
    """Later beats see the same row, and do not disturb what it does to tidy up."""
    tidy, tidied = threading.Event(), []

    @app.task
    async def endless() -> None:
        gate.running.release()
        try:
            await asyncio.Event().wait()
        finally:
            tidied.append("began")
            await asyncio.to_thread(tidy.wait, PATIENCE)
            tidied.append("done")

    job = endless.enqueue()
    start(worker, gate)
    job.cancel()
    worker.beat()
    worker.until(lambda: tidied)
    worker.beat()
    tidy.set()
    worker.until_ended(job)
    assert tidied == ["began", "done"]
    stopped(stage, app, job)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_a_cancelled_transaction_wrote_is_rolled_back(
    postgresql: Stage, gate: Gate, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """On SQLite a transactional task holds the write lock: nobody can ask while it runs."""
    monkeypatch.setattr(watch, "PATIENCE", 0.1)
    stage = postgresql
    app = stage.app(async_engine=create_async_engine(stage.database.async_url, poolclass=NullPool))
    stage.make_effects()

    @app.task(name="sync", effects="transactional")
    def sync(*, it: Session = given) -> None:
        it.execute(WRITE, {"name": "effect"})
        gate.running.release()
        while True:
            pass

    @app.task(name="async", effects="transactional")
    async def coroutine(*, it: AsyncConnection = given) -> None:
        await it.execute(WRITE, {"name": "effect"})
        gate.running.release()
        await asyncio.Event().wait()

    worker = stage.turned(app)
    job = (sync if kind == "sync" else coroutine).enqueue()
    start(worker, gate)
    assert job.cancel()
    worker.beat()
    worker.until_ended(job)
    stopped(stage, app, job)
    assert stage.effects() == []


def test_a_job_that_succeeds_meanwhile_has_succeeded(
    stage: Stage, app: App, worker: TurnedWorker, gate: Gate
) -> None:
    seen = []

    @app.task
    def quick(*, ctx: Context = given) -> None:
        gate.pass_through()
        seen.append(ctx.cancelled)

    job = quick.enqueue()
    start(worker, gate)
    assert job.cancel()
    gate.open()
    worker.until_ended(job)
    assert seen == [False]
    assert (job.outcome, job.attempts) == ("succeeded", 1)


def failing() -> None:
    raise ValueError("failed by itself")


def retrying() -> None:
    raise Retry


def snoozing() -> None:
    raise Snooze


def check_a_cancelled_job_does_not_wait_again(stage: Stage, app: App, gate: Gate, body: Any) -> str:
    """Its attempt ended by itself before the worker knew; returns the cause."""

    @app.task
    def task() -> None:
        gate.pass_through()
        body()

    job = task.enqueue()
    worker = stage.turned(app)
    start(worker, gate)
    assert job.cancel()
    gate.open()
    worker.until_ended(job)
    assert gate.runs == 1, "it ran again"
    assert job.outcome == "cancelled"
    assert [event.outcome for event in app.journal.of(JobEnded)] == ["cancelled"]
    ended: Any = stage.ended(app, job)
    assert ended["attempts"] == (body is not snoozing)
    return str(ended["cause"])


@pytest.mark.parametrize(
    ("body", "cause"), [(failing, "ValueError"), (retrying, "Retry"), (snoozing, "snoozed")]
)
def test_a_cancelled_job_does_not_wait_again(
    stage: Stage, app: App, gate: Gate, body: Any, cause: str
) -> None:
    found = check_a_cancelled_job_does_not_wait_again(stage, app, gate, body)
    assert found == f"cancelled while it ran; {cause}"


def test_a_store_that_retries_a_cancelled_job_is_noticed(
    sqlite: Stage, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes, "_cancelled_instead", lambda report: report)
    app = sqlite.app(retry=Backoff.fixed(0))
    sqlite.patience = 1.0
    with pytest.raises(AssertionError, match=r"it ran again|did not come"):
        check_a_cancelled_job_does_not_wait_again(sqlite, app, gate, failing)


def test_one_that_is_claimed_and_not_started_ends_without_an_attempt(
    stage: Stage, app: App, gate: Gate
) -> None:
    @app.task
    def wait() -> None:
        gate.pass_through()

    worker = stage.turned(app, threads=1)
    worker.pump._pace.room = lambda *_: 2  # type: ignore[method-assign]
    worker.pump._pace.fit = lambda tasks, _: len(tasks)  # type: ignore[method-assign]
    first, second = wait.enqueue(), wait.enqueue()
    start(worker, gate)
    assert worker.held == {first.id, second.id}
    worker.pump._pace.room = lambda *_: 0  # type: ignore[method-assign]
    assert second.cancel()
    worker.beat()
    worker.until_ended(second)
    gate.open()
    worker.until_ended(first)
    assert gate.runs == 1
    assert (second.outcome, second.attempts) == ("cancelled", 0)
    assert first.outcome == "succeeded"


def test_a_cancelled_job_does_not_harm_its_neighbour(
    stage: Stage, app: App, worker: TurnedWorker, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "PATIENCE", 0.1)
    ran = threading.Event()

    @app.task(name="busy")
    def busy() -> None:
        gate.running.release()
        while True:
            pass

    @app.task(name="neighbour")
    def neighbour() -> None:
        gate.pass_through()
        ran.set()

    job, other = busy.enqueue(), neighbour.enqueue()
    worker.turn()
    gate.wait_running(2)
    job.cancel()
    worker.beat()
    worker.until_ended(job)
    assert not ran.is_set()
    gate.open()
    worker.until_ended(other)
    assert (job.outcome, other.outcome, other.attempts) == ("cancelled", "succeeded", 1)


def test_a_cancelled_job_that_does_not_stop_ends_cancelled(
    stage: Stage, app: App, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "PATIENCE", 0.1)
    monkeypatch.setattr(watch, "DEAF", 0.2)
    app.settings = replace(app.settings, beat=0.1, lease=2.0)

    @app.task
    def deaf() -> None:
        gate.pass_through()

    with Working(app) as worker:
        job = deaf.enqueue()
        gate.wait_running()
        assert job.cancel()
        app.journal.wait_for(Notice)
        worker.join()
    assert worker.pump.deaf
    stopped(stage, app, job)
