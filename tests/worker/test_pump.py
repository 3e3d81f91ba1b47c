"""Whole workers: jobs run once, are retried, promoted, expired, given back."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest

from duly import Backoff, Cancel, Context, Retry, Snooze, given
from duly.errors import DatabaseUnavailable
from duly.model.events import JobEnded, JobPutBack, JobRetried, LeaseWasLost, Started, Stopped
from duly.worker import pump as pump_module
from tests.worker import checks
from tests.worker.stage import PATIENCE, Gate, Stage, Working

# ── the main job ──────────────────────────────────────────────────────────────────────────────


def test_jobs_run_once_sync_and_async(stage: Stage) -> None:
    app, ran = stage.app(), []

    @app.task
    def sync(number: int) -> None:
        ran.append(number)

    @app.task
    async def coroutine(number: int) -> None:
        await asyncio.sleep(0)
        ran.append(number)

    calls = [(sync, coroutine)[n % 2].call(n) for n in range(30)]
    jobs = app.enqueue_many(calls)
    with Working(app) as worker:
        for job in jobs:
            assert job.join(PATIENCE) == "succeeded"
    assert sorted(ran) == list(range(30))
    assert worker.clean
    assert worker.pump.tally == {"succeeded": 30}
    assert {stage.ended(app, job)["attempts"] for job in jobs} == {1}  # type: ignore[index]
    assert stage.workers(app) == set()


def test_two_workers_share_the_jobs_and_double_none(stage: Stage) -> None:
    app, ran, lock = stage.app(), [], threading.Lock()

    @app.task
    def note(number: int) -> None:
        with lock:
            ran.append(number)

    jobs = app.enqueue_many(note.call(n) for n in range(100))
    with Working(app), Working(app):
        for job in jobs:
            assert job.join(PATIENCE) == "succeeded"
    assert sorted(ran) == list(range(100))


def test_until_empty_leaves_when_nothing_is_left(stage: Stage) -> None:
    app = stage.app()

    @app.task
    def first() -> None:
        second.enqueue()

    @app.task
    def second() -> None: ...

    jobs = [first.enqueue() for _ in range(5)]
    with Working(app, until_empty=True) as worker:
        worker.join()
    assert worker.pump.tally == {"succeeded": 10}
    assert {job.refresh().outcome for job in jobs} == {"succeeded"}


def test_a_worker_serves_its_queues_alone(stage: Stage) -> None:
    app = stage.app()

    @app.task
    def note() -> None: ...

    mail, eu, other = (note.using(queue=q).enqueue() for q in ("mail", "mail-eu", "other"))
    with Working(app, queues=("mail", "mail-*"), until_empty=True) as worker:
        worker.join()
    assert (mail.refresh().outcome, eu.refresh().outcome, other.refresh().state) == (
        "succeeded", "succeeded", "available",
    )  # fmt: skip


def test_a_queue_that_comes_up_later_is_found(stage: Stage) -> None:
    app = stage.app()

    @app.task
    def note() -> None: ...

    with Working(app):
        note.enqueue().join(PATIENCE)
        assert note.using(queue="new").enqueue().join(PATIENCE) == "succeeded"


def test_lower_priority_runs_first(stage: Stage) -> None:
    app, ran = stage.app(), []

    @app.task
    def note(name: str) -> None:
        ran.append(name)

    for name, priority in (("c", 5), ("a", -5), ("b", 0)):
        note.using(priority=priority).enqueue(name)
    with Working(app, threads=1, until_empty=True) as worker:
        worker.join()
    assert ran == ["a", "b", "c"]


def test_a_worker_finds_what_comes_while_it_is_idle(stage: Stage) -> None:
    app = stage.app()

    @app.task
    def note() -> None: ...

    with Working(app) as worker:
        app.journal.wait_for(Started)
        for _ in range(3):
            assert note.enqueue().join(PATIENCE) == "succeeded"
    assert worker.pump.tally == {"succeeded": 3}


# ── when attempts end otherwise ───────────────────────────────────────────────────────────────


def test_a_failed_job_runs_again_when_due_and_then_succeeds(stage: Stage) -> None:
    app, tries = stage.app(), []

    @app.task(retry=Backoff.fixed(0.01), max_attempts=5)
    def shaky(*, ctx: Context = given) -> None:
        tries.append(ctx.attempt)
        if ctx.attempt < 3:
            raise ValueError("not yet")

    with Working(app):
        job = shaky.enqueue()
        assert job.join(PATIENCE) == "succeeded"
    assert tries == [1, 2, 3]
    assert job.attempts == 3
    assert [(a.number, a.cause, a.error and a.error.message) for a in app.manage.attempts(job.id)] == [
        (1, "ValueError", "not yet"), (2, "ValueError", "not yet"),
    ]  # fmt: skip
    assert [event.attempt for event in app.journal.of(JobRetried)] == [1, 2]


def test_a_job_out_of_attempts_ends_failed(stage: Stage) -> None:
    app = stage.app()

    @app.task(retry=Backoff.fixed(0.01), max_attempts=2)
    def shaky() -> None:
        raise ValueError("never")

    with Working(app) as worker:
        job = shaky.enqueue()
        assert job.join(PATIENCE) == "failed"
    assert job.attempts == 2
    assert job.error == "ValueError: never"
    assert worker.pump.tally == {"retried": 1, "failed": 1}


def test_retry_snooze_and_cancel_as_a_task_says(stage: Stage) -> None:
    app, tries = stage.app(), []

    @app.task(max_attempts=2)
    def moody(*, ctx: Context = given) -> None:
        tries.append(ctx.attempt)
        if len(tries) == 1:
            raise Snooze(after=0.01)
        if len(tries) == 2:
            raise Retry(after=0.01)
        raise Cancel("enough")

    with Working(app):
        job = moody.enqueue()
        assert job.join(PATIENCE) == "cancelled"
    assert tries == [1, 1, 2]
    assert job.attempts == 2
    assert [event.problem for event in app.journal.of(JobPutBack)] == [False]


def test_what_would_be_snoozed_past_its_expiry_ends_expired(stage: Stage) -> None:
    app = stage.app()

    @app.task(expires_in=timedelta(hours=1))
    def sleepy() -> None:
        raise Snooze(after=timedelta(hours=2))

    with Working(app) as worker:
        job = sleepy.enqueue()
        assert job.join(PATIENCE) == "expired"
    assert worker.pump.tally == {"expired": 1}
    assert [event.outcome for event in app.journal.of(JobEnded)] == ["expired"]


def test_exiting_tasks_do_not_take_the_worker_along(stage: Stage) -> None:
    app = stage.app(max_attempts=1)

    @app.task
    def leave() -> None:
        raise SystemExit(1)

    @app.task
    async def interrupt() -> None:
        raise KeyboardInterrupt

    @app.task
    async def fine() -> None: ...

    with Working(app, threads=1):
        bad = [leave.enqueue(), interrupt.enqueue()]
        assert [job.join(PATIENCE) for job in bad] == ["failed", "failed"]
        assert fine.enqueue().join(PATIENCE) == "succeeded"


def test_what_cannot_run_here_waits_and_does_not_block_the_line(stage: Stage) -> None:
    app, other = stage.app(), stage.app()

    @other.task(name="later", priority=-10)
    def later() -> None: ...

    @app.task(name="now")
    def now() -> None: ...

    odd = [later.enqueue() for _ in range(10)]
    with Working(app, threads=1):
        assert now.enqueue().join(PATIENCE) == "succeeded"
        app.journal.wait_for(JobPutBack, 10)
    for job in odd:
        row: Any = stage.row(app, job)
        assert (row["state"], row["attempt"], row["claim"]) == ("scheduled", 0, 1)


def test_a_put_back_uses_no_attempt(stage: Stage) -> None:
    checks.check_a_put_back_uses_no_attempt(stage)


# ── the clock ─────────────────────────────────────────────────────────────────────────────────


def test_scheduled_jobs_are_promoted_when_due(stage: Stage) -> None:
    app = stage.app()

    @app.task
    def note() -> None: ...

    soon, late = note.using(run_in=0.05).enqueue(), note.using(run_in=3600).enqueue()
    assert soon.state == "scheduled"
    with Working(app):
        assert soon.join(PATIENCE) == "succeeded"
    assert late.refresh().state == "scheduled"


def test_expired_jobs_are_ended_and_never_run(stage: Stage) -> None:
    app = stage.app()

    @app.task
    def note() -> None:
        raise AssertionError("it ran")

    waiting, scheduled = note.enqueue(), note.using(run_in=50, expires_in=60).enqueue()
    for job in (waiting, scheduled):
        enqueued = stage.row(app, job)["enqueued_at"]  # type: ignore[index]
        stage.alter(app, job, expires_at=enqueued - timedelta(seconds=1))
    with Working(app):
        assert waiting.join(PATIENCE) == scheduled.join(PATIENCE) == "expired"
    assert sorted(e.id for e in app.journal.of(JobEnded)) == sorted([waiting.id, scheduled.id])


def test_a_retry_that_could_only_come_too_late_ends_expired(stage: Stage) -> None:
    app = stage.app()

    @app.task(retry=Backoff.fixed(7200), expires_in=timedelta(hours=1))
    def shaky() -> None:
        raise ValueError

    with Working(app):
        job = shaky.enqueue()
        assert job.join(PATIENCE) == "expired"
    assert job.attempts == 1
    assert len(app.manage.attempts(job.id)) == 1


# ── giving back ───────────────────────────────────────────────────────────────────────────────


def test_what_waited_too_long_goes_back(stage: Stage) -> None:
    checks.check_what_waited_too_long_goes_back_as_if_nothing_had_happened(stage)


def test_an_async_job_that_waited_too_long_for_a_slot_goes_back(stage: Stage) -> None:
    app, began = stage.app(), threading.Semaphore(0)
    leave = threading.Event()

    @app.task
    async def wait() -> None:
        began.release()
        while not leave.is_set():
            await asyncio.sleep(0)

    first, second = wait.enqueue(), wait.enqueue()
    turned = stage.turned(app, coroutines=1)
    turned.pump._pace.room = lambda *_: 2  # type: ignore[method-assign]
    turned.pump._pace.fit = lambda tasks, _: len(tasks)  # type: ignore[method-assign]
    try:
        turned.turn()
        assert began.acquire(timeout=PATIENCE)
        turned.pump._pace.room = lambda *_: 0  # type: ignore[method-assign]
        turned.turn(1.1)
        assert turned.held == {first.id}
        assert second.refresh().state == "available"
    finally:
        leave.set()
    turned.until_ended(first)
    turned.leave()
    assert second.refresh().state == "available"
    assert stage.row(app, second)["attempt"] == 0  # type: ignore[index]


def test_drain_gives_back_what_was_not_started_and_waits_for_what_runs(stage: Stage, gate: Gate) -> None:
    app = stage.app()

    @app.task
    def wait() -> None:
        gate.pass_through()

    jobs = [wait.enqueue() for _ in range(4)]
    with Working(app, threads=1) as worker:
        worker.pump._pace.room = lambda sync, _: 3 - sync  # type: ignore[method-assign]
        worker.pump._pace.fit = lambda tasks, _: len(tasks)  # type: ignore[method-assign]
        gate.wait_running()
        worker.pump.drain(PATIENCE)
        assert worker.clean is None
        later = wait.enqueue()
        gate.open()
        worker.join()
    assert worker.clean
    assert gate.runs == 1
    assert [job.refresh().outcome for job in jobs] == ["succeeded", None, None, None]
    for job in (*jobs[1:], later):
        row: Any = stage.row(app, job)
        assert (row["state"], row["worker"], row["attempt"]) == ("available", None, 0)
    (stopped,) = app.journal.of(Stopped)
    assert stopped.released == sum(stage.row(app, job)["claim"] for job in jobs[1:])  # type: ignore[index]


def test_what_runs_beyond_the_grace_is_left_and_its_late_outcome_is_not_taken(
    stage: Stage, gate: Gate
) -> None:
    app = stage.app()

    @app.task
    def wait() -> None:
        gate.pass_through()

    job = wait.enqueue()
    with Working(app, threads=1) as worker:
        gate.wait_running()
        worker.stop(grace=0.0)
    assert worker.clean is False
    gate.open()
    assert job.refresh().state == "running"  # until a rescue: its worker's row is gone
    assert stage.workers(app) == set()
    turned = stage.turned(app)
    with app.store.writing() as connection:
        turned.pump._duties._rescue.look(connection, turned.id)
    turned.until_ended(job)
    assert stage.ended(app, job)["rescues"] == 1  # type: ignore[index]


def test_an_async_job_beyond_the_grace_is_cancelled_and_given_back(stage: Stage) -> None:
    app, began = stage.app(), threading.Event()

    @app.task
    async def endless() -> None:
        began.set()
        await asyncio.Event().wait()

    job = endless.enqueue()
    with Working(app) as worker:
        assert began.wait(PATIENCE)
        worker.stop(grace=0.0)
    assert worker.clean
    row: Any = stage.row(app, job)
    assert (row["state"], row["attempt"], row["worker"]) == ("available", 0, None)


def test_all_that_has_ended_is_recorded_before_a_worker_leaves(
    stage: Stage, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much it is: one exchange takes a bounded number of outcomes."""
    monkeypatch.setattr(pump_module, "BATCH", 1)
    app = stage.app()

    @app.task
    def wait() -> None:
        gate.pass_through()

    jobs = [wait.enqueue() for _ in range(5)]
    turned = stage.turned(app, threads=5)
    turned.turn()
    gate.wait_running(5)
    stop = turned.pump._lanes._threads.stop

    def stop_when_let_go(_: float) -> bool:
        gate.open()
        return stop(PATIENCE)

    turned.pump._lanes._threads.stop = stop_when_let_go  # type: ignore[method-assign]
    assert turned.leave()
    assert [job.refresh().outcome for job in jobs] == ["succeeded"] * 5


