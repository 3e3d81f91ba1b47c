"""Transactional tasks: what they write commits with the ledger row, exactly once, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from duly import Backoff, Cancel, Retry, Snooze, given
from tests.worker.play import WRITE, Doing, Play
from tests.worker.stage import PATIENCE, Stage

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
