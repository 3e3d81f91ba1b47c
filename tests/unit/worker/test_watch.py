"""The watch: who is told, when it looks again, who is given up, and who held the interpreter."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from duly.errors import AttemptStopped, TimeLimit
from duly.model.events import Emitter, Event, Notice
from duly.task.context import Cancellation, Stop
from duly.worker.alarm import NEVER, Alarm
from duly.worker.watch import DEAF, HOG, IDLE_TICK, PATIENCE, SHORTEST_TICK, TICK, Watch
from tests.worker.turned import TurnedClock

START = 1000.0


class Ran:
    """A region that notes what is raised in it."""

    def __init__(self, due: float, *, on_thread: bool = True) -> None:
        self.began, self.due, self.told = START, due, None
        self.open, self.on_thread = True, on_thread
        self.raised: list[type[BaseException]] = []

    @property
    def interruptible(self) -> bool:
        return self.on_thread and not self.raised

    def interrupt(self, error: type[BaseException]) -> bool:
        self.raised.append(error)
        return True


class Scene:
    def __init__(self) -> None:
        self.running: list[Any] = []
        self.events: list[Event] = []
        self.given_up = 0
        emitter = Emitter()
        emitter.subscribe(self.events.append)
        self.clock = TurnedClock()
        self.watch = Watch(lambda: self.running, Alarm(), emitter, self._give_up, self.clock)

    def _give_up(self) -> None:
        self.given_up += 1

    def runs(self, region: Any, task: str = "task") -> Any:
        ticket = SimpleNamespace(
            job=SimpleNamespace(id=len(self.running), task=task),
            cancellation=Cancellation(),
            attempt=SimpleNamespace(region=region),
        )
        self.running.append(ticket)
        return ticket

    @property
    def said(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Notice)]


@pytest.fixture
def scene() -> Scene:
    return Scene()


# ── limits ────────────────────────────────────────────────────────────────────────────────────


def test_with_nothing_to_watch_it_sleeps_longest(scene: Scene) -> None:
    assert scene.watch.look(START) == START + IDLE_TICK


def test_it_looks_again_at_the_next_deadline(scene: Scene) -> None:
    scene.runs(Ran(START + 0.3))
    scene.runs(Ran(START + 0.2))
    assert scene.watch.look(START) == START + 0.2


def test_a_far_deadline_does_not_put_off_the_next_look(scene: Scene) -> None:
    scene.runs(Ran(START + 3600))
    assert scene.watch.look(START) == START + TICK


def test_it_never_spins(scene: Scene) -> None:
    scene.runs(Ran(START + SHORTEST_TICK / 10))
    assert scene.watch.look(START) == START + SHORTEST_TICK


def test_a_thread_whose_time_is_up_is_interrupted_at_once(scene: Scene) -> None:
    region = Ran(START + 1)
    ticket = scene.runs(region)
    scene.watch.look(START + 0.99)
    assert (region.raised, ticket.cancellation.reason) == ([], None)
    scene.watch.look(START + 1)
    assert (region.raised, ticket.cancellation.reason) == ([TimeLimit], Stop.TIME)


def test_a_cancelled_thread_may_find_out_first(scene: Scene) -> None:
    region = Ran(START + 3600)
    scene.runs(region).cancellation.set(Stop.CANCELLED)
    assert scene.watch.look(START) == START + TICK
    scene.watch.look(START + PATIENCE - 0.01)
    assert region.raised == []
    scene.watch.look(START + PATIENCE)
    assert region.raised == [AttemptStopped]


def test_a_coroutine_is_left_to_its_own_timer(scene: Scene) -> None:
    region = Ran(START + 1, on_thread=False)
    ticket = scene.runs(region)
    scene.watch.look(START + 1)
    assert (region.raised, ticket.cancellation.reason) == ([], Stop.TIME)


def test_what_has_not_begun_or_is_over_is_left_alone(scene: Scene) -> None:
    over = Ran(START)
    over.open = False
    tickets = [scene.runs(over), scene.runs(None)]
    scene.watch.look(START + 10 * DEAF)
    assert [ticket.cancellation.reason for ticket in tickets] == [None, None]
    assert scene.given_up == 0


# ── the deaf ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("reason", "on_thread", "patience"),
    [(Stop.TIME, True, 0), (Stop.TIME, False, 0), (Stop.CANCELLED, True, PATIENCE), (Stop.LOST, False, 0)],
)
def test_one_that_does_not_stop_is_given_up_once(
    scene: Scene, reason: Stop, on_thread: bool, patience: float
) -> None:
    region = Ran(START + 3600, on_thread=on_thread)
    ticket = scene.runs(region, "stubborn")
    ticket.cancellation.set(reason)
    scene.watch.look(START)
    scene.watch.look(START + patience + DEAF - 0.01)
    assert (scene.given_up, scene.watch.deaf) == (0, [])
    for late in (0.0, 1.0):
        scene.watch.look(START + patience + DEAF + late)
    assert (scene.given_up, scene.watch.deaf) == (1, [ticket])
    (said,) = scene.said
    assert "stubborn" in said


def test_one_that_was_given_up_and_stops_after_all_is_not_deaf(scene: Scene) -> None:
    region = Ran(START + 1)
    scene.runs(region)
    scene.watch.look(START + 1)
    scene.watch.look(START + 1 + DEAF)
    region.open = False
    assert scene.watch.deaf == []


# ── hogs ──────────────────────────────────────────────────────────────────────────────────────


def late(scene: Scene, seconds: float, busy: float | None = None) -> None:
    """A look comes so late; meanwhile the process used so much of a processor."""
    scene.watch.notice_hogs(late=seconds, busy=seconds if busy is None else busy)


def ran_since(scene: Scene, seconds: float, task: str) -> None:
    region = Ran(START + 3600)
    region.began = scene.clock.monotonic() - seconds
    scene.runs(region, task)


def test_a_task_that_ran_all_the_time_is_named(scene: Scene) -> None:
    ran_since(scene, 10, "greedy")
    ran_since(scene, 0.5, "came.later")
    late(scene, 3.24)
    (said,) = scene.said
    assert "task greedy held the interpreter for 3.2 s" in said
    assert "came.later" not in said


def test_of_several_each_may_have_been_it(scene: Scene) -> None:
    ran_since(scene, 10, "one")
    ran_since(scene, 10, "other")
    late(scene, 2)
    assert "one of the tasks one, other held" in scene.said[0]


def test_a_little_late_is_nothing(scene: Scene) -> None:
    ran_since(scene, 10, "fine")
    late(scene, HOG - 0.01)
    assert scene.said == []


def test_a_process_that_was_frozen_or_starved_blames_nobody(scene: Scene) -> None:
    ran_since(scene, 100, "innocent")
    late(scene, 60, busy=0.5)
    assert scene.said == []


def test_it_is_said_once_in_a_while(scene: Scene) -> None:
    ran_since(scene, 10, "greedy")
    late(scene, 2)
    scene.clock.turn(60)
    late(scene, 2)
    assert len(scene.said) == 1
    scene.clock.turn(300)
    late(scene, 2)
    assert len(scene.said) == 2


# ── the alarm ─────────────────────────────────────────────────────────────────────────────────


def test_whoever_comes_while_it_looks_can_ring() -> None:
    alarm = Alarm()
    alarm.awake(START)
    assert alarm.next == START
    alarm.ring()
    alarm.rest(0.0, NEVER)  # returns at once
    assert alarm.next == NEVER


def test_where_nobody_looks_nobody_need_be_rung() -> None:
    alarm = Alarm()
    assert alarm.next < -START
    alarm.awake(START)
    alarm.off()
    assert alarm.next < -START


def test_it_stops_at_once(scene: Scene) -> None:
    before = threading.active_count()
    scene.watch.start()
    assert threading.active_count() == before + 1
    scene.watch.stop()
    assert threading.active_count() == before
