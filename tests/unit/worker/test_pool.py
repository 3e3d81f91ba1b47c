"""The lanes: own threads for sync tasks, one loop for async ones."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import pytest

from duly.model.ids import new_id
from duly.model.report import PutBack, Released, Succeeded
from duly.worker.attempt import Attempt
from duly.worker.blackbox import BlackBox
from duly.worker.pool import Loop, Threads
from duly.worker.ticket import Done, Ticket
from tests.unit.worker.bench import Bench

PATIENCE = 10


class Lanes:
    def __init__(self) -> None:
        self.bench = Bench()
        self.done: SimpleQueue[Done | None] = SimpleQueue()
        self.made: list[Any] = []

    def threads(self, count: int = 1) -> Threads:
        lane = Threads(self.bench.executor, self.done, count, BlackBox(count))
        lane.start()
        self.made.append(lane)
        return lane

    def loop(self, count: int = 10) -> Loop:
        lane = Loop(self.bench.executor, self.done, count, BlackBox(count), 0)
        self.made.append(lane)
        return lane

    def ticket(self, function: Callable[..., Any]) -> Ticket:
        task: Any = self.bench.app.task(name=f"t{new_id()}")(function)
        return Ticket(self.bench.job(task.call()), "w1", 0.0, asynchronous=task.signature.is_async)

    def next(self) -> Done:
        done = self.done.get(timeout=PATIENCE)
        assert done is not None
        return done


def nothing() -> None: ...


async def _nothing() -> None: ...


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    lanes = Lanes()
    yield lanes
    for lane in lanes.made:
        if isinstance(lane, Threads) or (lane._thread is not None and lane._thread.is_alive()):
            lane.stop(PATIENCE)


def test_threads_run_what_they_are_handed_and_report(lanes: Lanes) -> None:
    ran = []

    def note() -> None:
        ran.append(threading.current_thread().name)

    tickets = [lanes.ticket(note) for _ in range(5)]
    lanes.threads(2).hand_over(tickets)
    reports = [lanes.next() for _ in tickets]
    assert {done.ticket for done in reports} == set(tickets)
    assert all(isinstance(done.report, Succeeded) for done in reports)
    assert set(ran) <= {"duly-run-1", "duly-run-2"}


def test_a_thread_passes_over_what_was_taken_back(lanes: Lanes) -> None:
    back, sound = lanes.ticket(nothing), lanes.ticket(nothing)
    assert back.take()
    lanes.threads().hand_over([back, sound])
    assert lanes.next().ticket is sound
    assert lanes.made[0].stop(PATIENCE)
    assert lanes.done.empty()


def test_what_breaks_around_an_attempt_costs_no_thread(lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    real = lanes.bench.executor.run

    def broken(job: Any, *rest: Any) -> Any:
        monkeypatch.setattr(lanes.bench.executor, "run", real)
        raise RuntimeError("ours")

    monkeypatch.setattr(lanes.bench.executor, "run", broken)
    lanes.threads(1).hand_over([lanes.ticket(nothing), lanes.ticket(nothing)])
    assert isinstance(lanes.next().report, PutBack)
    assert isinstance(lanes.next().report, Succeeded)


def test_a_thread_that_hangs_is_told(lanes: Lanes) -> None:
    gate = threading.Event()

    def wait() -> None:
        gate.wait()

    lane = lanes.threads(1)
    lane.hand_over([lanes.ticket(wait)])
    assert not lane.stop(0.0)
    gate.set()
    assert lane.stop(PATIENCE)


def test_the_loop_starts_with_the_first_job(lanes: Lanes) -> None:
    lane = lanes.loop()
    assert lane._thread is None
    lane.hand_over([lanes.ticket(_nothing)])
    assert isinstance(lanes.next().report, Succeeded)
    assert lane.stop(PATIENCE)


def test_no_more_coroutines_run_than_there_are_slots(lanes: Lanes) -> None:
    running, most = 0, 0

    async def job() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(3):
            await asyncio.sleep(0)
        running -= 1

    lanes.loop(2).hand_over([lanes.ticket(job) for _ in range(6)])
    for _ in range(6):
        assert isinstance(lanes.next().report, Succeeded)
    assert most == 2


def test_a_cancelled_coroutine_is_given_back(lanes: Lanes) -> None:
    began = threading.Event()

    async def endless() -> None:
        began.set()
        await asyncio.Event().wait()

    lane, ticket = lanes.loop(), lanes.ticket(endless)
    lane.hand_over([ticket])
    assert began.wait(PATIENCE)
    lane.cancel([ticket])
    assert lanes.next().report == Released(ticket.job.id, ticket.job.claim)
    assert lane.stop(PATIENCE)


def test_one_that_waits_for_a_slot_is_passed_over_when_taken_back(lanes: Lanes) -> None:
    began, gate = threading.Event(), threading.Event()

    async def first() -> None:
        began.set()
        await asyncio.to_thread(gate.wait)

    lane, running, waiting = lanes.loop(1), lanes.ticket(first), lanes.ticket(_nothing)
    lane.hand_over([running, waiting])
    assert began.wait(PATIENCE)
    assert waiting.take()
    gate.set()
    assert lanes.next().ticket is running
    assert lane.stop(PATIENCE)
    assert lanes.done.empty()


def test_one_cancelled_before_its_first_step_is_forgotten(lanes: Lanes) -> None:
    """asyncio throws the cancellation into a coroutine that never began: none of its code runs."""
    lane, ticket = lanes.loop(), lanes.ticket(_nothing)
    lane.hand_over([lanes.ticket(_nothing)])
    lanes.next()
    assert ticket.take()  # as the pump does before it cancels

    def both() -> None:
        lane._begin([ticket])
        lane._cancel([ticket])

    assert lane._loop is not None
    lane._loop.call_soon_threadsafe(both)
    assert lane.stop(PATIENCE)
    assert lane._running == {}


def test_a_coroutine_that_swallows_its_cancellation_is_told(lanes: Lanes) -> None:
    began, gate = threading.Event(), threading.Event()

    async def stubborn() -> None:
        began.set()
        while not gate.is_set():
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                continue

    lane = lanes.loop()
    lane.hand_over([lanes.ticket(stubborn)])
    assert began.wait(PATIENCE)
    assert not lane.stop(0.0)
    gate.set()
    lanes.next()


def test_what_breaks_around_a_coroutine_puts_its_job_back(
    lanes: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Attempt:
        raise RuntimeError("ours")

    monkeypatch.setattr(lanes.bench.executor, "prepare", broken)
    lanes.loop().hand_over([lanes.ticket(_nothing)])
    assert isinstance(lanes.next().report, PutBack)
