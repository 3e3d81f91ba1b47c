"""The protocol, rule by rule, as functions of a scene.

Each holds on a sound store (the tests beside this file call them), and each is seen to fail on a store
that breaks its rule (``test_mutants.py``).
"""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Any

import pytest

from duly.errors import LeaseLost
from duly.model.job import ClaimedJob
from duly.model.report import Report
from duly.model.states import State
from duly.store.rescue import Taken
from tests.store.scene import HOUR, Scene, Worker, failed, new_job, now, released, retried, snoozed, succeeded

# ── claims ────────────────────────────────────────────────────────────────────────────────────


def check_nothing_is_claimed_before_run_at(scene: Scene) -> None:
    early, due = scene.enqueue(run_at=now() + HOUR), scene.enqueue()
    assert [job.id for job in scene.worker().claim()] == [due.id]
    row = scene.row(early.id)
    assert row is not None
    assert (row["state"], row["claim"], row["worker"]) == ("available", 0, None)


def check_nothing_is_claimed_after_expires_at(scene: Scene) -> None:
    late, sound = scene.enqueue(), scene.enqueue()
    scene.alter(late.id, expires_at=now() - timedelta(seconds=1))
    assert [job.id for job in scene.worker().claim()] == [sound.id]


def check_several_queues_obey_the_clock_too(scene: Scene) -> None:
    early = scene.enqueue(queue="a", run_at=now() + HOUR)
    late = scene.enqueue(queue="b")
    scene.alter(late.id, expires_at=now() - timedelta(seconds=1))
    due = scene.enqueue(queue="b")
    assert [job.id for job in scene.worker().claim(10, "a", "b")] == [due.id]
    assert scene.row(early.id)["claim"] == 0  # type: ignore[index]


def check_a_worker_whose_row_is_gone_is_given_nothing(scene: Scene) -> None:
    job, worker = scene.enqueue(), scene.worker()
    worker.die()
    for queues in (("default",), ("default", "other")):
        reply = worker.exchange(queues=queues, limit=10)
        assert reply.claimed == []
        assert not reply.exchanged.alive
    row = scene.row(job.id)
    assert row is not None
    assert (row["state"], row["claim"]) == ("available", 0)
    assert scene.worker().exchange().exchanged.alive


def check_claim_numbers_only_rise(scene: Scene) -> None:
    job, claims = scene.enqueue(), []
    ways = [released, lambda j: retried(j, timedelta(0)), lambda j: snoozed(j, timedelta(0)), None, released]
    for way in ways:
        worker = scene.worker()
        held = worker.claim_one()
        claims.append(held.claim)
        if way is None:
            worker.die()
            assert scene.rescue() == [job.id]
        else:
            worker.exchange(way(held))
        row = scene.row(job.id)
        assert row is not None
        assert row["claim"] == held.claim
    assert claims == [1, 2, 3, 4, 5]


def check_given_back_lost_reply_and_repeated_release_do_not_give_one_job_to_two(scene: Scene) -> None:
    """A worker releases, does not read the reply, claims the job again, and repeats the release."""
    scene.enqueue()
    first, second = scene.worker(), scene.worker()
    held = first.claim_one()
    first.exchange(released(held))  # committed; the reply was lost
    held_again = first.claim_one()
    first.exchange(released(held))  # the repeated release, of the claim before
    assert second.claim() == []
    assert scene.row(held.id)["worker"] == first.name  # type: ignore[index]
    assert first.exchange(succeeded(held_again)).lost == set()
    assert scene.outcome(held.id) == "succeeded"


# ── the fence ─────────────────────────────────────────────────────────────────────────────────


def check_an_old_claim_is_lost_and_changes_nothing(scene: Scene) -> None:
    scene.enqueue()
    worker = scene.worker()
    old = worker.claim_one()
    worker.exchange(released(old))
    held = worker.claim_one()
    before = scene.everything()
    for report in (succeeded(old), failed(old), retried(old)):
        assert worker.exchange(report).lost == {old.id}
        assert scene.everything() == before
    assert worker.exchange(snoozed(old), released(old)).lost == set()  # loses nothing
    assert scene.everything() == before
    assert worker.exchange(succeeded(held)).lost == set()


def check_another_worker_is_lost_and_changes_nothing(scene: Scene) -> None:
    _, held = scene.running()
    other = scene.worker()
    before = scene.everything()
    for report in (succeeded(held), failed(held), retried(held), snoozed(held), released(held)):
        other.exchange(report)
        assert scene.everything() == before
    for report in (succeeded(held), failed(held), retried(held)):
        assert other.exchange(report).lost == {held.id}


