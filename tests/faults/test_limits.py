"""Jobs that do not stop or let nobody else run, in real processes: what becomes of them, and of their neighbours."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from tests.faults.ground import Ground
from tests.faults.tasks import effect, hold, note
from tests.faults.terminal import Terminal, until
from tests.faults.unruly import fork_and_return, hang, hang_in_transaction, hog, leave_by_exit, spin, swallow

OVER = "over its max_run_time of 0.3 s in attempt 1, the last"


def worker(ground: Ground, **settings: Any) -> Terminal:
    """One process that soon gives up who does not stop."""
    return ground.terminal(threads=2, test_deaf=0.5, **settings)


def given_up(terminal: Terminal, job: str) -> None:
    until(lambda: any(job in line["text"] for line in terminal.said("notice")), "the word that it hangs")


def blame(ground: Ground, job: str) -> tuple[Any, ...] | None:
    return ground.entry(job, "outcome", "attempts", "deaths", "rescues")


def test_a_deaf_thread_costs_its_process_and_none_of_its_neighbours(ground: Ground) -> None:
    terminal = worker(ground)
    (neighbour,) = ground.enqueue(hold.call("neighbour"))
    ground.started(neighbour)
    (first,) = terminal.children
    (deaf,) = ground.enqueue(hang.call("never"))
    given_up(terminal, deaf)
    (later,) = ground.enqueue(note.call(1))
    ground.open("neighbour")
    assert ground.outcome(deaf) == "failed"
    assert blame(ground, deaf) == ("failed", 1, 0, 0)
    assert ground.entry(deaf, "cause") == (OVER,)
    assert blame(ground, neighbour) == ("succeeded", 1, 0, 0)
    ground.all_done()
    assert blame(ground, later) == ("succeeded", 1, 0, 0)
    assert first not in terminal.children
    assert ground.starts(later)[0]["pid"] != first
    assert terminal.stop() == 0
    ground.check(calm=True)


def test_a_neighbour_that_outlasts_the_grace_of_a_deaf_thread_is_offered_again(ground: Ground) -> None:
    terminal = worker(ground, grace=0.3)
    (neighbour,) = ground.enqueue(hold.call("neighbour"))
    ground.started(neighbour)
    (deaf,) = ground.enqueue(hang.call("never"))
    assert ground.outcome(deaf) == "failed"
    ground.started(neighbour, times=2)
    ground.open("neighbour")
    assert ground.outcome(neighbour) == "succeeded"
    outcome, attempts, deaths, _ = blame(ground, neighbour) or ()
    assert (outcome, attempts, deaths) == ("succeeded", 1, 0)
    assert blame(ground, deaf) == ("failed", 1, 0, 0)
    assert terminal.stop() == 0


def test_a_deaf_transaction_leaves_no_effect_and_does_not_hold_the_queue(ground: Ground) -> None:
    """On SQLite it holds the write lock until its process ends: that counts as a death of its own."""
    terminal = worker(ground, test_patient=1)
    (deaf,) = ground.enqueue(hang_in_transaction.call("never"))
    ground.started(deaf)
    assert ground.outcome(deaf) == "failed"
    (later,) = ground.enqueue(effect.call(1))
    assert ground.outcome(later) == "succeeded"
    assert [written.job for written in ground.books().effects] == [later]
    assert terminal.stop() == 0


def test_a_swallowed_cancellation_costs_its_process(ground: Ground) -> None:
    terminal = worker(ground)
    terminal.workers(1)
    (first,) = terminal.children
    (deaf,) = ground.enqueue(swallow.call("never"))
    assert ground.outcome(deaf) == "failed"
    assert ground.entry(deaf, "cause") == (OVER,)
    (later,) = ground.enqueue(note.call(1))
    assert ground.outcome(later) == "succeeded"
    assert ground.starts(later)[0]["pid"] != first
    assert terminal.stop() == 0


def test_who_holds_the_interpreter_is_named(on_sqlite: Ground) -> None:
    ground = on_sqlite
    terminal = worker(ground, lease=30.0)  # or its supervisor would take it for silent, and kill it
    length = 24
    while True:  # until it takes long enough on this machine
        (job,) = ground.enqueue(hog.call(length))
        assert ground.outcome(job) == "succeeded"
        said = [line["text"] for line in terminal.said("notice") if "held the interpreter" in line["text"]]
        if said or length == 29:
            break
        length += 1
    (text,) = said
    assert text.startswith("task tests.faults.unruly.hog held the interpreter for")
    assert terminal.stop() == 0


def test_sys_exit_in_a_task_is_a_failed_attempt(ground: Ground) -> None:
    terminal = worker(ground)
    terminal.workers(1)
    children = terminal.children
    jobs = ground.enqueue(leave_by_exit.call(0), leave_by_exit.call(3))
    for job in jobs:
        assert ground.outcome(job) == "failed"
        assert ground.entry(job, "cause") == ("SystemExit in attempt 1, the last",)
    assert terminal.children == children
    assert terminal.stop() == 0


def test_a_fork_that_comes_back_from_its_task_ends_there(ground: Ground) -> None:
    """The copy has the worker's connections and its report to make: it must use neither."""
    terminal = worker(ground)
    jobs = ground.enqueue(*(fork_and_return.call() for _ in range(3)))
    for job in jobs:
        assert ground.outcome(job) == "succeeded"
        assert blame(ground, job) == ("succeeded", 1, 0, 0)
    assert [line["code"] for line in ground.lines("forked")] == [0, 0, 0]
    ground.check(calm=True)
    assert terminal.stop() == 0


@pytest.mark.parametrize("times", [1, 2])
def test_a_cancelled_job_leaves_its_neighbour_alone(ground: Ground, times: int) -> None:
    terminal = worker(ground, lease=3.0, beat=0.3)
    busy, neighbour = ground.enqueue(spin.call(), hold.call("neighbour"))
    ground.started(busy)
    ground.started(neighbour)
    for _ in range(times):
        assert ground.app.handle(UUID(busy)).cancel()
    assert ground.outcome(busy) == "cancelled"
    assert blame(ground, busy) == ("cancelled", 1, 0, 0)
    children = terminal.children
    ground.open("neighbour")
    assert ground.outcome(neighbour) == "succeeded"
    assert blame(ground, neighbour) == ("succeeded", 1, 0, 0)
    assert terminal.children == children
    assert terminal.stop() == 0
