"""How much is claimed ahead: by time, task by task."""

from __future__ import annotations

import pytest

from duly.worker.pace import AHEAD, BATCH, Pace


@pytest.fixture
def pace() -> Pace:
    return Pace(2, 10, async_share=0.0)


def test_what_is_not_measured_is_taken_for_slow(pace: Pace) -> None:
    assert pace.room(0, 0) == 2
    assert pace.fit(["new"] * 5, 0) == 2


def test_quick_tasks_are_claimed_ahead_for_a_moment_of_all_threads(pace: Pace) -> None:
    pace.learn("quick", 0.01)
    pace.saw([("quick", False)])
    assert pace.room(0, 0) == int(2 * AHEAD / 0.01)
    pace.learn("tiny", 1e-6)
    pace.saw([("tiny", False)])
    assert pace.room(0, 0) == BATCH


def test_slow_jobs_behind_a_burst_of_quick_ones_are_not_kept(pace: Pace) -> None:
    pace.learn("quick", 1e-5)
    pace.learn("slow", 1.0)
    pace.saw([("quick", False)])
    line = ["quick"] * 3 + ["slow"] * 50
    assert pace.fit(line, 0) == 3
    pace.saw([(name, False) for name in line])
    assert pace.room(2, 0) == 0


def test_a_slow_one_is_kept_where_a_thread_is_free_for_it(pace: Pace) -> None:
    pace.learn("slow", 1.0)
    assert pace.fit(["slow"] * 3, 0) == 2
    assert pace.fit(["slow"] * 3, 1) == 1
    assert pace.fit(["slow"] * 3, 2) == 0


def test_what_waits_already_uses_up_the_time(pace: Pace) -> None:
    pace.learn("quick", 2**-7)
    pace.saw([("quick", False)])
    assert pace.fit(["quick"] * 100, 0) == 2 + 6
    assert pace.fit(["quick"] * 100, 2 + 3) == 3


def test_what_is_always_slow_is_kept_only_where_it_can_start_at_once(pace: Pace) -> None:
    pace.learn("launch", 1e-6)
    pace.keep_slow("launch")
    pace.learn("launch", 1e-6)
    pace.saw([("launch", False)])
    assert pace.room(0, 0) == 2
    assert pace.fit(["launch"] * 5, 0) == 2
    assert pace.fit(["launch"] * 5, 1) == 1


def test_on_the_loop_too(pace: Pace) -> None:
    pace.keep_slow("launch")
    assert pace.over(["launch"] * 12, 0) == {10, 11}
    assert pace.over(["launch", "quick", "launch"], 9) == {2}
    assert pace.over(["launch", "quick"], 50) == {0}
    assert pace.over(["quick"] * 50, 50) == set()
