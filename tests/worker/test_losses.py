"""What is lost, and what is not: replies, rows, workers, the database itself."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from sqlalchemy import text

from duly import Backoff, Context, given
from duly.model.events import DatabaseFound, DatabaseLost, JobEnded, JobRetried, LeaseWasLost, Notice, Rescued
from tests.worker import checks
from tests.worker.stage import PATIENCE, Gate, Stage, Working

# ── replies ───────────────────────────────────────────────────────────────────────────────────


def test_a_lost_exchange_reply_strands_nothing(stage: Stage) -> None:
    checks.check_a_lost_exchange_reply_strands_nothing(stage)


def test_outcomes_handed_in_again_are_not_doubled(stage: Stage) -> None:
    app, ran = stage.app(), []

    @app.task
    def fine(n: int) -> None:
        ran.append(n)

    @app.task(retry=Backoff.fixed(3600))
    def shaky(n: int) -> None:
        ran.append(n)
        raise ValueError

    good, bad = fine.enqueue(1), shaky.enqueue(2)
    turned = stage.turned(app, threads=2)
    turned.turn()
    done = [turned.pump._done.get(timeout=PATIENCE) for _ in range(2)]
    for one in done:
        turned.pump._done.put(one)
    turned.lose_reply(2)
    assert not turned.turn()
    assert not turned.turn()
    turned.until(lambda: not turned.held)
    assert sorted(ran) == [1, 2]
    assert stage.ended(app, good)["attempts"] == 1  # type: ignore[index]
    row: Any = stage.row(app, bad)
    assert (row["attempt"], row["state"]) == (1, "scheduled")
    assert len(app.manage.attempts(bad.id)) == 1
    assert [len(app.journal.of(kind)) for kind in (JobEnded, JobRetried, LeaseWasLost)] == [1, 1, 0]
    assert turned.pump.tally == {"succeeded": 1, "retried": 1}


def test_a_release_whose_reply_was_lost_does_not_give_the_job_to_two(stage: Stage, gate: Gate) -> None:
    app, ran = stage.app(), []

    @app.task
    def first() -> None:
        gate.pass_through()

    @app.task
    def second(*, ctx: Context = given) -> None:
        ran.append(ctx.worker)

    blocking, job = first.using(priority=-1).enqueue(), second.enqueue()
    turned, other = stage.turned(app, threads=1), stage.turned(app)
    turned.pump._pace.room = lambda *_: 2  # type: ignore[method-assign]
    turned.pump._pace.fit = lambda tasks, _: len(tasks)  # type: ignore[method-assign]
    turned.turn()
    gate.wait_running()
    turned.pump._pace.room = lambda *_: 0  # type: ignore[method-assign]
    turned.lose_reply()
    assert not turned.turn(1.1)  # given back, and not known to be
    other.until_ended(job)
    turned.until(lambda: turned.held == {blocking.id})
    assert ran == [other.id]
    assert stage.ended(app, job)["claim"] == 2  # type: ignore[index]
    assert app.journal.of(LeaseWasLost) == []


def test_every_beat_reconciles(stage: Stage) -> None:
    """Also where no error told the worker that there was anything to reconcile."""
    app = stage.app()

    @app.task
    def note() -> None: ...

    job = note.enqueue()
    turned = stage.turned(app)
    stage.alter(app, job, state="running", worker=turned.id, claim=7)
    turned.turn()
    assert job.refresh().state == "running"
    turned.beat()
    turned.until_ended(job)
    assert stage.ended(app, job)["claim"] == 8  # type: ignore[index]


def test_a_running_job_is_not_released_by_a_beat(stage: Stage, gate: Gate) -> None:
    app = stage.app()

    @app.task
    def wait() -> None:
        gate.pass_through()

    job = wait.enqueue()
    turned = stage.turned(app)
    turned.turn()
    gate.wait_running()
    for _ in range(4):
        turned.beat()
    assert stage.row(app, job)["claim"] == 1  # type: ignore[index]
    gate.open()
    turned.until_ended(job)
    assert gate.runs == 1


# ── rows ──────────────────────────────────────────────────────────────────────────────────────


def test_a_worker_taken_for_dead_takes_a_new_id(stage: Stage) -> None:
    checks.check_a_worker_taken_for_dead_takes_a_new_id(stage)


def test_a_worker_taken_for_dead_says_who_it_was(stage: Stage) -> None:
    app = stage.app()
    turned = stage.turned(app)
    old = turned.id
    stage.remove_worker(app, old)
    turned.beat()
    (notice,) = app.journal.of(Notice)
    assert old in notice.text


def test_a_worker_taken_for_dead_drops_what_waits_and_stops_what_runs(stage: Stage, gate: Gate) -> None:
    app, seen = stage.app(), []

    @app.task
    def wait(*, ctx: Context = given) -> None:
        gate.pass_through()
        seen.append(ctx.cancelled)

    first, second = wait.enqueue(), wait.enqueue()
    turned = stage.turned(app, threads=1)
    turned.pump._pace.room = lambda *_: 2  # type: ignore[method-assign]
    turned.pump._pace.fit = lambda tasks, _: len(tasks)  # type: ignore[method-assign]
    turned.turn()
    gate.wait_running()
    turned.pump._pace.room = lambda *_: 0  # type: ignore[method-assign]
    old = turned.id
    stage.remove_worker(app, old)
    assert turned.turn() in (True, False)  # an exchange may notice as well
    turned.beat()
    assert turned.held == {first.id}
    gate.open()
    turned.until(lambda: not turned.held)
    assert seen == [True]
    for job in (first, second):
        row: Any = stage.row(app, job)
        assert row["worker"] == (None if stage.sqlite else old)  # on SQLite nobody waits to rescue it


def test_an_exchange_without_a_row_is_given_nothing_and_takes_a_new_id(stage: Stage) -> None:
    app = stage.app()

    @app.task
    def note() -> None: ...

    turned = stage.turned(app)
    old = turned.id
    stage.remove_worker(app, old)
    job = note.enqueue()
    turned.turn()
    assert turned.held == set()
    assert not turned.pump.membership.joined
    turned.until_ended(job)
    assert turned.id != old
    assert stage.ended(app, job)["worker"] == turned.id  # type: ignore[index]
    assert stage.workers(app) == {turned.id}


def test_an_async_job_that_is_no_longer_ours_is_cancelled(stage: Stage) -> None:
    app, began, ended = stage.app(), threading.Event(), threading.Event()

    @app.task
    async def endless() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    endless.enqueue()
    turned = stage.turned(app)
    turned.turn()
    assert began.wait(PATIENCE)
    turned.pump._pace.room = lambda *_: 0  # type: ignore[method-assign]
    stage.remove_worker(app, turned.id)
    turned.beat()
    assert ended.wait(PATIENCE)
    turned.until(lambda: not turned.held)
    assert turned.pump._hand.asynchronous == 0


def test_a_single_job_that_was_taken_away_is_told_to_stop(stage: Stage, gate: Gate) -> None:
    """Its row is another's: a rescue by a judge that was wrong."""
    app, seen = stage.app(), []

    @app.task
    def wait(*, ctx: Context = given) -> None:
        gate.pass_through()
        seen.append(ctx.cancelled)

    job = wait.enqueue()
    turned, other = stage.turned(app, threads=1), stage.turned(app)
    turned.turn()
    gate.wait_running()
    stage.alter(app, job, claim=2, worker=other.id)
    turned.beat()
    gate.open()
    turned.until(lambda: app.journal.of(LeaseWasLost))
    assert seen == [True]
    assert turned.held == set()
    row: Any = stage.row(app, job)
    assert (row["state"], row["worker"], row["claim"]) == ("running", other.id, 2)


