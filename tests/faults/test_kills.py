"""SIGKILL of workers, of supervisors, of whole groups: nothing lost, nothing doubled, and soon running again."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from duly.task.call import Call
from tests.faults.ground import LONG, Ground, figures
from tests.faults.tasks import effect, effect_at_gate, hold, note, second_time_lucky
from tests.faults.terminal import Terminal, gone, pause, until

Record = Callable[[str, object], None]
LEASE = 1.5
NUMBERS = count()


def load(ground: Ground) -> Iterator[Call[object]]:
    """A hand full of jobs of every kind. SQLite has one writer, so there nobody dawdles in a transaction."""
    slow = 0.001 if ground.database.name == "sqlite" else 0.02
    for _ in range(4):
        yield effect.call(next(NUMBERS), random.uniform(0, slow))
        yield ground.aeffect.call(next(NUMBERS), random.uniform(0, slow))
        yield note.call(next(NUMBERS))
    yield second_time_lucky.call()


def kill_one(terminal: Terminal) -> bool:
    """A random worker process, as the kernel does when memory runs out."""
    if victims := terminal.children:
        os.kill(random.choice(victims), signal.SIGKILL)
    return bool(victims)


def test_killed_under_load_nothing_is_lost_and_nothing_doubled(
    ground: Ground, record_property: Record
) -> None:
    terminal = ground.terminal(processes=4, test_patient=1)
    terminal.workers(4)
    kills, deadline = 0, time.monotonic() + (60 if LONG else 3)
    while time.monotonic() < deadline:
        ground.enqueue(*load(ground))
        ground.roll_back(*load(ground))
        kills += kill_one(terminal)
        pause(random.uniform(0.05, 0.1))
    ground.all_done()
    assert terminal.stop() == 0
    books = ground.check()
    # A job that ran in three workers when they were killed ends as failed, and says so: that is no loss.
    bad = ground.database.rows(
        "SELECT job_id, outcome, cause FROM duly_executions WHERE outcome <> 'succeeded' AND deaths < 3"
    )
    assert bad == []
    died = ground.database.rows("SELECT count(*), max(deaths) FROM duly_executions WHERE deaths > 0")
    assert died[0][0] > 0, "no kill met a running job: this run shows nothing"
    again = len(books.starts) - len({start.job for start in books.starts})
    figures(
        record_property,
        kills=kills,
        jobs=len(books.ended),
        died=died[0][0],
        most=died[0][1],
        again=again,
    )


def test_a_killed_workers_job_starts_again_long_before_the_lease(
    ground: Ground, record_property: Record
) -> None:
    """Its supervisor saw it die: as a share of the lease, since machines differ."""
    lease, waits = 15.0, []
    terminal = ground.terminal(processes=2, lease=lease, test_patient=1)
    (job,) = ground.enqueue(hold.call("gate"))
    for time_of_start in range(1, 3):
        start = ground.started(job, time_of_start)
        os.kill(start["pid"], signal.SIGKILL)
        killed = time.time()
        waits.append(ground.started(job, time_of_start + 1)["at"] - killed)
    ground.open("gate")
    assert ground.outcome(job) == "succeeded"
    assert terminal.stop() == 0
    ground.check()
    figures(record_property, waits=[round(wait, 3) for wait in waits])
    assert max(waits) < lease / 5
    assert ground.entry(job, "attempts", "deaths", "rescues") == (1, 2, 0)


def test_a_killed_workers_open_transaction_is_undone(ground: Ground) -> None:
    terminal = ground.terminal(test_patient=1)
    (job,) = ground.enqueue(effect_at_gate.call("gate"))
    written = until(lambda: ground.lines("written", job=job), "the first effect")[0]
    os.kill(written["pid"], signal.SIGKILL)
    until(lambda: len(ground.lines("written", job=job)) == 2, "the second effect")
    ground.open("gate")
    assert ground.outcome(job) == "succeeded"
    assert terminal.stop() == 0
    (effect_row,) = ground.check().effects
    assert effect_row.worker != written["worker"]


def test_children_leave_when_their_supervisor_is_gone(ground: Ground) -> None:
    """What runs may end within the grace; idle children leave at once."""
    terminal = ground.terminal(processes=2)
    idle = terminal.workers(2)
    (job,) = ground.enqueue(hold.call("gate"))
    busy = ground.started(job)["pid"]
    terminal.signal(signal.SIGKILL)
    assert terminal.ended() == -signal.SIGKILL
    until(lambda: gone(*(set(idle) - {busy})), "the idle child's leave")
    assert not gone(busy)
    ground.open("gate")
    until(lambda: gone(busy), "the busy child's leave")
    assert ground.entry(job, "outcome", "rescues") == ("succeeded", 0)
    assert ground.database.rows("SELECT count(*) FROM duly_workers") == [(0,)]
    ground.check(calm=True)


def test_after_a_supervisors_kill_others_take_over_what_its_children_could_not_end(ground: Ground) -> None:
    first = ground.terminal(grace=0.3)
    (job,) = ground.enqueue(hold.call("gate"))
    child = ground.started(job)["pid"]
    second = ground.terminal(lease=LEASE)
    second.workers(1)
    first.signal(signal.SIGKILL)
    assert ground.started(job, 2)["pid"] in second.children
    until(lambda: gone(child), "the leave of the first child")
    ground.open("gate")
    assert ground.outcome(job) == "succeeded"
    assert second.stop() == 0
    ground.check()


def test_a_lost_hosts_jobs_are_rescued_within_two_leases(ground: Ground, record_property: Record) -> None:
    """Supervisor and children die at once. PostgreSQL: after the lease; SQLite: the lock of the dead is free."""
    first = ground.terminal(processes=2, lease=LEASE)
    jobs = ground.enqueue(*(hold.call("gate") for _ in range(4)))
    for job in jobs:
        ground.started(job)
    second = ground.terminal(threads=4, lease=LEASE)
    second.workers(1)
    pause(LEASE)  # who is to judge the dead must have lived for a lease
    first.signal(signal.SIGKILL, group=True)
    killed = time.time()
    ground.open("gate")
    ground.all_done()
    waits = [ground.started(job, 2)["at"] - killed for job in jobs]
    assert second.stop() == 0
    ground.check()
    figures(record_property, leases=[round(wait / LEASE, 2) for wait in waits])
    assert max(waits) < 2 * LEASE + 1
    assert {ground.entry(job, "rescues") for job in jobs} == {(1,)}


def test_a_frozen_transaction_does_not_stop_the_rescue_of_the_others(on_server: Ground) -> None:
    ground = on_server
    first = ground.terminal(threads=6, lease=LEASE)
    jobs = ground.enqueue(*(hold.call("gate") for _ in range(6)))
    for job in jobs:
        ground.started(job)
    second = ground.terminal(threads=6, lease=LEASE)
    second.workers(1)
    with ground.frozen(f"SELECT * FROM duly_jobs WHERE id IN ('{jobs[0]}', '{jobs[3]}') FOR UPDATE"):
        first.signal(signal.SIGKILL, group=True)
        ground.open("gate")
        until(lambda: ground.unfinished() == 2, "the rescue of the four that are not locked")
        assert {ground.row(job, "state") for job in (jobs[0], jobs[3])} == {("running",)}
    ground.all_done()
    assert second.stop() == 0
    ground.check()


@pytest.mark.parametrize("after", [0.0, 0.002, 0.02])
def test_killed_at_its_first_steps_a_worker_strands_nothing(ground: Ground, after: float) -> None:
    """Between fork, registration and the first claim."""
    terminal = ground.terminal(processes=1, test_patient=1)
    jobs = ground.enqueue(*(note.call(n) for n in range(5)))
    killed: set[int] = set()
    while len(killed) < 8 and ground.unfinished():
        for child in set(terminal.children) - killed:
            pause(after)
            os.kill(child, signal.SIGKILL)
            killed.add(child)
    for job in jobs:
        assert ground.outcome(job) == "succeeded"
    # A child that is found dead while stopping counts as cut off: let the last one be buried first.
    until(lambda: len(terminal.said("child_died")) == len(killed), "the last burial")
    assert terminal.stop() == 0
    ground.check()
    assert ground.database.rows("SELECT count(*) FROM duly_workers") == [(0,)]
