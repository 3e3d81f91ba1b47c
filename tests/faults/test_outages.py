"""The database goes away and comes back: workers outlive it, nobody alive is rescued, nothing is lost or doubled."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from datetime import datetime
from itertools import count, pairwise

import pytest

from duly.errors import DatabaseError
from tests.faults.ground import LONG, Ground, figures
from tests.faults.tasks import effect, hold, note
from tests.faults.terminal import Terminal, pause, until
from tests.mysql import Server
from tests.postgresql import Cluster, children_of

Record = Callable[[str, object], None]
LEASE = 1.5
NUMBERS = count()


def busy_terminals(ground: Ground) -> tuple[list[Terminal], list[str]]:
    """Two supervisors with a worker each, all of whose threads run a job."""
    terminals = [ground.terminal(lease=LEASE) for _ in range(2)]
    for terminal in terminals:
        terminal.workers(1)
    jobs = ground.enqueue(*(hold.call("gate") for _ in range(4)))
    for job in jobs:
        ground.started(job)
    pause(LEASE)  # so long they must have lived to be judges
    return terminals, jobs


def nobody_was_rescued(
    ground: Ground, terminals: list[Terminal], jobs: list[str], children: list[list[int]]
) -> None:
    pause(1.5 * LEASE)  # in which a hasty judge would judge
    ground.open("gate")
    ground.all_done()
    assert [terminal.children for terminal in terminals] == children
    assert [terminal.stop() for terminal in terminals] == [0, 0]
    assert {ground.entry(job, "outcome", "rescues") for job in jobs} == {("succeeded", 0)}
    assert {len(ground.starts(job)) for job in jobs} == {1}
    assert not any(terminal.said("rescued") for terminal in terminals)
    ground.check()


@pytest.mark.parametrize("mode", ["fast", "kill"] if LONG else ["kill"])
def test_a_gap_of_some_leases_rescues_nobody_who_lives(
    on_private: Ground, private_server: Cluster | Server, mode: str, record_property: Record
) -> None:
    terminals, jobs = busy_terminals(on_private)
    children = [terminal.children for terminal in terminals]
    private_server.stop(mode)  # type: ignore[arg-type]
    for terminal in terminals:
        until(lambda terminal=terminal: terminal.said("database_lost"), "the word that it lost the database")
    pause(2.5 * LEASE)
    private_server.start()
    for terminal in terminals:
        until(
            lambda terminal=terminal: terminal.said("database_found"), "the word that it found the database"
        )
    nobody_was_rescued(on_private, terminals, jobs, children)
    gaps = [record["gap"] for terminal in terminals for record in terminal.said("database_found")]
    figures(record_property, gaps=gaps)


def test_a_database_frozen_for_some_leases_rescues_nobody_who_lives(
    on_private: Ground, private_server: Cluster | Server
) -> None:
    """No error, no answer: every statement hangs, and all of them go on at the same moment."""
    terminals, jobs = busy_terminals(on_private)
    children = [terminal.children for terminal in terminals]
    server = [private_server.pid, *children_of(private_server.pid)]
    for process in server:
        os.kill(process, signal.SIGSTOP)
    pause(2.5 * LEASE)
    for process in server:
        os.kill(process, signal.SIGCONT)
    nobody_was_rescued(on_private, terminals, jobs, children)


def enqueue_some(ground: Ground) -> None:
    """A transaction is promised when its commit was answered; a lost answer is found out by asking."""
    calls = [effect.call(next(NUMBERS), random.uniform(0, 0.01)) for _ in range(8)]
    calls += [ground.aeffect.call(next(NUMBERS), random.uniform(0, 0.01)) for _ in range(4)]
    calls += [note.call(next(NUMBERS)) for _ in range(8)]
    with contextlib.suppress(DatabaseError):
        ground.enqueue(*calls)


def take_what_landed(ground: Ground) -> None:
    """Enqueues whose answer was lost, and that were committed all the same."""
    effects = {"tests.faults.tasks.effect", "tests.faults.tasks.aeffect"}
    for table, key in (("duly_jobs", "id"), ("duly_executions", "job_id")):
        for job, task in ground.database.rows(f"SELECT {key}, task FROM {table}"):
            ground.promised.setdefault(str(job), task in effects)


def test_database_restart_mid_run(
    on_private: Ground, private_server: Cluster | Server, record_property: Record
) -> None:
    """Crashes (immediate), in the middle of everything, again and again."""
    ground = on_private
    terminal = ground.terminal(processes=3, lease=LEASE)
    children = terminal.workers(3)
    restarts = 40 if LONG else 3
    waits = []
    for n in range(restarts):
        until_crash = time.monotonic() + random.uniform(0.3, 0.8)
        while time.monotonic() < until_crash:
            enqueue_some(ground)
            pause(0.03)
        private_server.restart("kill" if n % 3 == 2 else "immediate")
        up = time.time()
        waits.append(
            until(lambda up=up: _ended_since(ground, up), "the first success after the restart") - up
        )
    ground.all_done()
    assert terminal.children == children, "a worker did not outlive it"
    take_what_landed(ground)
    assert terminal.stop() == 0
    books = ground.check()
    assert {row.outcome for row in books.ended} == {"succeeded"}
    assert terminal.said("database_lost")
    assert terminal.said("database_found")
    figures(record_property, restarts=restarts, jobs=len(books.ended), slowest=max(waits))


def _ended_since(ground: Ground, moment: float) -> float:
    with contextlib.suppress(Exception):
        ended = (row.ended_at for row in ground.books().ended)
        if first := min((at for at in ended if at > moment), default=None):
            return first
    enqueue_some(ground)
    return 0.0


def test_dropped_sessions_lose_nothing_and_no_worker_leaves(
    on_server: Ground, record_property: Record
) -> None:
    ground = on_server
    terminal = ground.terminal(processes=3, lease=LEASE)
    children = terminal.workers(3)
    dropped, deadline = 0, time.monotonic() + (60 if LONG else 3)
    while time.monotonic() < deadline:
        enqueue_some(ground)
        if sessions := ground.sessions():
            ground.cut(random.choice(sessions))
            dropped += 1
        pause(0.05)
    ground.all_done()
    assert terminal.children == children
    take_what_landed(ground)
    assert terminal.stop() == 0
    books = ground.check()
    assert {row.outcome for row in books.ended} == {"succeeded"}
    figures(record_property, dropped=dropped, jobs=len(books.ended))


def test_children_that_cannot_start_are_started_again_with_growing_waits(
    on_private: Ground, private_server: Cluster | Server
) -> None:
    """No hot loop while the database is down, and work again when it is up."""
    ground = on_private
    terminal = ground.terminal()
    (child,) = terminal.workers(1)
    private_server.stop()
    os.kill(child, signal.SIGKILL)
    until(lambda: len(terminal.said("child_died")) >= 6, "some tries to start")
    died = [datetime.fromisoformat(record["time"]).timestamp() for record in terminal.said("child_died")][1:]
    waits = [late - early for early, late in pairwise(died)]
    assert waits[-1] > 2 * waits[0], "a hot loop"
    assert all("cannot work" in record["text"] for record in terminal.said("notice", level="error"))
    private_server.start()
    (job,) = ground.enqueue(note.call(1))
    assert ground.outcome(job) == "succeeded"
    assert terminal.stop() == 0
    ground.check()
