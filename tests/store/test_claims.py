"""What a claim hands out: the right jobs, in their order, each to one worker."""

from __future__ import annotations

from datetime import timedelta

import pytest

from duly.clock import Clock
from duly.model.job import ClaimedJob
from duly.store import Store
from tests.store import checks
from tests.store.scene import HOUR, Scene, new_job, now, released, succeeded


def test_lower_priority_first_then_run_at_then_id(scene: Scene) -> None:
    moment = now()
    jobs = [
        new_job(priority=priority, run_at=moment - timedelta(seconds=ago))
        for priority, ago in ((5, 3), (0, 2), (0, 3), (-5, 1), (0, 2))
    ]
    with scene.store.writing() as connection:
        scene.store.jobs.insert_many(connection, jobs)
    expected = [job.id for job in sorted(jobs, key=lambda job: (job.priority, job.run_at, job.id))]
    worker = scene.worker()
    assert [job.id for job in worker.claim(2)] == expected[:2]
    assert [job.id for job in worker.claim()] == expected[2:]


def test_order_holds_over_several_queues(scene: Scene) -> None:
    jobs = [scene.enqueue(queue=queue, priority=priority) for queue in "abc" for priority in (3, 1, 2)]
    expected = [job.id for job in sorted(jobs, key=lambda job: (job.priority, job.run_at, job.id))]
    worker = scene.worker()
    taken = [job.id for job in worker.claim(4, "a", "b", "c")]
    assert taken == expected[:4]
    assert [job.id for job in worker.claim(10, "a", "b", "c")] == expected[4:]


def test_only_the_named_queues_are_claimed_from(scene: Scene) -> None:
    job, _ = scene.enqueue(queue="mail"), scene.enqueue(queue="other")
    worker = scene.worker()
    assert worker.claim(10, "default") == []
    assert worker.claim(10, "mail", "mail2")[0].id == job.id


def test_no_queues_or_a_limit_of_nothing_claims_nothing_but_records(scene: Scene) -> None:
    scene.enqueue_many(2)
    worker = scene.worker()
    held = worker.claim_one()
    assert worker.exchange(queues=(), limit=10).claimed == []
    assert worker.exchange(succeeded(held), queues=("default",), limit=0).claimed == []
    assert worker.exchange(succeeded(held), queues=(), limit=0).claimed == []
    assert scene.outcome(held.id) == "succeeded"


def test_a_claim_carries_the_row(scene: Scene) -> None:
    job = scene.enqueue(principal="ann", envelope=b'{"v":1,"a":{"x":1}}', queue="mail", priority=-3)
    (held,) = scene.worker().claim(1, "mail")
    assert held == ClaimedJob(
        job.id, job.origin, job.task, "mail", -3, 1, 0, 0, job.run_at, job.expires_at, job.enqueued_at, "ann",
        job.envelope,
    )  # fmt: skip
    row = scene.row(job.id)
    assert row is not None
    assert (row["state"], row["started_at"]) == ("running", None)


def test_nothing_is_claimed_before_run_at(scene: Scene) -> None:
    checks.check_nothing_is_claimed_before_run_at(scene)


def test_nothing_is_claimed_after_expires_at(scene: Scene) -> None:
    checks.check_nothing_is_claimed_after_expires_at(scene)


def test_several_queues_obey_the_clock_too(scene: Scene) -> None:
    checks.check_several_queues_obey_the_clock_too(scene)


def test_a_machine_with_a_wrong_clock_claims_by_the_databases(scene: Scene) -> None:
    class Tomorrow(Clock):
        def wall(self):  # type: ignore[no-untyped-def]
            return super().wall() + timedelta(days=1)

    early, due = scene.enqueue(run_at=now() + HOUR), scene.enqueue()
    turned = Scene(Store(scene.store.engine, scene.store.names, Tomorrow()))
    turned.store.open()
    try:
        assert [job.id for job in turned.worker().claim()] == [due.id]
        assert turned.upkeep() == (0, [])
        assert abs(turned.store.clock.now() - now()) < timedelta(seconds=5)
    finally:
        for name in list(lives.held if (lives := getattr(turned.store.dialect, "lives", None)) else ()):
            turned.store.dialect.drop_liveness(name)
    assert scene.row(early.id) is not None


