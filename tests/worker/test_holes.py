"""Holes that were once found in the worker: what held it up, made it spin, or ended a lane."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from duly import Backoff, Cancel, Retry, given
from duly.clock import Clock
from duly.errors import DatabaseError
from duly.model.events import DatabaseLost, JobEnded, LeaseWasLost, Rescued
from duly.worker import pump as pump_module
from tests.worker.stage import PATIENCE, Gate, Stage, TurnedWorker

# ── a frozen worker's own transactions ────────────────────────────────────────────────────────

IDLE = text("SELECT setting::int FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'")


def test_transactions_of_a_worker_may_not_be_idle_for_longer_than_a_lease(postgresql: Stage) -> None:
    app = postgresql.app(settings={"lease": 6.0, "beat": 2.0})
    turned = postgresql.turned(app)
    with app.store.reading() as connection:
        usual = connection.execute(IDLE).scalar_one()
    for _ in range(2):
        with turned.pump._line.transaction() as connection:
            assert connection.execute(IDLE).scalar_one() == 6000
    with app.store.reading() as connection:
        assert connection.execute(IDLE).scalar_one() == usual, "nothing is left behind on a connection"
    driver = turned.pump._line._connection
    assert driver is not None
    with driver.begin():
        assert driver.execute(IDLE).scalar_one() == usual


def test_a_beat_that_is_frozen_in_its_transaction_is_ended_and_the_jobs_are_rescued(
    postgresql: Stage,
) -> None:
    """Its locked row could else not be declared dead."""
    app, ran = postgresql.app(settings={"lease": 0.9, "beat": 0.2}), []

    @app.task
    def note() -> None:
        ran.append(1)

    job = note.enqueue()
    frozen = postgresql.turned(app, queues=("none",))
    postgresql.alter(app, job, state="running", worker=frozen.id, claim=1)
    transaction = frozen.pump._line.transaction()
    connection = transaction.__enter__()
    try:
        assert frozen.pump.membership.beat(connection)
        judge = postgresql.turned(app, clock=Clock())
        judge.until(lambda: app.journal.of(Rescued), "the rescue")
        judge.until_ended(job)
    finally:
        with suppress(DatabaseError):
            transaction.__exit__(None, None, None)
        frozen.die()
    assert ran == [1]
    assert postgresql.ended(app, job)["rescues"] == 1  # type: ignore[index]


# ── a row that somebody has locked ────────────────────────────────────────────────────────────

FINE, ENDED, RETRIED = "fine", "ended", "retried"


class Locked:
    """Of two jobs of one worker the first one's row is locked from outside when its outcome is handed in."""

    def __init__(self, stage: Stage, gate: Gate, way: str) -> None:
        self.stage, self.app, self.way = stage, stage.app(), way
        self.ran: list[int] = []

        @self.app.task(name="held", max_attempts=2)
        def held() -> None:
            gate.pass_through()
            if way != FINE:
                raise Cancel if way == ENDED else Retry(after=3600)

        @self.app.task(name="free")
        def free(n: int) -> None:
            self.ran.append(n)

        self.free = free
        self.job = held.enqueue()
        self.turned = stage.turned(self.app, threads=4)
        self.turned.turn()
        gate.wait_running()
        self.lock = self.app.store.engine.connect()
        jobs = self.app.store.tables.jobs.c
        self.lock.execute(select(jobs.id).where(jobs.id == self.job.id).with_for_update())
        gate.open()
        self.turned.pump._finish(self.turned.pump._done.get(timeout=PATIENCE))  # type: ignore[arg-type]

    def others_pass(self) -> None:
        others = self.app.enqueue_many([self.free.call(n) for n in range(5)])
        self.turned.until_ended(*others)
        assert sorted(self.ran) == list(range(5))
        assert [self.stage.ended(self.app, job)["attempts"] for job in others] == [1] * 5  # type: ignore[index]
        row: Any = self.stage.row(self.app, self.job)
        assert (row["state"], row["worker"], row["attempt"]) == ("running", self.turned.id, 0)

    def unlock(self) -> None:
        self.lock.commit()
        self.lock.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks are not waited for for long."""
    monkeypatch.setattr(pump_module, "LOCK_WAIT", 0.05)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("way", [FINE, ENDED, RETRIED])
def test_a_locked_row_holds_up_no_other_outcome_and_its_own_comes_later(
    postgresql: Stage, gate: Gate, way: str
) -> None:
    scene = Locked(postgresql, gate, way)
    try:
        scene.others_pass()
        assert scene.turned.held == {scene.job.id}
    finally:
        scene.unlock()
    scene.turned.until(lambda: not scene.turned.held, "the outcome handed in again")
    scene.turned.turn()
    word = {FINE: "succeeded", ENDED: "cancelled", RETRIED: "retried"}[way]
    assert scene.turned.pump.tally == Counter(["succeeded"] * 5 + [word])
    if way != RETRIED:
        ended: Any = postgresql.ended(scene.app, scene.job)
        assert (ended["outcome"], ended["attempts"]) == (word, 1)
    else:
        row: Any = postgresql.row(scene.app, scene.job)
        assert (row["state"], row["attempt"], row["worker"]) == ("scheduled", 1, None)
        assert len(scene.app.manage.attempts(scene.job.id)) == 1
    assert [scene.app.journal.of(kind) for kind in (LeaseWasLost, DatabaseLost)] == [[], []]
    assert gate.runs == 1


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("way", [FINE, RETRIED])
def test_a_locked_row_that_is_then_taken_away_loses_its_outcome_once(
    postgresql: Stage, gate: Gate, way: str
) -> None:
    scene = Locked(postgresql, gate, way)
    try:
        scene.others_pass()
        scene.lock.execute(
            text("UPDATE duly_jobs SET claim = claim + 1, worker = 'else' WHERE state = 'running'")
        )
    finally:
        scene.unlock()
    scene.turned.until(lambda: not scene.turned.held, "the loss")
    scene.turned.turn()
    assert [event.id for event in scene.app.journal.of(LeaseWasLost)] == [scene.job.id]
    assert scene.turned.pump.tally == {"succeeded": 5}
    row: Any = postgresql.row(scene.app, scene.job)
    assert (row["claim"], row["worker"], row["attempt"]) == (2, "else", 0)
    assert postgresql.outcome(scene.app, scene.job) is None


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("way", [FINE, RETRIED])
def test_a_worker_does_not_wait_for_ever_for_a_locked_row_when_it_leaves(
    postgresql: Stage, gate: Gate, way: str
) -> None:
    scene, left = Locked(postgresql, gate, way), threading.Event()

    def leave() -> None:
        scene.turned.leave()
        left.set()

    thread = threading.Thread(target=leave)
    try:
        thread.start()
        gone = left.wait(PATIENCE / 2)
    finally:
        scene.unlock()
    thread.join(PATIENCE)
    assert gone
    assert not thread.is_alive()
    assert postgresql.row(scene.app, scene.job) is not None, "others will find it"


def looks(turned: TurnedWorker) -> list[int]:
    """Counts the looks at what is due."""
    upkeep, seen = turned.app.store.upkeep, list[int]()
    look = upkeep.look

    def noted(connection: Any) -> Any:
        seen.append(1)
        return look(connection)

    upkeep.look = noted  # type: ignore[method-assign]
    return seen


@pytest.mark.parametrize("due", ["to run", "to expire"])
def test_a_due_row_that_somebody_has_locked_makes_nobody_spin(postgresql: Stage, due: str) -> None:
    app = postgresql.app()

    @app.task
    def note() -> None: ...

    job = note.using(run_in=3600 if due == "to run" else 0).enqueue()
    if due == "to run":
        postgresql.make_due(app, job)
    else:
        row: Any = postgresql.row(app, job)
        postgresql.alter(app, job, expires_at=row["enqueued_at"])
    turned = postgresql.turned(app)
    turned.pump._duties._upkeep.due = turned.clock.monotonic() + 1.0
    jobs, seen = app.store.tables.jobs.c, looks(turned)
    with app.store.engine.connect() as connection:
        connection.execute(select(jobs.id).where(jobs.id == job.id).with_for_update())
        worked = [turned.turn(0.002) for _ in range(200)]
        worked += [turned.turn(0.8)]
        assert 1 <= len(seen) <= 10, "in a bit more than a second"
        spinning = [one and other for one, other in pairwise(worked)]
        assert not any(spinning), "there was nothing that could be done, even with other queues' names"
        connection.rollback()
    turned.turn(1.0)
    turned.until_ended(job)
    assert job.outcome == ("succeeded" if due == "to run" else "expired")


# ── async tasks that end oddly ────────────────────────────────────────────────────────────────


async def cancelled_future() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def cancelled_child() -> None:
    child = asyncio.ensure_future(asyncio.Event().wait())
    asyncio.get_running_loop().call_soon(child.cancel)
    await child


async def raised() -> None:
    raise asyncio.CancelledError


async def cancelled_self() -> None:
    current = asyncio.current_task()
    assert current is not None
    current.cancel()
    await asyncio.sleep(0)


@pytest.mark.parametrize("way", [cancelled_future, cancelled_child, raised, cancelled_self])
@pytest.mark.parametrize("effects", [None, "transactional"])
def test_an_async_task_that_cancels_itself_has_failed_an_attempt(
    stage: Stage, way: Callable[[], Any], effects: Any
) -> None:
    engine = create_async_engine(stage.database.async_url, poolclass=NullPool)
    app, ran = stage.app(async_engine=engine), []
    options = {} if effects is None else {"effects": effects}
    stage.make_effects()

    @app.task(name="odd", retry=Backoff.fixed(3600), **options)
    async def odd(*, connection: AsyncConnection = given) -> None:
        ran.append(1)
        await connection.execute(text("INSERT INTO effects VALUES ('no')"))
        await way()

    @app.task(name="fine")
    async def fine() -> None: ...

    job = odd.enqueue()
    turned = stage.turned(app)
    turned.until(lambda: turned.held, "the claim")
    turned.until(lambda: not turned.held, "the end of the attempt")
    row: Any = stage.row(app, job)
    assert (row["state"], row["attempt"], row["worker"]) == ("scheduled", 1, None)
    assert ran == [1]
    assert [trouble.cause for trouble in app.manage.attempts(job.id)] == ["CancelledError"]
    assert stage.effects() == []
    turned.until_ended(fine.enqueue())


async def exit_in_a_child() -> None:
    async def child() -> None:
        sys.exit(1)

    await asyncio.gather(child())


async def interrupt_in_a_child() -> None:
    async def child() -> None:
        raise KeyboardInterrupt

    await asyncio.gather(child())


async def exit_in_a_callback() -> None:
    asyncio.get_running_loop().call_soon(sys.exit, 1)
    await asyncio.sleep(0)
    raise ValueError


async def exit_unattended() -> None:
    async def child() -> None:
        sys.exit(1)

    left = asyncio.ensure_future(child())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert left.done()
    raise ValueError


@pytest.mark.parametrize("way", [exit_in_a_child, interrupt_in_a_child, exit_in_a_callback, exit_unattended])
def test_an_exit_in_what_an_async_task_starts_ends_no_lane(stage: Stage, way: Callable[[], Any]) -> None:
    app = stage.app()

    @app.task(name="exits", max_attempts=1)
    async def exits() -> None:
        await way()

    @app.task(name="fine")
    async def fine() -> None: ...

    bad = exits.enqueue()
    turned = stage.turned(app)
    turned.until_ended(bad)
    later = [fine.enqueue() for _ in range(3)]
    turned.until_ended(*later)
    assert (bad.outcome, bad.attempts) == ("failed", 1)
    assert [job.outcome for job in later] == ["succeeded"] * 3
    assert sum(event.id == bad.id for event in app.journal.of(JobEnded)) == 1


def test_an_exit_in_a_child_costs_the_other_jobs_of_the_loop_nothing(stage: Stage, gate: Gate) -> None:
    app = stage.app()

    @app.task(name="exits", max_attempts=1)
    async def exits() -> None:
        await exit_in_a_child()

    @app.task(name="slow", max_attempts=1)
    async def slow() -> None:
        await asyncio.to_thread(gate.pass_through)

    beside = slow.enqueue()
    turned = stage.turned(app)
    turned.turn()
    gate.wait_running()
    turned.until_ended(exits.enqueue())
    gate.open()
    turned.until_ended(beside)
    assert beside.outcome == "succeeded"
