"""TERM, INT, Ctrl-C: drained, given back, cut off; the supervisor alone counts them."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from tests.faults.ground import Ground
from tests.faults.tasks import effect_at_gate, hold, note, terminate_a_process, terminate_a_program
from tests.faults.terminal import until

BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


@BOTH
def test_the_first_drains_and_gives_back_what_was_not_started(ground: Ground, number: signal.Signals) -> None:
    terminal = ground.terminal("--queues", "default", threads=1)
    ground.enqueue(
        *(note.call(n) for n in range(300))
    )  # shows that notes are quick: claimed ahead from now on
    ground.all_done()
    (running,) = ground.enqueue(hold.using(priority=-1).call("gate"))
    waiting = ground.enqueue(*(note.call(n) for n in range(100)))
    ground.started(running)
    before = len(ground.lines("start"))
    terminal.signal(number)
    until(lambda: terminal.said("notice"), "the word that it stops")
    until(
        lambda: ground.database.rows("SELECT 1 FROM duly_jobs WHERE state = 'running'") == [(1,)],
        "the return",
    )
    ground.open("gate")
    assert terminal.ended() == 0
    assert ground.outcome(running) == "succeeded"
    begun = len(ground.lines("start")) - before
    assert ground.database.rows("SELECT count(*) FROM duly_executions") == [(301 + begun,)]
    assert begun == 0, "it claimed or started more while it drained"
    assert ground.database.rows("SELECT DISTINCT state, attempt, rescues FROM duly_jobs") == [
        ("available", 0, 0)
    ]
    assert ground.unfinished() == len(waiting)
    assert ground.database.rows("SELECT count(*) FROM duly_workers") == [(0,)]
    ground.check(calm=True, finished=False)


@BOTH
def test_a_second_stops_at_once_and_offers_the_jobs_again(ground: Ground, number: signal.Signals) -> None:
    terminal = ground.terminal(processes=2)
    jobs = ground.enqueue(*(hold.call("gate") for _ in range(3)))
    for job in jobs:
        ground.started(job)
    terminal.signal(number)
    until(lambda: "stopping" in terminal.words(), "the word that it stops")
    terminal.signal(number)
    assert terminal.ended() == 1
    assert terminal.children == []
    assert {ground.row(job, "state", "worker", "attempt") for job in jobs} == {("available", None, 0)}
    ground.check(calm=True, finished=False)


def test_ctrl_c_of_a_terminal_reaches_all_and_counts_once(ground: Ground) -> None:
    terminal = ground.terminal(processes=2)
    terminal.workers(2)
    (job,) = ground.enqueue(hold.call("gate"))
    ground.started(job)
    terminal.signal(signal.SIGINT, group=True)
    until(lambda: "stopping" in terminal.words(), "the word that it stops")
    ground.open("gate")
    assert terminal.ended() == 0
    assert terminal.words().count("stopping") == 1
    assert ground.outcome(job) == "succeeded"
    assert terminal.said("child_died") == []
    ground.check(calm=True)


@pytest.mark.parametrize("task", [hold, effect_at_gate], ids=["plain", "transactional"])
def test_a_job_longer_than_the_grace_is_cut_off_and_offered_again(ground: Ground, task: Any) -> None:
    terminal = ground.terminal("--grace", "0.3")
    (job,) = ground.enqueue(task.call("gate"))
    ground.started(job)
    assert terminal.stop() == 1
    assert ground.row(job, "state", "worker", "attempt") == ("available", None, 0)
    assert ground.books().effects == []
    ground.open("gate")
    again = ground.terminal(command="workoff")
    assert again.ended() == 0
    assert ground.entry(job, "outcome", "attempts", "claim") == ("succeeded", 1, 2)
    ground.check()


@BOTH
def test_an_idle_worker_leaves_at_once(ground: Ground, number: signal.Signals) -> None:
    """As a share of the grace, which it does not need."""
    grace = 30.0
    terminal = ground.terminal(processes=2, grace=grace)
    terminal.workers(2)
    told = time.monotonic()
    terminal.signal(number)
    assert terminal.ended() == 0
    assert time.monotonic() - told < grace / 6


def test_a_signal_between_start_and_first_child_is_not_lost(ground: Ground) -> None:
    """TERM as early as the supervisor can take it."""
    terminal = ground.terminal(processes=3)
    until(lambda: terminal.said("started", role="supervisor"), "the supervisor")
    terminal.signal(signal.SIGTERM)
    assert terminal.ended() in {0, -signal.SIGTERM}
    assert ground.database.rows("SELECT count(*) FROM duly_workers") == [(0,)]


@pytest.mark.parametrize("task", [terminate_a_program, terminate_a_process], ids=["program", "fork"])
def test_what_a_task_starts_can_be_terminated(on_sqlite: Ground, task: Any) -> None:
    """The worker's deafness to TERM is its own; it is not inherited."""
    ground = on_sqlite
    terminal = ground.terminal()
    (job,) = ground.enqueue(task.call())
    assert ground.outcome(job) == "succeeded"
    assert terminal.stop() == 0
    assert [line["code"] for line in ground.lines("terminated")] == [-signal.SIGTERM]