def test_a_worker_that_cannot_join_leaves_no_thread(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    app = stage.app()

    def broken(*_: Any, **__: Any) -> None:
        raise DatabaseUnavailable("no")

    monkeypatch.setattr(app.store.workers, "register", broken)
    before = threading.active_count()
    with pytest.raises(DatabaseUnavailable):
        app.drain()
    assert threading.active_count() == before


def test_a_late_outcome_does_not_take_the_place_of_the_new_attempts(stage: Stage, gate: Gate) -> None:
    """A worker lost a job while it ran, claimed it again under its new id, and both attempts end at once."""
    app, ran = stage.app(), []

    @app.task
    def wait() -> None:
        ran.append(1)
        if len(ran) == 1:
            gate.pass_through()

    job = wait.enqueue()
    turned = stage.turned(app, threads=2)
    turned.turn()
    gate.wait_running()
    old = turned.pump._hand.tickets[0]
    stage.remove_worker(app, turned.id)
    turned.beat()
    with app.store.writing() as connection:
        app.store.rescue.offer_again(connection, [old.worker])
    turned.until(lambda: turned.pump._hand.of(job.id) not in (None, old), "the second claim")
    done = turned.pump._done.get(timeout=PATIENCE)  # of the second attempt
    gate.open()
    late = turned.pump._done.get(timeout=PATIENCE)
    assert done is not None
    assert late is not None
    assert late.ticket is old
    turned.pump._done.put(done)
    turned.pump._done.put(late)
    turned.until_ended(job)
    assert stage.ended(app, job)["worker"] == turned.id  # type: ignore[index]
    assert turned.held == set()
    assert len(app.journal.of(LeaseWasLost)) == 1
