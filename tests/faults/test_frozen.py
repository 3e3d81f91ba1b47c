"""Frozen workers that wake up, and what would happen without the rules that hold them back."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
from datetime import timedelta

import pytest

from duly.model.ids import new_id
from tests.faults.ground import Ground
from tests.faults.tasks import effect, effect_at_gate, hold, note
from tests.faults.terminal import Terminal, pause, until

LEASE = 1.5


def freeze_and_rescue(ground: Ground, **settings: object) -> tuple[Terminal, Terminal, str]:
    """A transactional job that has written, frozen with its supervisor; another supervisor's worker has rescued
    it and written too. Both wait at the gate."""
    first = ground.terminal(lease=LEASE, **settings)
    (job,) = ground.enqueue(effect_at_gate.call("gate"))
    until(lambda: ground.lines("written", job=job), "the first effect")
    first.signal(signal.SIGSTOP, group=True)
    second = ground.terminal(lease=LEASE, **settings)
    until(lambda: len(ground.lines("written", job=job)) == 2, "the rescue")
    return first, second, job


def test_a_frozen_worker_that_wakes_up_cannot_finish_what_was_rescued(on_server: Ground) -> None:
    ground = on_server
    first, second, job = freeze_and_rescue(ground)
    ground.open("gate")
    assert ground.outcome(job) == "succeeded"
    first.signal(signal.SIGCONT, group=True)
    until(lambda: first.said("lease_was_lost", id=job), "the loss of the lease")
    (after,) = ground.enqueue(note.call(1))
    assert ground.outcome(after) == "succeeded"
    assert (first.stop(), second.stop()) == (0, 0)
    (written,) = ground.check().effects
    assert written.worker == ground.lines("written", job=job)[1]["worker"]


def test_a_frozen_worker_that_wakes_up_first_cannot_finish_either(on_server: Ground) -> None:
    """Before the rescuer is done: the frozen one is refused, the rescuer's success stands."""
    ground = on_server
    first, second, job = freeze_and_rescue(ground)
    second.signal(signal.SIGSTOP, group=True)
    first.signal(signal.SIGCONT, group=True)
    ground.open("gate")
    until(lambda: first.said("lease_was_lost", id=job), "the loss of the lease")
    second.signal(signal.SIGCONT, group=True)
    assert ground.outcome(job) == "succeeded"
    assert (first.stop(), second.stop()) == (0, 0)
    ground.check()


def test_a_woken_worker_takes_a_new_id_and_goes_on(on_server: Ground) -> None:
    """Also with jobs that are not transactional: its late outcome is refused, and no second one recorded."""
    ground = on_server
    first = ground.terminal(lease=LEASE)
    (job,) = ground.enqueue(hold.call("gate"))
    old = ground.started(job)["worker"]
    first.signal(signal.SIGSTOP, group=True)
    second = ground.terminal(lease=LEASE)
    new = ground.started(job, 2)["worker"]
    ground.open("gate")
    assert ground.outcome(job) == "succeeded"
    first.signal(signal.SIGCONT, group=True)
    until(lambda: len(first.said("notice")) and "taken for dead" in first.words(), "the notice")
    assert second.stop() == 0
    (after,) = ground.enqueue(note.call(1))
    assert ground.started(after)["worker"] not in (old, new)
    assert first.stop() == 0
    assert ground.entry(job, "worker", "claim") == (new, 2)
    ground.check()


def somebody_is_dead(ground: Ground) -> bool:
    """A row that has not beaten for years; whoever judges first takes it away."""
    ground.database.rows(
        "INSERT INTO duly_workers (id, host, pid, queues, started_at, beat_at) "
        f"SELECT 'gone-{new_id()}', host, pid, queues, started_at, '2000-01-01' FROM duly_workers LIMIT 1"
    )
    return True


def test_a_judge_that_was_frozen_with_the_others_judges_nobody(on_server: Ground) -> None:
    """A machine is paused just when a worker has seen that it may judge: all beats are old when it goes on."""
    ground = on_server
    other = ground.terminal(lease=LEASE)
    (job,) = ground.enqueue(hold.call("gate"))
    ground.started(job)
    judge = ground.terminal(lease=LEASE, test_judge=1)
    until(lambda: somebody_is_dead(ground) and ground.lines("judging"), "the judge")
    other.signal(signal.SIGSTOP, group=True)
    pause(1.5 * LEASE)
    ground.open("judge")
    until(lambda: ground.lines("judged"), "its judgement")
    other.signal(signal.SIGCONT, group=True)
    ground.open("gate")
    assert ground.outcome(job) == "succeeded"
    assert (judge.stop(), other.stop()) == (0, 0)
    assert ground.entry(job, "rescues") == (0,)
    ground.check(calm=True)