# ── workers ───────────────────────────────────────────────────────────────────────────────────


def test_a_dead_workers_jobs_are_rescued_by_another(stage: Stage, gate: Gate) -> None:
    """By leases of a second, on the database's own clock."""
    app, dying = stage.app(settings={"lease": 1.0, "beat": 0.3}), stage.app()

    @dying.task(name="note")
    def wait() -> None:
        gate.pass_through()

    @app.task(name="note")
    def note() -> None: ...

    jobs = [note.enqueue(), note.enqueue()]
    turned = stage.turned(dying, threads=2)
    turned.turn()
    gate.wait_running(2)
    turned.die()
    with Working(app):
        (rescued,) = app.journal.wait_for(Rescued)
        for job in jobs:
            assert job.join(PATIENCE) == "succeeded"
    gate.open()
    assert (rescued.jobs, rescued.workers) == (2, 1)
    for job in jobs:
        ended: Any = stage.ended(app, job)
        assert (ended["rescues"], ended["attempts"], ended["claim"]) == (1, 1, 2)


def test_who_is_new_waits_a_lease_before_it_judges(postgresql: Stage) -> None:
    stage, app = postgresql, postgresql.app()

    @app.task
    def note() -> None: ...

    dead = stage.turned(app)
    dead.die()
    stage.silence(app, 60)
    turned = stage.turned(app)
    turned.turn()
    turned.beat()
    assert dead.id in stage.workers(app)
    for _ in range(4):
        turned.beat()
    assert stage.workers(app) == {turned.id}