def check_a_woken_worker_cannot_finish_what_was_rescued(scene: Scene) -> None:
    worker, held = scene.running()
    worker.die()
    assert scene.rescue() == [held.id]
    before = scene.everything()
    for report in (succeeded(held), failed(held), retried(held)):
        assert worker.exchange(report).lost == {held.id}
        assert scene.everything() == before
    with pytest.raises(LeaseLost), scene.frozen() as connection:
        worker.finish_within(connection, held)
    assert scene.everything() == before


def check_a_transactional_finish_needs_its_claim(scene: Scene) -> None:
    scene.enqueue()
    worker = scene.worker()
    old = worker.claim_one()
    worker.exchange(released(old))
    held = worker.claim_one()
    with pytest.raises(LeaseLost), scene.frozen() as connection:
        worker.finish_within(connection, old)
    with scene.store.writing() as connection:
        worker.finish_within(connection, held)
    assert scene.outcome(held.id) == "succeeded"


def check_a_transactional_finish_refuses_when_expired(scene: Scene) -> None:
    worker, held = scene.running()
    scene.alter(held.id, expires_at=now() - timedelta(seconds=1))
    with pytest.raises(LeaseLost), scene.frozen() as connection:
        worker.finish_within(connection, held)
    assert scene.outcome(held.id) is None


def check_a_transactional_finish_refuses_what_is_in_the_ledger(scene: Scene) -> None:
    worker, held = scene.running()
    row = scene.row(held.id)
    worker.exchange(succeeded(held))
    scene.put_back(row)
    before = scene.ended(held.id)
    with pytest.raises(LeaseLost), scene.frozen() as connection:
        worker.finish_within(connection, held)
    assert scene.ended(held.id) == before


def check_a_repeated_exchange_is_not_lost_and_writes_nothing_twice(scene: Scene) -> None:
    scene.enqueue_many(4)
    worker = scene.worker()
    one, two, three, four = worker.claim()
    reports = (succeeded(one), failed(two), retried(three), snoozed(four))
    assert worker.exchange(*reports).lost == set()
    before = scene.everything()
    assert worker.exchange(*reports).lost == set()
    assert scene.everything() == before
    assert [scene.outcome(job.id) for job in (one, two, three, four)] == ["succeeded", "failed", None, None]
    assert len(scene.attempts(two.id)) == len(scene.attempts(three.id)) == 1
    assert scene.attempts(four.id) == []


# ── replay ────────────────────────────────────────────────────────────────────────────────────


def check_a_row_put_back_after_it_ended_is_removed_and_never_handed_out(scene: Scene) -> None:
    job = scene.enqueue()
    row = scene.row(job.id)
    worker = scene.worker()
    worker.exchange(succeeded(worker.claim_one()))
    before = scene.ended(job.id)
    for queues in (("default",), ("default", "other")):
        scene.put_back(row)
        fresh = scene.enqueue()
        reply = worker.exchange(queues=queues, limit=10)
        assert reply.ids == [fresh.id]
        assert reply.replayed == [job.id]
        assert scene.row(job.id) is None
        worker.exchange(succeeded(reply.claimed[0]))
    assert scene.ended(job.id) == before
    assert scene.audited() == [(worker.name, "replayed row removed", job.id)] * 2


def check_a_ledger_conflict_at_the_finish_never_fails_the_batch(scene: Scene) -> None:
    scene.enqueue_many(4)
    worker = scene.worker()
    held = worker.claim()
    rows = [scene.row(job.id) for job in held]
    worker.exchange(succeeded(held[0], b"first"), failed(held[1]))
    scene.put_back(rows[0])
    scene.put_back(rows[1])
    before = [scene.ended(job.id) for job in held[:2]]
    reply = worker.exchange(
        succeeded(held[0], b"second"), failed(held[1], "again"), succeeded(held[2]), failed(held[3])
    )
    assert reply.lost == set()
    assert [scene.ended(job.id) for job in held[:2]] == before
    assert [scene.outcome(job.id) for job in held[2:]] == ["succeeded", "failed"]
    assert scene.count() == 0


# ── enqueue again ─────────────────────────────────────────────────────────────────────────────


def check_an_id_that_ends_between_the_look_and_the_insert_is_not_inserted(scene: Scene) -> None:
    """PostgreSQL: the job leaves the jobs table after the first look at the ledger."""
    job = scene.enqueue()
    worker = scene.worker()
    held = worker.claim_one()

    with scene.store.engine.connect() as connection:
        scene.store.dialect.begin(connection)

        def end_it(number: int, _: str) -> None:
            if number == 1:
                worker.exchange(succeeded(held))

        with scene.hook(connection, end_it):
            stored = scene.store.jobs.insert_again(connection, [job])
        connection.commit()
    assert scene.outcome(job.id) == "succeeded"
    assert scene.row(job.id) is None
    assert stored == {job.id: (job.digest, job.key_id)}


