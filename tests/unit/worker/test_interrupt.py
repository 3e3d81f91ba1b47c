"""A region: what is raised from outside is raised in the task's own code, at most once, or not at all."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest

from duly.errors import AttemptStopped, TimeLimit
from duly.worker import interrupt
from duly.worker.interrupt import Region

PATIENCE = 20
HOUR = 3600.0


def region() -> Region:
    return Region(HOUR, threading.get_ident())


def spin(until: threading.Event) -> None:
    """Python code, in which an exception from outside is raised at once."""
    deadline = time.monotonic() + PATIENCE
    while not until.is_set():
        assert time.monotonic() < deadline


class Runner:
    """A thread that runs one function in a region."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.began = threading.Event()
        self.outcome: Any = None
        self.after = 0
        self._function = function
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(PATIENCE)

    def _run(self) -> None:
        self.region = region()
        self._ready.set()

        def task() -> Any:
            self.began.set()
            return self._function()

        try:
            self.outcome = self.region.run(task, (), {})
        except BaseException as error:
            self.outcome = error
        for _ in range(1000):
            self.after += 1

    def end(self) -> Any:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        assert self.after == 1000, "what came after the region was hit"
        return self.outcome


def test_a_function_that_spins_is_interrupted() -> None:
    runner = Runner(lambda: spin(threading.Event()))
    assert runner.began.wait(PATIENCE)
    assert runner.region.interrupt(TimeLimit)
    assert type(runner.end()) is TimeLimit


def test_except_exception_does_not_hold_it_up() -> None:
    def stubborn() -> None:
        while True:
            try:
                spin(threading.Event())
            except Exception:
                continue

    runner = Runner(stubborn)
    assert runner.began.wait(PATIENCE)
    assert runner.region.interrupt(AttemptStopped)
    assert type(runner.end()) is AttemptStopped


def test_one_region_is_interrupted_once() -> None:
    release, caught = threading.Event(), []

    def tidies_up() -> str:
        try:
            spin(threading.Event())
        except TimeLimit as error:
            caught.append(error)
            spin(release)
        return "tidied up"

    runner = Runner(tidies_up)
    assert runner.began.wait(PATIENCE)
    assert runner.region.interruptible
    assert runner.region.interrupt(TimeLimit)
    while not caught:
        time.sleep(0)
    assert not runner.region.interruptible
    assert not runner.region.interrupt(TimeLimit)
    release.set()
    assert runner.end() == "tidied up"
    assert len(caught) == 1


def test_what_has_not_begun_or_is_over_is_not_interrupted() -> None:
    one = region()
    assert not one.interrupt(TimeLimit)
    assert one.run(lambda: 3, (), {}) == 3
    assert not one.open
    assert not one.interrupt(TimeLimit)


def test_a_region_on_a_loop_is_not_interrupted() -> None:
    one = Region(HOUR)
    one.open = True
    assert not one.on_thread
    assert not one.interrupt(TimeLimit)


def test_an_exception_of_the_tasks_own_is_raised_as_it_is() -> None:
    mine = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as raised:
        region().run(lambda: (_ for _ in ()).throw(mine), (), {})
    assert raised.value is mine


def test_one_left_at_the_very_end_is_taken_back() -> None:
    """The task blocks outside the interpreter, and returns with the exception still to come."""
    gate, took = threading.Lock(), threading.Event()
    gate.acquire()

    def blocks() -> str:
        took.set()
        gate.acquire()
        return "over"

    runner = Runner(blocks)
    assert took.wait(PATIENCE)
    assert runner.region.interrupt(TimeLimit)
    gate.release()
    assert runner.end() == "over" or type(runner.outcome) is TimeLimit


# ── at every moment ───────────────────────────────────────────────────────────────────────────


def interrupted_at(step: int, leave: Callable[[Region], object]) -> tuple[bool, Any]:
    """A tiny task, told to stop after so many bytecodes from the opening of its region on; and what it came to."""
    one, left = region(), step
    told = False

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal left, told
        if frame.f_code.co_filename not in {interrupt.__file__, __file__} or told:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and one.open:
            if left == 0:
                told = True
                leave(one)
            left -= 1
        return trace

    def task(number: int) -> str:
        return "done" if number else ""

    sys.settrace(trace)
    try:
        came_to: Any = one.run(task, (1,), {})
    except TimeLimit as error:
        came_to = error
    finally:
        sys.settrace(None)
    for _ in range(100):
        assert not one.interrupt(TimeLimit)
    assert not one.open
    return told, "left, yet done" if one._left and came_to == "done" else came_to