def test_a_silent_child_is_killed_by_its_supervisor(ground: Ground) -> None:
    """Frozen alone. On SQLite it would else keep its lock, and its jobs with it, for ever."""
    terminal = ground.terminal(lease=LEASE)
    (job,) = ground.enqueue(effect_at_gate.call("gate"))
    frozen = until(lambda: ground.lines("written", job=job), "the first effect")[0]["pid"]
    os.kill(frozen, signal.SIGSTOP)
    until(lambda: len(ground.lines("written", job=job)) == 2, "the rescue")
    assert frozen not in terminal.children
    assert "silent" in terminal.words()
    ground.open("gate")
    assert ground.outcome(job) == "succeeded"
    assert terminal.stop() == 0
    ground.check()


def freeze_while_nobody_writes(ground: Ground, terminal: Terminal) -> None:
    """Who is frozen within a transaction keeps SQLite's write lock, and everybody waits for it."""
    file = ground.database.url.removeprefix("sqlite:///")
    while True:
        terminal.signal(signal.SIGSTOP, group=True)
        look = contextlib.closing(sqlite3.connect(file, timeout=0.2, isolation_level=None))
        with look as connection, contextlib.suppress(sqlite3.OperationalError):
            connection.execute("BEGIN IMMEDIATE")
            return
        terminal.signal(signal.SIGCONT, group=True)


def test_a_wholly_frozen_group_keeps_its_jobs_on_sqlite_until_it_wakes(on_sqlite: Ground) -> None:
    ground = on_sqlite
    first = ground.terminal(lease=LEASE)
    (job,) = ground.enqueue(hold.call("gate"))
    ground.started(job)
    freeze_while_nobody_writes(ground, first)
    second = ground.terminal(lease=LEASE)
    (other,) = ground.enqueue(note.call(1))
    assert ground.outcome(other) == "succeeded"
    pause(2 * LEASE)
    assert len(ground.starts(job)) == 1
    first.signal(signal.SIGCONT, group=True)
    ground.open("gate")
    assert ground.outcome(job) == "succeeded"
    assert (first.stop(), second.stop()) == (0, 0)
    assert len(first.said("child_died")) == 0
    ground.check(calm=True)


# ── mutants: each rule is missed when it is gone ──────────────────────────────────────────────


@pytest.mark.parametrize("mutant", ["unfenced-finish", "effect-outside"])
def test_mutant_doubles_an_effect_and_is_caught(on_server: Ground, mutant: str) -> None:
    ground = on_server
    first, _, job = freeze_and_rescue(ground, test_mutant=mutant)
    ground.open("gate")
    assert ground.outcome(job) == "succeeded"
    first.signal(signal.SIGCONT, group=True)
    until(lambda: len(ground.books().effects) == 2, "the second effect")
    assert f"{job}: its effect happened 2 times" in ground.books().complaints()


def test_mutant_with_its_own_clock_starts_too_early_and_is_caught(ground: Ground) -> None:
    terminal = ground.terminal(test_mutant="own-clock")
    (job,) = ground.enqueue(note.using(run_in=timedelta(minutes=30)).call(1))
    ground.started(job)
    assert terminal.stop() == 0
    assert any("too early" in complaint for complaint in ground.books().complaints(finished=False))


@pytest.mark.parametrize("skew", [-3600, 3600])
def test_a_wrong_clock_starts_nothing_early_or_late(ground: Ground, skew: int) -> None:
    """The worker's machine is an hour off; the database's clock decides."""
    soon, hour = timedelta(seconds=1), timedelta(hours=1)
    due = ground.enqueue(
        note.call(1),
        effect.call(2),
        note.using(run_in=soon).call(3),
        note.using(expires_in=hour / 2).call(4),
    )
    later = ground.enqueue(note.using(run_in=hour / 2).call(5))
    past = ground.enqueue(note.using(expires_in=soon / 10).call(6))
    pause(0.2)
    terminal = ground.terminal(test_skew=skew, lease=LEASE)
    assert [ground.outcome(job) for job in due] == ["succeeded"] * 4
    assert [ground.outcome(job) for job in past] == ["expired"]
    assert terminal.stop() == 0
    ground.check(calm=True, finished=False)
    assert [row.job for row in ground.books().unfinished] == later
    started = ground.starts(due[2])[0]
    assert started["at"] - started["run_at"] < 1
