"""Many at once: every job is claimed by one worker, ends once, and no locks are met that would fail anybody."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from duly.errors import DatabaseBusy
from tests.store.scene import Scene, new_job, released, retried, succeeded


def all_at_once(*acts: Callable[[], None]) -> None:
    """Run them in threads that start together; the first fault is raised."""
    start, faults = threading.Barrier(len(acts)), []

    def run(act: Callable[[], None]) -> None:
        start.wait()
        try:
            act()
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=run, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]


@pytest.mark.parametrize("queues", [("a",), ("a", "b", "c")])
def test_concurrent_claimers_never_get_one_job_twice_and_leave_none(
    scene: Scene, queues: tuple[str, ...]
) -> None:
    for queue in queues:
        scene.enqueue_many(120, queue=queue)
    taken: dict[str, list[UUID]] = {}

    def work(name: str) -> Callable[[], None]:
        worker = scene.worker(name)
        mine = taken.setdefault(name, [])

        def go() -> None:
            done: list[Any] = []
            while len(mine) < 10_000:
                reply = worker.exchange(*done, queues=queues, limit=7)
                assert reply.lost == set()
                mine.extend(reply.ids)
                done = [succeeded(job) for job in reply.claimed]
                if not done and scene.count() == 0:
                    return

        return go

    all_at_once(*(work(f"w{n}") for n in range(3)))
    counts = Counter(job for jobs in taken.values() for job in jobs)
    assert set(counts.values()) == {1}
    assert len(counts) == 120 * len(queues)
    assert scene.count("executions") == 120 * len(queues)


def test_claimers_releases_retries_rescues_and_late_finishes_end_each_job_once(scene: Scene) -> None:
    """Workers that die at every third turn, and report what they held long after they were rescued."""
    scene.enqueue_many(60)
    accepted: Counter[UUID] = Counter()
    guard = threading.Lock()

    def work(number: int) -> Callable[[], None]:
        def go() -> None:
            turn, worker = 0, scene.worker(f"w{number}-0")
            while scene.count():
                turn += 1
                held = worker.claim(4)
                if turn % 3 == 0:
                    worker.die()
                    scene.rescue(judge=f"judge-{number}")
                    reply = worker.exchange(*map(succeeded, held))
                    worker = scene.worker(f"w{number}-{turn}")
                elif turn % 3 == 1 and held:
                    worker.exchange(released(held[0]), retried(held[-1], timedelta(0)))
                    reply = worker.exchange(*map(succeeded, held))
                else:
                    reply = worker.exchange(*map(succeeded, held))
                with guard:
                    accepted.update(job.id for job in held if job.id not in reply.lost)
                scene.upkeep()

        return go

    all_at_once(*(work(n) for n in range(3)))
    assert scene.count("executions") == 60
    assert set(accepted.values()) == {1}
    assert len(accepted) == 60


def test_enqueues_again_at_once_make_one_job(scene: Scene) -> None:
    jobs = [new_job() for _ in range(20)]
    worker = scene.worker()

    def send(order: list[Any]) -> Callable[[], None]:
        def go() -> None:
            for _ in range(3):
                try:
                    assert scene.again(*order).keys() == {job.id for job in jobs}
                except DatabaseBusy:  # PostgreSQL: two batches in opposite order
                    continue

        return go

    def finish() -> None:
        while scene.count("executions") < len(jobs):
            worker.exchange(*map(succeeded, worker.claim(5)))

    all_at_once(send(jobs), send(jobs), send(jobs), finish)
    assert scene.count() == 0
    assert scene.count("executions") == len(jobs)
    assert worker.exchange(queues=("default",), limit=10).replayed == []


def test_a_cancel_and_a_claim_at_once_let_one_of_them_win(scene: Scene) -> None:
    jobs = scene.enqueue_many(30)
    worker, claimed, cancelled = scene.worker(), [], []

    def claim() -> None:
        for _ in range(30):
            claimed.extend(job.id for job in worker.claim(1))

    def cancel() -> None:
        for job in reversed(jobs):
            with scene.store.writing() as connection:
                if scene.store.jobs.cancel(connection, job.id, "stop"):
                    cancelled.append(job.id)

    all_at_once(claim, cancel)
    assert not set(claimed) & set(cancelled)
    assert {*claimed, *cancelled} == {job.id for job in jobs}


def test_upkeep_by_all_at_once_promotes_and_expires_each_job_once(scene: Scene) -> None:
    from duly.model.states import State

    jobs = [scene.enqueue(state=State.SCHEDULED) for _ in range(30)]
    promoted: list[int] = []
    expired: list[UUID] = []

    def serve() -> None:
        for _ in range(3):
            done, over = scene.upkeep()
            promoted.append(done)
            expired.extend(over)

    all_at_once(*[serve] * 3)
    assert (sum(promoted), expired) == (30, [])
    table = scene.store.tables.jobs
    with scene.store.writing() as connection:
        connection.execute(table.update().values(expires_at=scene.store.dialect.clock))
    all_at_once(*[serve] * 3)
    assert sorted(expired) == sorted(job.id for job in jobs)
