"""Transactional tasks: what the fence refuses, and what a cancellation leaves."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from duly import given
from duly.errors import DatabaseUnavailable
from duly.model.events import JobEnded, LeaseWasLost
from duly.store.tasktransaction import _Steps
from tests.worker import checks
from tests.worker.play import WRITE, Doing, Play
from tests.worker.stage import PATIENCE, Stage

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

        real(connection, worker, claimed._replace(id=job.id), **rest)

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
    pool.append(turned.pump._lanes._loop)
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
