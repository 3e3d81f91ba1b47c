"""Jobs that kill their worker: who is blamed, who is spared, where suspects run, and how it ends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from tests.faults.ground import LONG, Ground, figures
from tests.faults.tasks import ahold, die, hold, labor, leave, note
from tests.faults.terminal import Terminal, pause, until

Record = Callable[[str, object], None]
LEASE = 1.5


def blame(ground: Ground, job: str) -> tuple[int, int, int]:
    """Deaths, rescues and attempts of a job, ended or not."""
    row = ground.entry(job, "deaths", "rescues", "attempts") or ground.row(
        job, "deaths", "rescues", "attempt"
    )
    assert row is not None
    return row[0], row[1], row[2]


def causes(ground: Ground, job: str) -> list[str]:
    return [
        row[0]
        for row in ground.database.rows(
            f"SELECT cause FROM duly_attempts WHERE job_id = '{job}' ORDER BY claim"
        )
    ]


# ── deaths ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("SIGSEGV", "killed by SIGSEGV"),
        ("SIGKILL", "killed by SIGKILL"),
        ("7", "exit status 7"),
        ("0", "exit status 0"),
    ],
)
def test_a_job_that_kills_its_worker_ends_failed_with_its_third_death(
    ground: Ground, how: str, cause: str
) -> None:
    """By a fault, by the kernel when memory runs out, or by leaving; whatever the exit status looks like."""
    terminal = ground.terminal()
    (job,) = ground.enqueue(die.call(how))
    assert ground.outcome(job) == "failed"
    (said,) = ground.entry(job, "cause") or ()
    assert said == f"it killed its worker 3 times; last: {cause.removeprefix('killed by ')}"
    assert blame(ground, job) == (3, 0, 1)
    assert causes(ground, job) == [cause] * 3
    assert len(ground.starts(job)) == 3
    until(lambda: len(terminal.said("child_died", status=cause)) == 3, "the word of its deaths")
    assert [record["deaths"] for record in terminal.said("job_suspected", id=job)] == [1, 2]
    until(lambda: terminal.said("job_ended", id=job, outcome="failed"), "word of its end")
    assert terminal.stop() == 0
    ground.check()


def a_killer_before_others(ground: Ground) -> tuple[str, list[str]]:
    """One claim takes a job that kills its worker, and others that wait behind it for the one thread."""
    ground.enqueue(
        *(note.call(n) for n in range(200))
    )  # shows that notes are quick: claimed ahead from now on
    ground.all_done()
    killer, *others = ground.enqueue(
        die.using(priority=-1).call("SIGSEGV"), *(note.call(n) for n in range(50))
    )
    assert ground.outcome(killer) == "failed"
    ground.all_done()
    claims = {ground.entry(job, "claim") for job in others}
    assert claims != {(1,)}, "none of them was claimed together with it: this run shows nothing"
    return killer, others


def test_only_jobs_that_had_started_are_blamed(ground: Ground) -> None:
    terminal = ground.terminal(threads=1)
    killer, others = a_killer_before_others(ground)
    assert {blame(ground, job) for job in others} == {(0, 0, 1)}
    assert blame(ground, killer) == (3, 0, 1)
    assert terminal.stop() == 0
    ground.check()


def test_neighbours_that_had_started_are_suspects_once_and_go_free(ground: Ground) -> None:
    """Nobody can tell which of them it was; apart, each shows it by itself. Sync and async alike."""
    terminal = ground.terminal(threads=3)
    neighbours = ground.enqueue(hold.call("gate"), ahold.call("gate"))
    for job in neighbours:
        ground.started(job)
    (killer,) = ground.enqueue(die.using(priority=-1).call("SIGSEGV"))  # the first of the suspects too
    assert ground.outcome(killer) == "failed"
    ground.open("gate")
    ground.all_done()
    assert {ground.outcome(job) for job in neighbours} == {"succeeded"}
    assert {blame(ground, job) for job in neighbours} == {(1, 0, 1)}
    assert ground.entry(killer, "deaths") == (3,)
    assert terminal.stop() == 0
    ground.check()


def test_our_own_kill_of_a_silent_worker_blames_nobody(ground: Ground) -> None:
    terminal = ground.terminal(lease=LEASE)
    (job,) = ground.enqueue(hold.call("gate"))
    os.kill(ground.started(job)["pid"], signal.SIGSTOP)
    ground.started(job, 2)
    ground.open("gate")
    assert ground.outcome(job) == "succeeded"
    assert blame(ground, job) == (0, 1, 1)
    assert terminal.said("child_died", status="killed by its supervisor")
    assert terminal.said("job_suspected") == []
    assert terminal.stop() == 0
    ground.check()


def test_our_own_kill_when_stopping_at_once_counts_a_rescue_and_no_death(ground: Ground) -> None:
    terminal = ground.terminal()
    (job,) = ground.enqueue(hold.call("gate"))
    ground.started(job)
    terminal.signal(signal.SIGTERM)
    until(lambda: "stopping" in terminal.words(), "the word that it stops")
    terminal.signal(signal.SIGTERM)
    assert terminal.ended() == 1
    assert ground.row(job, "state", "deaths", "rescues") == ("available", 0, 1)


def test_outstaying_the_grace_counts_a_rescue_and_no_death(ground: Ground) -> None:
    terminal = ground.terminal("--grace", "0.2")
    (job,) = ground.enqueue(hold.call("gate"))
    ground.started(job)
    assert terminal.stop() == 1
    assert ground.row(job, "state", "deaths", "rescues") == ("available", 0, 1)


def test_mutant_that_blames_for_its_own_kill_is_caught(on_sqlite: Ground) -> None:
    ground = on_sqlite
    terminal = ground.terminal(lease=LEASE, test_mutant="blame-anyway")
    (job,) = ground.enqueue(hold.call("gate"))
    os.kill(ground.started(job)["pid"], signal.SIGSTOP)
    ground.started(job, 2)
    ground.open("gate")
    assert ground.outcome(job) == "succeeded"
    assert blame(ground, job) != (0, 1, 1)
    assert terminal.said("job_suspected") != []


def test_mutant_that_blames_what_had_not_started_is_caught(on_sqlite: Ground) -> None:
    ground = on_sqlite
    ground.terminal(threads=1, test_mutant="blame-all")
    _, others = a_killer_before_others(ground)
    assert {blame(ground, job)[0] for job in others} != {0}


# ── suspects ──────────────────────────────────────────────────────────────────────────────────


def test_a_suspect_runs_alone_in_a_process_of_its_own(ground: Ground) -> None:
    terminal = ground.terminal(threads=4)
    terminal.workers(1)
    suspects = ground.enqueue(hold.call("gate"), hold.call("gate"))
    crowd = ground.started(suspects[0])["pid"]
    ground.started(suspects[1])
    os.kill(crowd, signal.SIGKILL)
    until(lambda: sum(len(ground.starts(job)) for job in suspects) == 3, "the first of them apart")
    (alone,) = {start["pid"] for job in suspects for start in ground.starts(job)} - {crowd}
    (neighbour,) = ground.enqueue(hold.call("gate"))
    assert ground.started(neighbour)["pid"] not in (crowd, alone)
    states = {ground.row(job, "state") for job in suspects}
    assert states == {("running",), ("suspect",)}
    ground.open("gate")
    ground.all_done()
    assert {start["pid"] for job in suspects for start in ground.starts(job)[1:]} == {alone}
    until(lambda: alone not in terminal.children, "its leave, when there are none")
    assert {blame(ground, job) for job in suspects} == {(1, 0, 1)}
    assert blame(ground, neighbour) == (0, 0, 1)
    assert terminal.stop() == 0
    ground.check()


def test_another_supervisor_takes_up_suspects_with_its_beat(ground: Ground) -> None:
    """Who saw the death is gone. Those of queues that nobody serves wait."""
    (job,) = ground.enqueue(note.call(1))
    (other,) = ground.enqueue(note.using(queue="elsewhere").call(2))
    ground.database.rows("UPDATE duly_jobs SET state = 'suspect', deaths = 1")
    terminal = ground.terminal("--queues", "default", lease=LEASE)
    assert ground.outcome(job) == "succeeded"
    assert ground.row(other, "state") == ("suspect",)
    assert terminal.stop() == 0


def test_workoff_runs_suspects_too(ground: Ground) -> None:
    (job,) = ground.enqueue(note.call(1))
    ground.database.rows("UPDATE duly_jobs SET state = 'suspect', deaths = 2")
    assert ground.terminal(command="workoff").ended() == 0
    assert ground.entry(job, "outcome", "deaths") == ("succeeded", 2)


def test_a_suspect_past_its_time_expires(ground: Ground) -> None:
    (job,) = ground.enqueue(note.using(expires_in=timedelta(seconds=0.2)).call(1))
    ground.database.rows("UPDATE duly_jobs SET state = 'suspect', deaths = 1")
    pause(0.3)
    terminal = ground.terminal(lease=LEASE)
    assert ground.outcome(job) == "expired"
    assert ground.starts(job) == []
    assert terminal.stop() == 0


def test_a_job_that_kills_workers_does_not_hold_up_the_others(
    ground: Ground, record_property: Record
) -> None:
    """While it is tried three times, others are enqueued, and end; not one of them is blamed."""
    terminal = ground.terminal(processes=2)
    terminal.workers(2)
    (killer,) = ground.enqueue(leave.call("gate"))
    ground.started(killer)
    ground.open("gate")
    others: list[str] = []
    while ground.entry(killer, "outcome") is None:
        (one,) = ground.enqueue(note.call(len(others)))
        others.append(one)
        assert ground.outcome(one) == "succeeded"
    ground.all_done()
    assert ground.entry(killer, "outcome", "deaths") == ("failed", 3)
    assert {blame(ground, job)[0] for job in others} <= {0, 1}, "one may have begun beside its first try"
    assert sum(blame(ground, job)[0] for job in others) <= 1
    assert terminal.stop() == 0
    ground.check()
    figures(record_property, meanwhile=len(others))


@pytest.mark.skipif(not LONG, reason="measures throughput: DULY_TEST_FAULTS=long")
def test_throughput_of_the_others_stays_above_80_percent(ground: Ground, record_property: Record) -> None:
    """Jobs of 5 ms for ten seconds, with a killer among them, against a run without."""

    def run(terminal: Terminal, *, killers: int) -> float:
        before = int(ground.database.rows("SELECT count(*) FROM duly_executions")[0][0])
        ground.enqueue(*(labor.call(0.005) for _ in range(20_000)))
        began = time.monotonic()
        pause(1)
        ground.enqueue(*(die.using(priority=-1).call("SIGSEGV") for _ in range(killers)))
        pause(9)
        done = int(ground.database.rows("SELECT count(*) FROM duly_executions")[0][0]) - before
        assert ground.unfinished(), "all were done before the time was over: this run shows nothing"
        seconds = time.monotonic() - began
        ground.app.manage.clear()
        ground.all_done()
        terminal.stop()
        return done / seconds

    calm = run(ground.terminal(processes=2), killers=0)
    beset = run(ground.terminal(processes=2), killers=1)
    figures(record_property, calm=calm, beset=beset, share=beset / calm)
    assert beset > 0.8 * calm
