"""Once: workers are killed and frozen at random moments, and every effect is there once.

The short form is part of each run of the tests. ``make faults-once`` is the long one: 1,000 kills and 100 freezes
on each database.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from duly.task.call import Call
from tests.faults.checker import Books
from tests.faults.ground import LONG, Ground, figures
from tests.faults.launches import alaunch, launch, launch_and_stumble, launch_at_gate, launch_when_ready
from tests.faults.storm import Storm
from tests.faults.tasks import effect, note, second_time_lucky
from tests.faults.terminal import Terminal, until

Record = Callable[[str, object], None]

KILLS, FREEZES = (1000, 100) if LONG else (12, 3)
LEASE = 1.5
NUMBERS = count()


def load(ground: Ground) -> Iterator[Call[object]]:
    """Jobs that write and then take a while. SQLite has one writer, so there nobody dawdles in a transaction."""
    slow = 0.002 if ground.database.name == "sqlite" else 0.2
    for _ in range(3):
        yield effect.call(next(NUMBERS), random.uniform(0, slow))
        yield ground.aeffect.call(next(NUMBERS), random.uniform(0, slow))
    yield note.call(next(NUMBERS))
    yield second_time_lucky.call()
    yield launch.call(random.uniform(0, 0.2))
    yield alaunch.call(random.uniform(0, 0.2))
    yield launch_when_ready.call()
    yield launch_and_stumble.call()


def storm(ground: Ground, kills: int = KILLS, freezes: int = FREEZES, **settings: object) -> Storm:
    """Three supervisors with two workers each. A freeze may outlast the lease: then others take over.

    On SQLite a frozen writer holds up everybody, and a group that is frozen as a whole keeps its jobs.
    """

    def start() -> Terminal:
        return ground.terminal(processes=2, lease=LEASE, test_patient=1, **settings)

    lengths = (0.05, 0.5) if ground.database.name == "sqlite" else (0.2 * LEASE, 2.2 * LEASE)
    return Storm(ground, lambda: load(ground), start, kills, freezes, lengths)


def test_killed_and_frozen_at_random_every_effect_is_there_once(
    ground: Ground, record_property: Record
) -> None:
    blowing = storm(ground)
    blowing.blow()
    until(blowing.met, "a kill that meets a running job")
    ground.all_done()
    assert set(blowing.calm()) == {0}
    books = ground.check()
    ended = ground.database.rows("SELECT job_id, outcome, cause, deaths, rescues FROM duly_executions")
    assert [row for row in ended if not _as_promised(books, *row)] == []
    died, rescued = (sum(row[column] > 0 for row in ended) for column in (3, 4))
    uncertain = sum(row[1] == "uncertain" for row in ended)
    assert 0 < uncertain < len(books.unrepeatable)
    lost = blowing.told("lease_was_lost")
    figures(
        record_property,
        kills=KILLS,
        freezes=FREEZES,
        outcomes=dict(Counter(row[1] for row in ended)),
        again=len(books.starts) - len({start.job for start in books.starts}),
        died=died,
        rescued=rescued,
        woken_too_late=lost,
        launches=books.launches.total(),
    )


def test_mutant_with_its_effect_outside_is_caught_by_the_storm(on_postgresql: Ground) -> None:
    blowing = storm(on_postgresql, kills=10, freezes=1, test_mutant="effect-outside")

    def doubled() -> bool:
        blowing.blow()
        blowing.kills = 5
        return any("its effect happened 2 times" in line for line in on_postgresql.books().complaints())

    until(doubled, "an effect that is there twice")


# ── unrepeatable, step by step ────────────────────────────────────────────────────────────────


def launched(ground: Ground, job: str, times: int = 1) -> int:
    """Wait until the job was done so often; the process that did it last."""
    done = until(lambda: ground.lines("launched", job=job)[times - 1 :], f"launch {times} of {job}")
    return int(done[-1]["pid"])


def test_what_was_done_is_not_done_again_when_its_worker_is_killed(ground: Ground) -> None:
    terminal = ground.terminal(lease=LEASE, test_patient=1)
    (job,) = ground.enqueue(launch_at_gate.call("gate"))
    os.kill(launched(ground, job), signal.SIGKILL)
    assert ground.outcome(job) == "uncertain"
    (after,) = ground.enqueue(launch.call(0))
    assert ground.outcome(after) == "succeeded"
    assert terminal.stop() == 0
    assert ground.entry(job, "attempts", "claim") == (1, 1)
    assert ground.check().launches == {job: 1, after: 1}


def test_what_was_done_is_not_done_again_while_its_worker_is_frozen(on_server: Ground) -> None:
    """Others take it for dead and end the job as uncertain; its own outcome comes too late."""
    ground = on_server
    first = ground.terminal(lease=LEASE)
    (job,) = ground.enqueue(launch_at_gate.call("gate"))
    launched(ground, job)
    first.signal(signal.SIGSTOP, group=True)
    second = ground.terminal(lease=LEASE)
    assert ground.outcome(job) == "uncertain"
    ground.open("gate")
    first.signal(signal.SIGCONT, group=True)
    until(lambda: first.said("lease_was_lost", id=job), "the loss of the lease")
    assert (first.stop(), second.stop()) == (0, 0)
    assert ground.entry(job, "outcome") == ("uncertain",)
    assert ground.check().launches == {job: 1}


@pytest.mark.parametrize("mutant", ["no-mark", "mark-ignored"])
def test_mutant_does_it_twice_and_is_caught(on_sqlite: Ground, mutant: str) -> None:
    ground = on_sqlite
    ground.terminal(lease=LEASE, test_patient=1, test_mutant=mutant)
    (job,) = ground.enqueue(launch_at_gate.call("gate"))
    os.kill(launched(ground, job), signal.SIGKILL)
    launched(ground, job, 2)
    ground.open("gate")
    ground.all_done()
    assert f"{job}: is unrepeatable, and was done 2 times" in ground.books().complaints()


def _as_promised(books: Books, job: object, outcome: str, cause: str, deaths: int, rescues: int) -> bool:
    """A job that ran in three workers when they were killed ends as failed, and says so: that is no loss."""
    if outcome == "succeeded" or (outcome == "failed" and (deaths >= 3 or rescues >= 10)):
        return True
    return outcome == "uncertain" and str(job) in books.unrepeatable