# ── rescue ────────────────────────────────────────────────────────────────────────────────────


def check_only_rows_of_dead_workers_are_rescued(scene: Scene) -> None:
    alive, held = scene.running()
    dead, lost = scene.running()
    dead.die()
    assert scene.rescue() == [lost.id]
    assert scene.rescue() == []
    row, spared = scene.row(lost.id), scene.row(held.id)
    assert row is not None
    assert spared is not None
    assert (row["state"], row["worker"], row["rescues"], row["claim"]) == ("available", None, 1, lost.claim)
    assert (spared["state"], spared["worker"], spared["rescues"]) == ("running", alive.name, 0)


def check_the_judge_is_never_dead(scene: Scene) -> None:
    worker, _ = scene.running()
    scene.turn_beat(worker, -HOUR)
    assert scene.rescue(judge=worker.name) == []


def check_rescue_passes_over_rows_that_a_frozen_transaction_holds(scene: Scene) -> None:
    """PostgreSQL: a transactional task that was frozen just after its fence must not stop the others' rescue."""
    scene.enqueue_many(2)
    worker = scene.worker()
    frozen, free = worker.claim()
    with scene.frozen() as connection:
        worker.finish_within(connection, frozen)
        worker.die()
        with scene.store.line(lock=0.3, statement=5, idle=30).transaction() as line:
            rescued = scene.store.rescue.offer_again(line, scene.store.rescue.orphaning_workers(line))
        assert [row.id for row in rescued.rows] == [free.id]
    assert scene.rescue() == [frozen.id]


RENDEZVOUS = 4711
"""An advisory lock at which a mutant waits between its snapshot and its row locks."""


def check_a_worker_that_registers_meanwhile_is_not_rescued(scene: Scene) -> None:
    """PostgreSQL: one rescuer looks; another offers the job again, and a new worker registers and claims it."""
    dead, held = scene.running()
    dead.die()
    with scene.store.engine.connect() as gate:
        gate.exec_driver_sql(f"SELECT pg_advisory_lock({RENDEZVOUS})")
        slow = threading.Thread(target=scene.rescue, args=("slow",))
        slow.start()
        _wait_until_over_or_waiting(scene, slow)
        if slow.is_alive():
            with scene.store.writing() as connection:  # what offer_again does, past the mutant
                jobs = scene.store.tables.jobs
                connection.execute(jobs.update().values(state="available", worker=None, rescues=1))
        new = scene.worker()
        again = new.claim_one()
        gate.exec_driver_sql(f"SELECT pg_advisory_unlock({RENDEZVOUS})")
        slow.join()
        gate.rollback()
    assert again.id == held.id
    row = scene.row(held.id)
    assert row is not None
    assert (row["state"], row["worker"], row["claim"], row["rescues"]) == ("running", new.name, 2, 1)


