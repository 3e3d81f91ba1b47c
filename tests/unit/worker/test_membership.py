"""Who may judge: only a worker whose own beats have landed on time for a whole lease."""

from __future__ import annotations

from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from duly.clock import DatabaseClock
from duly.settings import Settings
from duly.store.dialect.base import Due
from duly.store.workers import Pulse
from duly.worker.services import membership as module
from duly.worker.services.membership import Membership
from tests.worker.turned import TurnedClock

LEASE, BEAT = 15.0, 5.0
CONNECTION: Any = None


def pulse_at(now: datetime) -> Pulse:
    return Pulse(
        now, {}, Due(promote=False, expire=False, next_due=None), free=False, dead=False, suspects=False
    )


class Workers:
    """The table, with a clock of its own that may jump."""

    def __init__(self, clock: TurnedClock) -> None:
        self.clock = clock
        self.ahead = timedelta(0)
        self.rows: set[str] = set()
        self.entered: list[str] = []
        self.broken = False

    def now(self) -> Any:
        return self.clock.wall() + self.ahead

    def register(self, _: Any, worker: str, **__: Any) -> Any:
        if self.broken:
            raise RuntimeError("no")
        self.rows.add(worker)
        self.entered.append(worker)
        return self.now()

    def pulse(self, _: Any, worker: str, __: Any) -> Any:
        return pulse_at(self.now()) if worker in self.rows else None

    def remove(self, _: Any, workers: list[str]) -> None:
        self.rows -= set(workers)


class Scene:
    def __init__(self, *, beats: bool = True) -> None:
        self.clock = TurnedClock()
        self.workers = Workers(self.clock)
        self.held: set[str] = set()
        store: Any = SimpleNamespace(
            workers=self.workers,
            clock=DatabaseClock(self.clock),
            dialect=SimpleNamespace(
                beats=beats, hold_liveness=self.held.add, drop_liveness=self.held.discard
            ),
        )
        self.membership = Membership(store, Settings(lease=LEASE, beat=BEAT), self.clock, "*")
        self.membership.join(CONNECTION)

    def beat(self, after: float = BEAT) -> bool:
        self.clock.turn(after)
        return self.membership.beat(CONNECTION) is not None

    def beat_for_a_lease(self) -> None:
        for _ in range(3):
            assert self.beat()


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_fresh_worker_may_not_judge(scene: Scene) -> None:
    assert not scene.membership.may_judge()
    scene.beat()
    scene.beat()
    assert not scene.membership.may_judge()


def test_after_an_unbroken_lease_it_may(scene: Scene) -> None:
    scene.beat_for_a_lease()
    assert scene.membership.may_judge()


def test_a_gap_begins_the_lease_anew(scene: Scene) -> None:
    scene.beat_for_a_lease()
    scene.beat(4 * LEASE)
    assert not scene.membership.may_judge()
    scene.beat()
    scene.beat()
    assert not scene.membership.may_judge()
    scene.beat()
    assert scene.membership.may_judge()


def test_who_has_not_beaten_on_time_may_not_judge_even_before_the_next_beat(scene: Scene) -> None:
    scene.beat_for_a_lease()
    scene.clock.turn(2 * BEAT + 0.001)
    assert not scene.membership.may_judge()


def test_a_beat_that_failed_once_and_came_in_time_breaks_nothing(scene: Scene) -> None:
    scene.beat_for_a_lease()
    scene.membership.missed()
    assert scene.membership.due == scene.clock.monotonic() + 1.0
    assert scene.beat(2 * BEAT - 1)
    assert scene.membership.may_judge()


@pytest.mark.parametrize(
    "jump", [timedelta(seconds=60), timedelta(seconds=-60), timedelta(seconds=BEAT + 0.1)]
)
def test_a_jump_of_the_databases_clock_begins_the_lease_anew(scene: Scene, jump: timedelta) -> None:
    scene.beat_for_a_lease()
    scene.workers.ahead += jump
    scene.beat()
    assert not scene.membership.may_judge()
    scene.beat_for_a_lease()
    assert scene.membership.may_judge()


def test_a_jump_of_the_machines_wall_clock_is_nothing(scene: Scene) -> None:
    scene.beat_for_a_lease()
    here = scene.clock.day
    scene.clock.day += timedelta(days=1)
    scene.workers.ahead = here - scene.clock.day
    scene.beat()
    assert scene.membership.may_judge()


def test_the_next_beat_is_due_a_beat_after_the_last(scene: Scene) -> None:
    scene.beat(1.0)
    assert scene.membership.due == scene.clock.monotonic() + BEAT


def test_where_liveness_is_a_lock_no_lease_has_to_pass() -> None:
    assert Scene(beats=False).membership.may_judge()


def test_a_row_that_is_gone_is_told_and_the_id_never_entered_again(scene: Scene) -> None:
    old = scene.membership.id
    scene.workers.rows.clear()
    assert not scene.beat()
    scene.membership.forget()
    assert not scene.membership.joined
    scene.membership.join(CONNECTION)
    assert scene.membership.id != old
    assert scene.workers.entered == [old, scene.membership.id]
    assert scene.held == {scene.membership.id}


def test_a_new_membership_begins_its_lease_anew(scene: Scene) -> None:
    scene.beat_for_a_lease()
    scene.workers.rows.clear()
    scene.beat()
    scene.membership.forget()
    scene.membership.join(CONNECTION)
    assert not scene.membership.may_judge()
    scene.beat_for_a_lease()
    assert scene.membership.may_judge()


def test_who_leaves_takes_the_row_out(scene: Scene) -> None:
    scene.membership.leave(CONNECTION)
    assert scene.workers.rows == set()
    scene.membership.forget()
    scene.membership.leave(CONNECTION)
    assert scene.held == set()


def test_an_entry_that_failed_leaves_no_lock() -> None:
    scene = Scene()
    scene.membership.forget()
    scene.workers.broken = True
    with pytest.raises(RuntimeError):
        scene.membership.join(CONNECTION)
    assert scene.held == set()
    assert not scene.membership.joined


def test_ids_say_where_and_are_never_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.socket, "gethostname", lambda: "böse host/.." + "x" * 300)
    names = {module.new_worker_id() for _ in range(100)}
    assert len(names) == 100
    for name in names:
        assert len(name) <= 100
        assert not set(name) & set("/ \n")
