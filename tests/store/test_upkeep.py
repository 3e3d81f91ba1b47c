"""What some worker does for all, what people do to jobs, and what people see."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from duly.model.states import Outcome, State
from tests.store.scene import HOUR, Scene, failed, new_job, now, retried, snoozed, succeeded


def due(scene: Scene) -> Any:
    with scene.store.reading() as connection:
        return scene.store.upkeep.look(connection)


# ── promote, expire, look ─────────────────────────────────────────────────────────────────────


def test_promotion_takes_what_is_due_and_nothing_else(scene: Scene) -> None:
    ready = [scene.enqueue(state=State.SCHEDULED) for _ in range(3)]
    later = scene.enqueue(state=State.SCHEDULED, run_at=now() + HOUR)
    worker = scene.worker()
    assert worker.claim() == []
    assert scene.upkeep() == (3, [])
    assert scene.upkeep() == (0, [])
    assert [job.id for job in worker.claim()] == [job.id for job in ready]
    assert scene.row(later.id)["state"] == "scheduled"  # type: ignore[index]


def test_promotion_and_expiry_go_in_batches_the_longest_due_first(scene: Scene) -> None:
    jobs = [scene.enqueue(state=State.SCHEDULED, run_at=now() - timedelta(seconds=n)) for n in range(1, 6)]
    with scene.store.writing() as connection:
        assert scene.store.upkeep.promote(connection, limit=2) == 2
    assert [scene.row(job.id)["state"] for job in jobs] == ["scheduled"] * 3 + ["available"] * 2  # type: ignore[index]
    for n, job in enumerate(jobs):
        scene.alter(job.id, expires_at=now() - timedelta(seconds=n + 1))
    with scene.store.writing() as connection:
        first = scene.store.upkeep.expire(connection, limit=3)
        rest = scene.store.upkeep.expire(connection, limit=3)
    assert [row.id for row in (*first, *rest)] == [job.id for job in reversed(jobs)]


def test_waiting_jobs_expire_and_running_ones_do_not(scene: Scene) -> None:
    worker, held = scene.running()
    available, scheduled = scene.enqueue(), scene.enqueue(state=State.SCHEDULED, run_at=now() + HOUR)
    sound = scene.enqueue()
    for job in (held, available, scheduled):
        scene.alter(job.id, expires_at=now() - timedelta(seconds=1))
    assert {*scene.upkeep()[1]} == {available.id, scheduled.id}
    for job in (available, scheduled):
        ended: Any = scene.ended(job.id)
        assert (ended["outcome"], ended["cause"], ended["attempts"]) == (
            "expired",
            "not started before expires_at",
            0,
        )
        assert ended["envelope"] is None
    assert scene.row(held.id)["state"] == "running"  # type: ignore[index]
    assert scene.row(sound.id) is not None
    assert worker.exchange(succeeded(held)).lost == set()


def test_the_look_says_what_is_due_and_how_long_until_the_next(scene: Scene) -> None:
    assert due(scene) == type(due(scene))(promote=False, expire=False, next_due=None)
    later = scene.enqueue(state=State.SCHEDULED, run_at=now() + HOUR)
    found = due(scene)
    assert (found.promote, found.expire) == (False, False)
    assert HOUR - timedelta(seconds=10) < found.next_due <= HOUR
    scene.alter(later.id, run_at=now() - timedelta(seconds=2))
    found = due(scene)
    assert (found.promote, found.expire) == (True, False)
    assert found.next_due < timedelta(0)
    scene.alter(later.id, expires_at=now() - timedelta(seconds=1))
    assert due(scene).expire is True


def test_locked_rows_are_passed_over_by_promotion_expiry_and_clearing(server: Scene) -> None:
    scene = server
    jobs = [scene.enqueue(state=State.SCHEDULED) for _ in range(4)]
    table = scene.store.tables.jobs
    with scene.frozen() as frozen:
        frozen.execute(table.select().where(table.c.id == jobs[0].id).with_for_update())
        assert scene.upkeep() == (3, [])
        for job in jobs[1:]:
            scene.alter(job.id, expires_at=now() - timedelta(seconds=1))
        assert len(scene.upkeep()[1]) == 3
        with scene.store.writing() as connection:
            assert scene.store.jobs.clear(connection, queue=None, task=None) == 0
    assert scene.count() == 1


def test_waiting_queues_names_each_queue_with_available_jobs_once(scene: Scene) -> None:
    for queue in ("b", "a", "b", "Z", "a.b-c_9"):
        scene.enqueue(queue=queue)
    scene.enqueue(queue="later", state=State.SCHEDULED, run_at=now() + HOUR)
    scene.enqueue(queue="taken")
    scene.worker().claim(10, "taken")
    with scene.store.reading() as connection:
        assert sorted(scene.store.upkeep.waiting_queues(connection)) == ["Z", "a", "a.b-c_9", "b"]


def test_no_queue_waits_in_an_empty_table(scene: Scene) -> None:
    with scene.store.reading() as connection:
        assert scene.store.upkeep.waiting_queues(connection) == []


# ── cancel, clear ─────────────────────────────────────────────────────────────────────────────


def cancel(scene: Scene, job: Any) -> bool:
    with scene.store.writing() as connection:
        return scene.store.jobs.cancel(connection, job, "no longer wanted")


def test_a_waiting_job_is_cancelled_once_and_a_running_or_ended_one_is_not(scene: Scene) -> None:
    available, scheduled = (
        scene.enqueue(priority=1),
        scene.enqueue(state=State.SCHEDULED, run_at=now() + HOUR),
    )
    worker, held = scene.running(priority=0)
    assert [cancel(scene, job.id) for job in (available, scheduled, held)] == [True, True, False]
    assert [cancel(scene, job.id) for job in (available, scheduled)] == [False, False]
    assert cancel(scene, uuid4()) is False
    for job in (available, scheduled):
        ended: Any = scene.ended(job.id)
        assert (ended["outcome"], ended["cause"], ended["envelope"]) == (
            "cancelled",
            "no longer wanted",
            None,
        )
    worker.exchange(succeeded(held))
    assert cancel(scene, held.id) is False
    assert scene.outcome(held.id) == "succeeded"


def clear(scene: Scene, **what: Any) -> int:
    with scene.store.writing() as connection:
        return scene.store.jobs.clear(connection, **({"queue": None, "task": None} | what))


def test_clear_ends_waiting_jobs_of_a_queue_or_a_task_or_all(scene: Scene) -> None:
    for queue in "ab":
        for task in "xy":
            scene.enqueue(queue=queue, task=task)
            scene.enqueue(queue=queue, task=task, state=State.SCHEDULED, run_at=now() + HOUR)
    _, held = scene.running()
    assert clear(scene, queue="a", task="x") == 2
    assert clear(scene, queue="a") == 2
    assert clear(scene, task="x") == 2
    assert clear(scene, limit=1) == 1
    assert clear(scene) == 1
    assert clear(scene) == 0
    assert scene.row(held.id) is not None
    with scene.store.reading() as connection:
        assert scene.store.ledger.outcomes(connection) == {"cancelled": 8}


def test_a_cancelled_job_is_not_handed_out_by_a_claim_that_comes_meanwhile(server: Scene) -> None:
    scene = server
    job, worker = scene.enqueue(), scene.worker()
    with scene.store.writing() as connection:
        assert scene.store.jobs.cancel(connection, job.id, "stop")
        assert worker.claim() == []
    assert worker.claim() == []
    assert scene.outcome(job.id) == "cancelled"


def test_a_plain_job_among_sealed_ones_is_found(scene: Scene) -> None:
    def plain() -> bool:
        with scene.store.reading() as connection:
            return scene.store.jobs.plain_jobs(connection)

    assert not plain()
    scene.enqueue(key_id="k1")
    assert not plain()
    scene.enqueue()
    assert plain()


# ── what people see ───────────────────────────────────────────────────────────────────────────


def test_the_status_follows_a_job_from_its_row_to_its_ledger_row(scene: Scene) -> None:
    job = scene.enqueue(state=State.SCHEDULED, principal="ann")
    status: Any = scene.status(job.id)
    assert (status.state, status.outcome, status.attempts, status.worker) == (State.SCHEDULED, None, 0, None)
    assert status.binding == job.binding
    scene.upkeep()
    worker = scene.worker()
    held = worker.claim_one()
    status = scene.status(job.id)
    assert (status.state, status.worker, status.claim) == (State.RUNNING, worker.name, 1)
    worker.exchange(retried(held, timedelta(0)))
    status = scene.status(job.id)
    assert (status.state, status.attempts, status.error) == (State.AVAILABLE, 1, b'{"e":1}')
    held = worker.claim_one()
    worker.exchange(succeeded(held, b'{"r":2}'))
    status = scene.status(job.id)
    assert (status.state, status.outcome, status.attempts) == (None, Outcome.SUCCEEDED, 2)
    assert (status.result, status.error, status.envelope) == (b'{"r":2}', b'{"e":1}', None)
    assert status.ended_at is not None
    assert scene.status(uuid4()) is None


def test_the_status_shows_the_error_of_the_last_attempt(scene: Scene) -> None:
    job, worker = scene.enqueue(), scene.worker()
    for n in range(3):
        held = worker.claim_one()
        report = (retried(held, timedelta(0)), failed(held))[n == 2]
        worker.exchange(
            type(report)(**{f: getattr(report, f) for f in report.__slots__} | {"error": b"%d" % n})
        )
    assert scene.status(job.id).error == b"2"  # type: ignore[union-attr]
    assert [(a["attempt"], a["claim"], a["error"]) for a in scene.attempts(job.id)] == [
        (1, 1, b"0"), (2, 2, b"1"), (3, 3, b"2"),
    ]  # fmt: skip


def test_the_overview_counts_states_outcomes_and_troubles(scene: Scene) -> None:
    ledger = scene.store.ledger
    with scene.store.reading() as connection:
        assert (ledger.states(connection), ledger.outcomes(connection)) == ({}, {})
        assert ledger.troubled(connection) == (0, 0)
        assert list(ledger.queues(connection)) == []
    scene.enqueue_many(4)
    worker = scene.worker()
    one, two, three, _ = worker.claim()
    worker.exchange(succeeded(one), retried(two, timedelta(0)), snoozed(three))
    worker.exchange(failed(worker.claim_one()))
    worker.die()
    scene.rescue()
    worker = scene.worker()
    worker.exchange(succeeded(worker.claim_one()))
    scene.enqueue(queue="mail")
    with scene.store.reading() as connection:
        assert ledger.states(connection) == {"scheduled": 1, "available": 1}
        assert ledger.outcomes(connection) == {"succeeded": 2, "failed": 1}
        assert ledger.troubled(connection) == (1, 1)
        queues = {row.queue: row for row in ledger.queues(connection)}
    assert {q: (r.scheduled, r.available, r.running) for q, r in queues.items()} == {
        "default": (1, 0, 0), "mail": (0, 1, 0),
    }  # fmt: skip
    assert timedelta(0) < queues["default"].first - queues["default"].now < timedelta(seconds=61)
    assert timedelta(0) < queues["mail"].now - queues["mail"].first < timedelta(seconds=30)


def test_workers_are_listed_the_oldest_first_with_the_databases_time(scene: Scene) -> None:
    names = [scene.worker().name for _ in range(3)]
    with scene.store.reading() as connection:
        rows = scene.store.workers.all(connection)
    assert [row.id for row in rows] == names
    assert all(abs(row.now - now()) < timedelta(seconds=5) for row in rows)
    assert all(row.now >= row.beat_at >= row.started_at for row in rows)


def test_held_by_names_the_running_rows_of_one_worker(scene: Scene) -> None:
    scene.enqueue_many(3)
    one, two = scene.worker(), scene.worker()
    mine = one.claim(2)
    two.claim(1)
    one.exchange(succeeded(mine[0]))
    with scene.store.reading() as connection:
        assert scene.store.jobs.held_by(connection, one.name) == {mine[1].id: 1}
        assert scene.store.jobs.held_by(connection, "nobody") == {}


def test_the_audit_log_notes_who_did_what(scene: Scene) -> None:
    jobs = [new_job().id, None]
    with scene.store.writing() as connection:
        scene.store.audit.note(connection, "ann", "cleared", jobs, "queue=mail")
        scene.store.audit.note(connection, "ann", "nothing", [])
    assert scene.audited() == [("ann", "cleared", jobs[0]), ("ann", "cleared", None)]


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_is_stored_as_its_word(scene: Scene, outcome: Outcome) -> None:
    from duly.model.report import Ended

    worker, held = scene.running()
    worker.exchange(Ended(held.id, held.claim, outcome, "c", counted=True))
    assert scene.outcome(held.id) == outcome.value
    assert scene.status(held.id).outcome is outcome  # type: ignore[union-attr]
