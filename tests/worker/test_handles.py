"""Handles and operators' verbs, end to end."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from duly import Backoff, Cancel, given
from duly.envelope.keys import new_key
from duly.errors import (
    JobDidNotSucceed,
    JobNotEnded,
    JobNotFound,
    JobNotRetryable,
    JoinTimeout,
    ResultNotKept,
)
from duly.model.ids import derived_id, new_id
from duly.task import Context
from tests.worker.stage import PATIENCE, App, Stage, Working


def declare(app: App) -> Any:
    """A task that does what its argument says."""

    @app.task(name="do", retry=Backoff.fixed(3600))
    def do(what: str = "", *, ctx: Context = given) -> str:
        if what == "cancel":
            raise Cancel
        if what == "fail":
            raise ValueError("failed as told")
        return what.upper()

    return do


@pytest.fixture
def app(stage: Stage) -> App:
    return stage.app()


def test_a_handle_tells_the_life_of_its_job(app: App) -> None:
    do = declare(app)
    job = do.using(keep_result=True).enqueue("x")
    assert (job.state, job.outcome, job.attempts, job.error) == ("available", None, 0, None)
    with pytest.raises(JobNotEnded):
        job.result()
    with pytest.raises(JoinTimeout):
        job.join(timeout=0.01)
    app.drain()
    assert job.join(timeout=PATIENCE) == "succeeded"
    assert (job.state, job.outcome, job.attempts, job.error) == (None, "succeeded", 1, None)
    assert job.result() == "X"
    assert app.handle(str(job.id)).result() == "X"


def test_what_went_wrong_can_be_read(app: App) -> None:
    do = declare(app)
    job = do.using(max_attempts=2, retry=Backoff.fixed(0.0)).enqueue("fail")
    app.drain()
    assert job.join(PATIENCE) == "failed"
    assert (job.attempts, job.error) == (2, "ValueError: failed as told")
    with pytest.raises(JobDidNotSucceed, match="failed as told"):
        job.result()
    plain = do.enqueue("x")
    app.drain()
    with pytest.raises(ResultNotKept):
        plain.result(timeout=PATIENCE)


def test_the_async_twins_do_the_same(app: App) -> None:
    do = declare(app)

    async def main() -> None:
        job = await do.using(keep_result=True).aenqueue("x")
        assert job.state == "available"
        with pytest.raises(JoinTimeout):
            await job.ajoin(timeout=0.01)
        with Working(app):
            assert await job.ajoin(PATIENCE) == "succeeded"
        assert await job.aresult() == "X"
        assert (await job.arefresh()).attempts == 1
        other = await do.using(run_in=3600).aenqueue("y")
        assert await other.acancel()
        assert other.outcome == "cancelled"

    asyncio.run(main())


def test_a_waiting_job_can_be_cancelled_and_never_runs(stage: Stage, app: App) -> None:
    do = declare(app)
    available, scheduled = do.enqueue("x"), do.using(run_in=3600).enqueue("y")
    for job in (available, scheduled):
        assert job.cancel()
        assert job.outcome == "cancelled"
        assert not job.cancel()
        assert (("handle", "cancelled", job.id)) in stage.audited(app)
    assert app.drain() == {}


def test_a_job_that_has_ended_cannot_be_cancelled(stage: Stage, app: App) -> None:
    do = declare(app)
    ended = do.enqueue("x")
    app.drain()
    assert not ended.cancel()
    assert not app.manage.cancel(ended.id)
    assert ended.outcome == "succeeded"
    assert not app.handle(new_id()).cancel()
    with pytest.raises(JobNotFound):
        app.manage.cancel(new_id())
    assert stage.audited(app) == []


# ── a person's retry ──────────────────────────────────────────────────────────────────────────


def failed(app: App, do: Any, **options: Any) -> Any:
    job = do.using(max_attempts=1, **options).enqueue("fail")
    app.drain()
    assert job.refresh().outcome == "failed"
    return job


@pytest.mark.parametrize("keys", [None, new_key()])
def test_a_retry_is_a_new_job_with_the_same_origin(stage: Stage, keys: str | None) -> None:
    app = stage.app(keys=keys)
    do = declare(app)
    job = failed(app, do, expires_in=timedelta(days=2), priority=7, queue="mail")
    retry = app.manage.retry(job.id, actor="ada")
    assert retry.id == derived_id(job.id, "retry") != job.id
    row: Any = stage.row(app, retry)
    first: Any = stage.ended(app, job)
    assert (row["origin"], row["task"], row["queue"], row["priority"]) == (job.id, "do", "mail", 7)
    assert (row["attempt"], row["claim"], row["state"]) == (0, 0, "available")
    assert row["expires_at"] - row["enqueued_at"] == first["expires_at"] - first["enqueued_at"]
    assert row["expires_at"] > first["expires_at"]
    assert stage.audited(app) == [("ada", "retried", job.id)]

    def mended(what: str = "", *, ctx: Context = given) -> str:
        assert ctx.idempotency_key == str(job.id)
        return "mended"

    do.function = mended
    app.drain()
    assert retry.refresh().outcome == "succeeded"
    assert job.refresh().outcome == "failed"  # the ledger never changes


def test_a_second_click_finds_the_first_retry(stage: Stage, app: App) -> None:
    do = declare(app)
    job = failed(app, do)
    first = app.manage.retry(job.id)
    assert app.manage.retry(job.id) == first
    app.drain()
    assert first.refresh().outcome == "failed"
    assert app.manage.retry(job.id) == first  # ended meanwhile: it is found all the same
    assert app.drain() == {}
    assert [action for _, action, _ in stage.audited(app)] == ["retried"]


def test_the_retry_of_a_retry_makes_the_next(stage: Stage, app: App) -> None:
    do = declare(app)
    job = failed(app, do)
    seen, current = {job.id}, job
    for _ in range(3):
        current = app.manage.retry(current.id)
        app.drain()
        assert current.refresh().outcome == "failed"
        assert stage.ended(app, current)["origin"] == job.id  # type: ignore[index]
        seen.add(current.id)
    assert len(seen) == 4


def test_what_cannot_be_retried_says_why(stage: Stage, app: App) -> None:
    do = declare(app)
    waiting = do.using(run_in=3600).enqueue("x")
    with pytest.raises(JobNotRetryable, match="has not ended"):
        app.manage.retry(waiting.id)
    waiting.cancel()
    with pytest.raises(JobNotRetryable, match="no arguments are kept"):
        app.manage.retry(waiting.id)
    good = do.enqueue("x")
    app.drain()
    with pytest.raises(JobNotRetryable, match="succeeded"):
        app.manage.retry(good.id)
    with pytest.raises(JobNotFound):
        app.manage.retry(new_id())


def test_a_retry_needs_the_key(stage: Stage) -> None:
    app = stage.app(keys=new_key())
    job = failed(app, declare(app))
    keyless, other = stage.app(), stage.app(keys=new_key())
    for stranger in (keyless, other):
        with pytest.raises(JobNotRetryable, match="cannot be opened here"):
            stranger.manage.retry(job.id)


def test_a_rejected_job_cannot_be_retried_with_what_was_edited(stage: Stage) -> None:
    app = stage.app(keys=new_key())
    job = declare(app).enqueue("x")
    stage.alter(app, job, principal="root")
    app.drain()
    assert job.refresh().outcome == "rejected"
    with pytest.raises(JobNotRetryable, match="cannot be opened here"):
        app.manage.retry(job.id)


# ── looking ───────────────────────────────────────────────────────────────────────────────────


def test_what_operators_see(stage: Stage, app: App) -> None:
    do = declare(app)
    failed(app, do)
    retried = do.using(max_attempts=2, retry=Backoff.fixed(0.0)).enqueue("fail")
    app.drain()
    retried.join(PATIENCE)
    do.using(queue="mail").enqueue("x")
    do.using(run_in=3600).enqueue("y")
    seen = app.manage.overview()
    assert seen.states == {"available": 1, "scheduled": 1}
    assert seen.outcomes == {"failed": 2}
    assert (seen.enqueued, seen.retried, seen.rescued) == (4, 1, 0)
    queues = {queue.name: queue for queue in app.manage.queues()}
    assert (queues["mail"].available, queues["default"].scheduled, queues["default"].age) == (1, 1, None)
    oldest = app.manage.oldest_waiting()
    assert oldest is not None
    assert oldest.name == "mail"
    turned = stage.turned(app)
    (worker,) = app.manage.workers()
    assert (worker.id, worker.queues) == (turned.id, "*")
    assert timedelta(0) <= worker.silent < timedelta(minutes=1)


def test_clear_cancels_what_waits_and_nothing_else(stage: Stage, app: App) -> None:
    do = declare(app)
    failed(app, do)
    mail = [do.using(queue="mail").enqueue("x") for _ in range(3)]
    other = do.enqueue("y")
    turned = stage.turned(app)
    with app.store.writing() as connection:
        assert app.store.jobs.claim_one(connection, turned.id, mail[0].id)
    assert app.manage.clear(queue="mail", actor="ada") == 2
    assert [job.refresh().outcome for job in mail] == [None, "cancelled", "cancelled"]
    assert other.refresh().outcome is None
    assert app.manage.clear(task="no.such") == 0
    assert app.manage.clear() == 1
    assert [entry[:2] for entry in stage.audited(app)] == [("ada", "cleared"), ("operator", "cleared")]


def test_attempts_that_cannot_be_opened_here_are_still_listed(stage: Stage) -> None:
    app = stage.app(keys=new_key())
    job = failed(app, declare(app))
    (told,) = stage.app().manage.attempts(job.id)
    assert told.error is not None
    assert told.error.type == "UnknownKey"
    assert "failed as told" not in repr(told)