def _wait_until_over_or_waiting(scene: Scene, thread: threading.Thread) -> None:
    deadline = time.monotonic() + 10
    with scene.store.engine.connect() as connection:
        while thread.is_alive() and time.monotonic() < deadline:
            waiting = connection.exec_driver_sql(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted "
                "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            ).scalar_one()
            connection.rollback()
            if waiting:
                return
            thread.join(0.005)


def check_of_a_worker_that_we_killed_only_what_had_started_counts_a_rescue(scene: Scene) -> None:
    scene.enqueue_many(3)
    worker = scene.worker()
    ran, waited, before = worker.claim()
    worker.die()
    started = {ran.id: ran.claim, before.id: before.claim - 1}
    with scene.store.writing() as connection:
        scene.store.rescue.offer_again(connection, [worker.name], started=started)
    rows: Any = {job.id: scene.row(job.id) for job in (ran, waited, before)}
    assert {row["state"] for row in rows.values()} == {"available"}
    assert [rows[job.id]["rescues"] for job in (ran, waited, before)] == [1, 0, 0]
    assert {row["deaths"] for row in rows.values()} == {0}


# ── deaths ────────────────────────────────────────────────────────────────────────────────────


def mourn(scene: Scene, worker: Worker, *started: ClaimedJob, cause: str = "killed by SIGSEGV") -> Taken:
    """As a supervisor does, when the process has died by itself."""
    worker.die()
    with scene.store.writing() as connection:
        box = {job.id: job.claim for job in started}
        return scene.store.rescue.mourn(connection, [worker.name], box, cause)


def claim_suspect(scene: Scene, worker: Worker, *reports: Report) -> list[ClaimedJob]:
    with scene.store.writing() as connection:
        reply, _ = scene.store.suspects.exchange(connection, worker.name, reports, ("default",), 5)
    return reply.claimed


def check_only_what_had_started_is_blamed(scene: Scene) -> None:
    scene.enqueue_many(3)
    worker = scene.worker()
    ran, waited, before = worker.claim()
    taken = mourn(scene, worker, ran, before._replace(claim=before.claim - 1))
    assert [row.id for row in taken.suspects] == [ran.id]
    rows: Any = {job.id: scene.row(job.id) for job in (ran, waited, before)}
    assert [rows[job.id]["state"] for job in (ran, waited, before)] == ["suspect", "available", "available"]
    assert [rows[job.id]["deaths"] for job in (ran, waited, before)] == [1, 0, 0]
    assert {(row["rescues"], row["attempt"], row["worker"]) for row in rows.values()} == {(0, 0, None)}
    assert [len(scene.attempts(job.id)) for job in (ran, waited, before)] == [1, 0, 0]


def check_the_third_death_ends_the_job_as_failed(scene: Scene) -> None:
    job, worker = scene.enqueue(), scene.worker()
    mourn(scene, worker, worker.claim_one())
    for count in (2, 3):
        row: Any = scene.row(job.id)
        assert (row["state"], row["deaths"]) == ("suspect", count - 1)
        worker = scene.worker()
        (held,) = claim_suspect(scene, worker)
        mourn(scene, worker, held, cause="exit status 7")
    assert scene.row(job.id) is None
    ended: Any = scene.ended(job.id)
    assert (ended["outcome"], ended["cause"]) == (
        "failed",
        "it killed its worker 3 times; last: exit status 7",
    )
    assert (ended["deaths"], ended["rescues"], ended["attempts"], ended["claim"]) == (3, 0, 1, 3)
    assert [row["cause"] for row in scene.attempts(job.id)] == ["killed by SIGSEGV", *["exit status 7"] * 2]


def check_suspects_are_claimed_apart_and_one_at_a_time(scene: Scene) -> None:
    scene.enqueue_many(3)
    worker = scene.worker()
    mourn(scene, worker, *worker.claim())
    ordinary, careful = scene.worker(), scene.worker()
    assert ordinary.claim() == []
    (first,) = claim_suspect(scene, careful)
    assert first.claim == 2
    assert claim_suspect(scene, careful) == []
    other = scene.worker()
    (second,) = claim_suspect(scene, other)
    assert second.id != first.id
    (third,) = claim_suspect(scene, careful, succeeded(first))
    assert len({first.id, second.id, third.id}) == 3
    assert scene.outcome(first.id) == "succeeded"


def check_the_eleventh_rescue_ends_the_job_as_failed(scene: Scene) -> None:
    job = scene.enqueue()
    for count in range(1, 12):
        worker = scene.worker()
        worker.claim_one()
        worker.die()
        assert scene.rescue() == [job.id]
        row = scene.row(job.id)
        if count < 11:
            assert row is not None
            assert row["rescues"] == count
    assert scene.row(job.id) is None
    ended = scene.ended(job.id)
    assert ended is not None
    assert (ended["outcome"], ended["attempts"], ended["cause"]) == (
        "failed",
        0,
        "its worker was lost 11 times",
    )
    assert ended["envelope"] == job.envelope


# ── the database's clock ──────────────────────────────────────────────────────────────────────


def check_a_retry_that_could_only_come_after_expires_at_ends_expired(scene: Scene) -> None:
    worker, held = scene.running(expires_at=now() + timedelta(seconds=60))
    reply = worker.exchange(retried(held, timedelta(seconds=61)))
    assert reply.settled.expired == {held.id}
    assert reply.lost == set()
    ended: Any = scene.ended(held.id)
    assert (ended["outcome"], ended["attempts"]) == ("expired", 1)
    assert "could only come after expires_at" in ended["cause"]
    assert ended["envelope"] is None
    assert len(scene.attempts(held.id)) == 1
    assert worker.exchange(retried(held, timedelta(seconds=61))).lost == set()


def check_a_retry_is_timed_by_the_databases_clock(scene: Scene) -> None:
    worker, held = scene.running()
    before = scene.database_now()
    worker.exchange(retried(held, timedelta(seconds=6)))
    after = scene.database_now()
    row: Any = scene.row(held.id)
    assert before <= row["run_at"] - timedelta(seconds=6) <= after
    assert (row["state"], row["attempt"], row["claim"], row["worker"]) == (State.SCHEDULED, 1, 1, None)


def check_an_id_in_the_ledger_is_not_inserted_again(scene: Scene) -> None:
    worker, held = scene.running()
    job = new_job(id=held.id)
    worker.exchange(succeeded(held))
    assert scene.again(job) == {job.id: (job.digest, None)}
    assert scene.row(job.id) is None
    assert worker.claim() == []