def from_another_thread(one: Region) -> None:
    other = threading.Thread(target=one.interrupt, args=(TimeLimit,))
    other.start()
    other.join()


@pytest.mark.parametrize(
    "leave", [lambda one: one.interrupt(TimeLimit), from_another_thread], ids=["here", "another thread"]
)
def test_after_whichever_bytecode_it_comes_it_stays_inside(leave: Callable[[Region], object]) -> None:
    """From the opening of the region to its closing, and beyond it."""
    steps, seen = 0, Counter[str]()
    told = True
    while told:
        told, came_to = interrupted_at(steps, leave)
        seen[came_to if isinstance(came_to, str) else "interrupted"] += 1
        assert isinstance(came_to, str) or type(came_to) is TimeLimit
        steps += 1
    assert steps > 20
    assert seen["done"] > 2, "none came when the region was closed"
    assert seen["left, yet done"] > 2, "none came when the task was over, and the region not yet closed"
    assert seen["interrupted"] > 2, "none came while the task ran"


def test_the_end_waits_for_one_that_is_about_to_be_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody has decided to interrupt it, and is held up before it does."""
    real, go_on, held_up = interrupt._leave_exception, threading.Event(), threading.Event()

    def slow(thread: int, error: Any) -> int:
        if error is TimeLimit:
            held_up.set()
            assert go_on.wait(PATIENCE)
        return real(thread, error)

    monkeypatch.setattr(interrupt, "_leave_exception", slow)
    monkeypatch.setattr(interrupt.time, "sleep", lambda _: go_on.set())  # it waits: let the other go on
    runner = Runner(lambda: "over" if held_up.wait(PATIENCE) else "late")
    assert runner.began.wait(PATIENCE)
    assert runner.region.interrupt(TimeLimit)
    assert runner.end() == "over"


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads give way to each other after a few bytecodes, not after 5 ms."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Tiny:
    """Tiny tasks on some threads, and one thread that interrupts them whenever it can."""

    def __init__(self, seed: int, rounds: int, threads: int = 2) -> None:
        self.seen, self.harm = Counter[str](), list[BaseException]()
        self._rounds, self._stop = rounds, threading.Event()
        self._current: list[Region | None] = [None] * threads
        self._threads = [
            threading.Thread(target=self._serve, args=(n, Random(seed + n))) for n in range(threads)
        ]
        self._other = threading.Thread(target=self._interrupt, args=(Random(seed),))

    def play(self) -> None:
        for thread in (*self._threads, self._other):
            thread.start()
        for thread in self._threads:
            thread.join(PATIENCE)
        self._stop.set()
        self._other.join(PATIENCE)

    def _serve(self, slot: int, random: Random) -> None:
        try:
            for _ in range(self._rounds):
                one = self._current[slot] = region()
                length = random.randrange(60)
                try:
                    kind = "returned" if one.run(self._task, (length,), {}) == length else "wrong"
                except TimeLimit:
                    kind = "interrupted"
                assert not one.open
                self._task(random.randrange(20))
                self.seen[kind] += 1
        except BaseException as error:
            self.harm.append(error)

    @staticmethod
    def _task(length: int) -> int:
        time.sleep(0)
        count = 0
        for _ in range(length):
            count += 1
        return count

    def _interrupt(self, random: Random) -> None:
        while not self._stop.is_set():
            one = self._current[random.randrange(len(self._current))]
            self._task(random.randrange(40))
            if one is not None and one.interrupt(TimeLimit):
                self.seen["left"] += 1


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("seed", range(3))
def test_however_late_it_comes_nothing_beyond_the_task_is_hit(seed: int) -> None:
    rounds = 2000
    tiny = Tiny(100 * seed, rounds)
    tiny.play()
    assert tiny.harm == []
    assert tiny.seen["returned"] + tiny.seen["interrupted"] == 2 * rounds
    assert tiny.seen["wrong"] == 0
    assert 0 < tiny.seen["interrupted"] <= tiny.seen["left"]