def test_a_worker_whose_row_is_gone_is_given_nothing(scene: Scene) -> None:
    checks.check_a_worker_whose_row_is_gone_is_given_nothing(scene)


def test_claim_numbers_only_rise(scene: Scene) -> None:
    checks.check_claim_numbers_only_rise(scene)


def test_an_attempt_given_back_a_lost_reply_and_a_repeated_release_do_not_give_one_job_to_two_workers(
    scene: Scene,
) -> None:
    checks.check_given_back_lost_reply_and_repeated_release_do_not_give_one_job_to_two(scene)


def test_a_row_put_back_after_it_ended_is_removed_and_never_handed_out(scene: Scene) -> None:
    checks.check_a_row_put_back_after_it_ended_is_removed_and_never_handed_out(scene)


def test_hundreds_of_queues_are_claimed_in_one_exchange(scene: Scene) -> None:
    """A queue for each tenant, say."""
    jobs = [new_job(queue=f"tenant-{n}", priority=-n) for n in range(700)]
    with scene.store.writing() as connection:
        scene.store.jobs.insert_many(connection, jobs)
        queues = scene.store.upkeep.waiting_queues(connection)
    assert len(queues) == 700
    worker = scene.worker()
    assert [job.queue for job in worker.claim(3, *queues)] == ["tenant-699", "tenant-698", "tenant-697"]
    assert len(worker.claim(1000, *queues)) == 697


def test_a_queue_named_twice_counts_once(scene: Scene) -> None:
    jobs = scene.enqueue_many(4)
    assert [job.id for job in scene.worker().claim(2, "default", "default")] == [job.id for job in jobs[:2]]


@pytest.mark.parametrize("queues", [("a",), ("a", "b")])
def test_two_workers_see_different_jobs_while_neither_has_committed(
    server: Scene, queues: tuple[str, ...]
) -> None:
    scene = server
    scene.enqueue_many(20, queue="a")
    scene.enqueue_many(20, queue="b")
    first, second = scene.worker(), scene.worker()
    with scene.frozen() as one, scene.frozen() as two:
        ours = {job.id for job in first.claim(10, *queues, on=one)}
        theirs = {job.id for job in second.claim(10, *queues, on=two)}
    assert len(ours) == len(theirs) == 10
    assert not ours & theirs


def test_locked_heads_of_all_queues_are_no_false_empty(server: Scene) -> None:
    """The second worker reads the same heads, and takes what stands behind them in the same queues."""
    scene = server
    for queue in "abc":
        scene.enqueue_many(8, queue=queue)
    first, second = scene.worker(), scene.worker()
    with scene.frozen() as one, scene.frozen() as two:
        ours = {job.id for job in first.claim(12, "a", "b", "c", on=one)}
        theirs = {job.id for job in second.claim(12, "a", "b", "c", on=two)}
    assert len(ours) == 12
    assert theirs
    assert not ours & theirs


def test_a_queue_wholly_locked_leaves_the_others_to_the_second_worker(server: Scene) -> None:
    """Queue a goes first and is all in the first worker's hands, who has not committed."""
    scene = server
    scene.enqueue_many(10, queue="a", priority=-1)
    scene.enqueue_many(10, queue="b")
    first, second = scene.worker(), scene.worker()
    with scene.frozen() as one, scene.frozen() as two:
        assert len(first.claim(10, "a", "b", on=one)) == 10
        assert {job.queue for job in second.claim(10, "a", "b", on=two)} == {"b"}


def test_claim_one_takes_this_very_job_and_no_other_state(scene: Scene) -> None:
    job = scene.enqueue(run_at=now() + HOUR)
    with scene.store.writing() as connection:
        held = scene.store.jobs.claim_one(connection, "me", job.id)
        assert held is not None
        assert (held.id, held.claim) == (job.id, 1)
        assert scene.store.jobs.claim_one(connection, "me", job.id) is None


def test_a_released_job_is_the_next_one_again(scene: Scene) -> None:
    first, _ = scene.enqueue(), scene.enqueue()
    worker = scene.worker()
    held = worker.claim_one()
    assert held.id == first.id
    worker.exchange(released(held))
    again = worker.claim_one()
    assert (again.id, again.claim, again.attempt, again.run_at) == (held.id, 2, 0, held.run_at)
