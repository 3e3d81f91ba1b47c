"""How attempts end: fenced by (id, worker, claim), written once, never failing their batch."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from duly.errors import LeaseLost
from duly.model.report import Ended, Lost, PutBack, Recorded
from duly.model.states import Outcome
from tests.store import checks
from tests.store.scene import HOUR, Scene, failed, now, released, retried, snoozed, succeeded


def test_a_success_moves_the_row_to_the_ledger(scene: Scene) -> None:
    job = scene.enqueue(
        principal="ann", queue="mail", priority=7, key_id="k1", trace="t" * 10, digest=b"\x00\xff" * 16
    )
    worker = scene.worker()
    (held,) = worker.claim(1, "mail")
    report = succeeded(held, b'{"r":1}')
    assert worker.exchange(report).lost == set()
    assert scene.row(job.id) is None
    ended: Any = scene.ended(job.id)
    assert ended.pop("ended_at") - now() < timedelta(seconds=2)
    assert ended == {
        "job_id": job.id, "origin": job.origin, "task": job.task, "queue": "mail", "fingerprint": job.fingerprint,
        "priority": 7, "outcome": "succeeded", "cause": None, "worker": worker.name, "claim": 1, "attempts": 1,
        "deaths": 0, "rescues": 0, "enqueued_at": job.enqueued_at, "run_at": job.run_at,
        "started_at": report.started_at, "expires_at": job.expires_at, "principal": "ann", "digest": job.digest,
        "key_id": "k1", "result": b'{"r":1}', "envelope": None, "trace": "t" * 10,
    }  # fmt: skip


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.SUCCEEDED])
@pytest.mark.parametrize("counted", [True, False])
def test_other_ends_are_written_with_cause_and_keep_the_envelope_where_a_person_may_retry(
    scene: Scene, outcome: Outcome, counted: bool
) -> None:
    worker, held = scene.running()
    report = Ended(held.id, held.claim, outcome, "why", counted, started_at=now(), error=b'{"e":1}')
    worker.exchange(report)
    ended: Any = scene.ended(held.id)
    assert (ended["outcome"], ended["cause"], ended["attempts"]) == (outcome.value, "why", int(counted))
    assert ended["started_at"] == report.started_at
    keeps = outcome in {Outcome.FAILED, Outcome.UNCERTAIN, Outcome.REJECTED}
    assert ended["envelope"] == (held.envelope if keeps else None)
    assert [a["error"] for a in scene.attempts(held.id)] == ([b'{"e":1}'] if counted else [])
    assert scene.row(held.id) is None


def test_a_retry_uses_an_attempt_and_a_snooze_does_not(scene: Scene) -> None:
    scene.enqueue_many(2)
    worker = scene.worker()
    one, two = worker.claim()
    worker.exchange(retried(one), snoozed(two))
    rows: Any = [scene.row(job.id) for job in (one, two)]
    assert [(row["state"], row["attempt"], row["worker"]) for row in rows] == [
        ("scheduled", 1, None),
        ("scheduled", 0, None),
    ]
    (attempt,) = scene.attempts(one.id)
    assert (attempt["attempt"], attempt["claim"], attempt["worker"], attempt["cause"]) == (
        1, 1, worker.name, "ValueError",
    )  # fmt: skip


def test_a_retry_without_a_wait_is_available_at_once(scene: Scene) -> None:
    worker, held = scene.running()
    worker.exchange(retried(held, timedelta(0)))
    again = worker.claim_one()
    assert (again.id, again.claim, again.attempt) == (held.id, 2, 1)


def test_a_put_back_to_a_moment_comes_then_and_never_in_the_past(scene: Scene) -> None:
    scene.enqueue_many(2)
    worker = scene.worker()
    one, two = worker.claim()
    then = now() + HOUR
    worker.exchange(
        PutBack(one.id, one.claim, "Retry", counted=True, at=then),
        PutBack(two.id, two.claim, "Retry", counted=True, at=now() - HOUR),
    )
    rows: Any = [scene.row(job.id) for job in (one, two)]
    assert rows[0]["run_at"] == then
    assert rows[0]["state"] == "scheduled"
    assert rows[1]["state"] == "available"
    assert abs(rows[1]["run_at"] - now()) < timedelta(seconds=5)


def test_a_wait_beyond_all_calendars_ends_expired(scene: Scene) -> None:
    worker, held = scene.running()
    assert worker.exchange(retried(held, timedelta.max)).settled.expired == {held.id}
    assert scene.outcome(held.id) == "expired"


def test_a_mixed_batch_is_settled_whole(scene: Scene) -> None:
    scene.enqueue_many(6)
    worker = scene.worker()
    a, b, c, d, e, f = worker.claim()
    reply = worker.exchange(
        succeeded(a),
        failed(b),
        retried(c),
        snoozed(d),
        released(e),
        succeeded(f),
        queues=("default",),
        limit=10,
    )
    assert reply.lost == set()
    assert reply.ids == [e.id]
    assert scene.count() == 3
    assert scene.count("executions") == 3


def test_what_was_written_elsewhere_leaves_nothing_to_write(scene: Scene) -> None:
    worker, held = scene.running()
    before = scene.everything()
    assert worker.exchange(Recorded(held.id, held.claim), Lost(held.id, held.claim)).lost == set()
    assert scene.everything() == before


def test_five_hundred_and_one_outcomes_of_each_kind(scene: Scene) -> None:
    """More than one statement holds."""
    scene.enqueue_many(1503)
    worker = scene.worker()
    held = worker.claim(2000)
    reports = [make(job) for job, make in zip(held, (succeeded, failed, retried) * 501, strict=True)]
    assert worker.exchange(*reports).lost == set()
    assert worker.exchange(*reports).lost == set()
    with scene.store.reading() as connection:
        assert scene.store.ledger.outcomes(connection) == {"succeeded": 501, "failed": 501}
        assert scene.store.ledger.states(connection) == {"scheduled": 501}


@pytest.mark.parametrize("cause", ["nul \x00 inside", "lone \ud800 surrogate", "x" * 600, "grüße\n☃"])
def test_an_odd_cause_does_not_fail_the_batch(scene: Scene, cause: str) -> None:
    scene.enqueue_many(3)
    worker = scene.worker()
    one, two, three = worker.claim()
    worker.exchange(
        failed(one, cause), PutBack(two.id, two.claim, cause, counted=True, after=HOUR), succeeded(three)
    )
    assert scene.outcome(one.id) == "failed"
    assert scene.outcome(three.id) == "succeeded"
    assert len(scene.attempts(two.id)) == 1
    kept = scene.ended(one.id)["cause"]  # type: ignore[index]
    assert kept[:3] == cause[:3]
    assert len(kept) <= 500


# ── the fence ─────────────────────────────────────────────────────────────────────────────────


def test_an_old_claim_is_lost_and_changes_nothing(scene: Scene) -> None:
    checks.check_an_old_claim_is_lost_and_changes_nothing(scene)


def test_another_worker_is_lost_and_changes_nothing(scene: Scene) -> None:
    checks.check_another_worker_is_lost_and_changes_nothing(scene)


def test_a_woken_worker_cannot_finish_what_was_rescued(scene: Scene) -> None:
    checks.check_a_woken_worker_cannot_finish_what_was_rescued(scene)


def test_a_repeated_exchange_is_not_lost_and_writes_nothing_twice(scene: Scene) -> None:
    checks.check_a_repeated_exchange_is_not_lost_and_writes_nothing_twice(scene)


def test_a_repeated_release_or_put_back_does_nothing_the_second_time(scene: Scene) -> None:
    scene.enqueue_many(2)
    worker = scene.worker()
    one, two = worker.claim()
    worker.exchange(released(one), snoozed(two))
    before = scene.everything()
    assert worker.exchange(released(one), snoozed(two)).lost == set()
    assert scene.everything() == before


def test_one_outcome_handed_in_twice_in_a_batch_is_written_once(scene: Scene) -> None:
    scene.enqueue_many(2)
    worker = scene.worker()
    one, two = worker.claim()
    assert worker.exchange(succeeded(one), succeeded(one), failed(two), failed(two)).lost == set()
    assert scene.count("executions") == 2


def test_an_outcome_for_a_job_that_never_was_is_lost(scene: Scene) -> None:
    _, held = scene.running()
    worker = scene.worker()
    scene.alter(held.id, worker=worker.name)
    worker.exchange(succeeded(held))
    stranger = scene.enqueue()
    assert worker.exchange(checks.succeeded(held), succeeded(_as(held, stranger.id))).lost == {stranger.id}


def _as(held: Any, identity: Any) -> Any:

    return held._replace(id=identity)


def test_a_ledger_conflict_at_the_finish_never_fails_the_batch(scene: Scene) -> None:
    checks.check_a_ledger_conflict_at_the_finish_never_fails_the_batch(scene)


# ── the database's clock ──────────────────────────────────────────────────────────────────────


def test_a_retry_is_timed_by_the_databases_clock(scene: Scene) -> None:
    checks.check_a_retry_is_timed_by_the_databases_clock(scene)


def test_a_retry_that_could_only_come_after_expires_at_ends_expired(scene: Scene) -> None:
    checks.check_a_retry_that_could_only_come_after_expires_at_ends_expired(scene)


# ── transactional ─────────────────────────────────────────────────────────────────────────────


def test_a_transactional_finish_commits_with_the_tasks_own_writes(scene: Scene) -> None:
    worker, held = scene.running()
    with scene.store.writing() as connection:
        connection.exec_driver_sql("CREATE TABLE effects (job TEXT)")
    with scene.frozen() as connection:
        connection.exec_driver_sql("INSERT INTO effects VALUES ('undone')")
        worker.finish_within(connection, held)
    assert scene.outcome(held.id) is None
    assert scene.row(held.id) is not None
    with scene.store.writing() as connection:
        connection.exec_driver_sql("INSERT INTO effects VALUES ('done')")
        worker.finish_within(connection, held, b'{"r":1}')
    ended: Any = scene.ended(held.id)
    assert (ended["outcome"], ended["attempts"], ended["result"]) == ("succeeded", 1, b'{"r":1}')
    with scene.store.reading() as connection:
        assert connection.exec_driver_sql("SELECT job FROM effects").scalars().all() == ["done"]


def test_a_transactional_finish_refuses_the_second_time(scene: Scene) -> None:
    worker, held = scene.running()
    with scene.store.writing() as connection:
        worker.finish_within(connection, held)
    with pytest.raises(LeaseLost), scene.frozen() as connection:
        worker.finish_within(connection, held)
    assert worker.exchange(succeeded(held)).lost == set()  # the ledger knows it under this claim


def test_a_transactional_finish_needs_its_claim(scene: Scene) -> None:
    checks.check_a_transactional_finish_needs_its_claim(scene)


def test_a_transactional_finish_refuses_when_expired(scene: Scene) -> None:
    checks.check_a_transactional_finish_refuses_when_expired(scene)


def test_a_transactional_finish_refuses_what_is_in_the_ledger(scene: Scene) -> None:
    checks.check_a_transactional_finish_refuses_what_is_in_the_ledger(scene)