def test_a_gap_of_the_database_rescues_nobody_who_lives(postgresql: Stage) -> None:
    checks.check_a_gap_of_the_database_rescues_nobody_who_lives(postgresql)


def test_on_sqlite_a_living_worker_is_never_rescued_however_silent(sqlite: Stage, gate: Gate) -> None:
    stage, app = sqlite, sqlite.app()

    @app.task
    def wait() -> None:
        gate.pass_through()

    job = wait.enqueue()
    silent, judge = stage.turned(app, threads=1), stage.turned(app)
    silent.turn()
    gate.wait_running()
    stage.silence(app, 3600)
    for _ in range(5):
        judge.beat()
    assert app.journal.of(Rescued) == []
    gate.open()
    silent.until_ended(job)


def test_a_frozen_transaction_does_not_stop_a_rescue(postgresql: Stage) -> None:
    stage, app = postgresql, postgresql.app()

    @app.task
    def note() -> None: ...

    frozen, free = note.enqueue(), note.enqueue()
    dead = stage.turned(app)
    with app.store.writing() as connection:
        for job in (frozen, free):
            app.store.jobs.claim_one(connection, dead.id, job.id)
    dead.gone = True
    stage.remove_worker(app, dead.id)
    turned = stage.turned(app)
    with app.store.writing() as connection:
        connection.execute(text("SELECT 1 FROM duly_jobs WHERE id = :id FOR UPDATE"), {"id": frozen.id})
        for _ in range(5):
            turned.beat()
        turned.until_ended(free)
        assert frozen.refresh().state == "running"
    turned.beat()
    turned.until_ended(frozen)
    dead.leave()


# ── the database ──────────────────────────────────────────────────────────────────────────────


def test_a_worker_outlives_a_gap_and_says_so_once(stage: Stage, gate: Gate) -> None:
    app = stage.app()

    @app.task
    def wait() -> None:
        gate.pass_through()

    job = wait.enqueue()
    turned = stage.turned(app, threads=1)
    turned.turn()
    gate.wait_running()
    with turned.cut_off():
        for _ in range(5):
            assert not turned.turn(1.0)
        gate.open()
        done = turned.pump._done.get(timeout=PATIENCE)
        turned.pump._done.put(done)
        assert not turned.turn(1.0)
    turned.until_ended(job)
    assert gate.runs == 1
    assert [len(app.journal.of(kind)) for kind in (DatabaseLost, DatabaseFound)] == [1, 1]
    assert app.journal.of(DatabaseFound)[0].gap == 5.0
    assert stage.ended(app, job)["claim"] == 1  # type: ignore[index]


def test_a_working_worker_whose_connection_is_killed_finds_back(postgresql: Stage) -> None:
    stage, app = postgresql, postgresql.app()

    @app.task
    def note() -> None: ...

    with Working(app) as worker:
        note.enqueue().join(PATIENCE)
        stage.database.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND query !~ 'ALTER DATABASE|pg_stat'"
        )
        app.store.engine.dispose()  # what it had in its pool is dead as well
        assert note.enqueue().join(PATIENCE) == "succeeded"
    assert len(worker.ids) == 1
    assert len(app.journal.of(DatabaseLost)) == len(app.journal.of(DatabaseFound))


def test_a_busy_database_is_not_a_lost_one(sqlite: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duly.store.dialect.writelock.PATIENCE", 0.001)
    stage, app = sqlite, sqlite.app()

    @app.task
    def note() -> None: ...

    job = note.enqueue()
    turned = stage.turned(app)
    with app.store.writing():
        assert not turned.turn()
    turned.until_ended(job)
    assert app.journal.of(DatabaseLost) == []
