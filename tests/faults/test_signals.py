"""TERM, INT, Ctrl-C, HUP, QUIT: drained, given back, cut off; the supervisor alone counts them."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from tests.faults.ground import Ground
from tests.faults.tasks import cling, effect_at_gate, hold, note, terminate_a_process, terminate_a_program
from tests.faults.terminal import gone, until

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


# ── more than twice ───────────────────────────────────────────────────────────────────────────


@BOTH
@pytest.mark.parametrize("group", [False, True], ids=["supervisor", "terminal"])
def test_five_are_as_good_as_two_and_nobody_stumbles(
    ground: Ground, number: signal.Signals, group: bool
) -> None:
    terminal = ground.terminal(processes=2)
    (job,) = ground.enqueue(hold.call("gate"))
    ground.started(job)
    for _ in range(5):
        terminal.signal(number, group=group)
        until(lambda: "stopping" in terminal.words(), "the word that it stops")
    assert terminal.ended() == 1
    assert "Traceback" not in terminal.words()
    assert ground.row(job, "state", "deaths", "rescues") == ("available", 0, 1)


# ── the terminal goes ─────────────────────────────────────────────────────────────────────────


def test_the_end_of_the_terminal_stops_as_term_does(ground: Ground) -> None:
    terminal = ground.terminal(processes=2)
    terminal.workers(2)
    (job,) = ground.enqueue(hold.call("gate"))
    ground.started(job)
    terminal.signal(signal.SIGHUP, group=True)
    until(lambda: "stopping" in terminal.words(), "the word that it stops")
    ground.open("gate")
    assert terminal.ended() == 0
    assert terminal.said("child_died") == []
    assert ground.outcome(job) == "succeeded"
    ground.check(calm=True)


def test_under_nohup_the_end_of_the_terminal_is_nothing(ground: Ground) -> None:
    terminal = ground.terminal(processes=2, variables={"NOHUP": "1"})
    before = terminal.workers(2)
    terminal.signal(signal.SIGHUP, group=True)
    (job,) = ground.enqueue(note.call(1))
    assert ground.outcome(job) == "succeeded"
    assert terminal.children == before
    assert "stopping" not in terminal.words()
    assert terminal.stop() == 0


# ── QUIT ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("group", [False, True], ids=["supervisor", "terminal"])
def test_quit_shows_what_the_workers_do_and_stops_at_once(ground: Ground, group: bool) -> None:
    """Files, lines and functions, and no argument."""
    terminal = ground.terminal(processes=2)
    terminal.workers(2)
    (job,) = ground.enqueue(effect_at_gate.call("a-gate-of-ours"))
    until(lambda: ground.lines("written", job=job), "its effect")
    terminal.signal(signal.SIGQUIT, group=group)
    assert terminal.ended() == 1
    words = terminal.words()
    assert words.count("most recent call first") > 2
    assert " in wait_at_gate\n" in words
    assert "a-gate-of-ours" not in words
    assert ground.row(job, "state", "deaths", "rescues") == ("available", 0, 1)


def test_quit_after_term_does_not_wait_for_the_grace(ground: Ground) -> None:
    terminal = ground.terminal()
    (job,) = ground.enqueue(hold.call("gate"))
    ground.started(job)
    terminal.signal(signal.SIGTERM)
    until(lambda: "stopping" in terminal.words(), "the word that it stops")
    terminal.signal(signal.SIGQUIT)
    assert terminal.ended() == 1


# ── the supervisor goes ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("task", [hold, cling], ids=["waits", "hangs"])
def test_no_orphan_outlives_the_grace_that_its_supervisor_had(ground: Ground, task: Any) -> None:
    """Not that of the settings, which is long here; and whatever a task does with what it is told."""
    terminal = ground.terminal("--grace", "0.3")
    (job,) = ground.enqueue(task.call("gate"))
    orphan = ground.started(job)["pid"]
    terminal.signal(signal.SIGKILL)
    assert terminal.ended() == -signal.SIGKILL
    until(lambda: gone(orphan), "the end of the orphan")
    assert ground.entry(job, "outcome") is None
    again = ground.terminal(lease=1.5)
    assert ground.started(job, 2)["pid"] != orphan
    ground.open("gate")
    assert ground.outcome(job) == "succeeded"
    assert ground.entry(job, "deaths") == (0,)
    assert again.stop() == 0
