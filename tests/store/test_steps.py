"""Durable steps and what happens once: behind the fence, in the asker's transaction, under any concurrency."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, insert, select, update

from duly.errors import LeaseLost
from duly.model.job import ClaimedJob
from duly.store.onces import Onces
from duly.store.steps import Steps
from tests.store.scene import Scene, Worker, new_job, succeeded

KEEP = timedelta(days=30)
KEY = "k" * 64
BY = UUID(int=7)
Mutate = Callable[[pytest.MonkeyPatch], None]


def record(scene: Scene, worker: Worker, job: ClaimedJob, name: str = "pay", result: bytes = b"1") -> bytes:
    with scene.store.writing() as connection:
        return scene.store.steps.record(
            connection, worker.name, job, name, result=result, key_id=None, keep=KEEP
        )


def find(scene: Scene, worker: Worker, job: ClaimedJob, name: str = "pay") -> bytes | None:
    with scene.store.reading() as connection:
        return scene.store.steps.find(connection, worker.name, job, name)


def rows(scene: Scene) -> list[Any]:
    steps = scene.store.tables.steps
    with scene.store.reading() as connection:
        return list(connection.execute(select(steps).order_by(steps.c.name)))


# ── steps ─────────────────────────────────────────────────────────────────────────────────────


def test_a_step_is_found_by_its_origin_and_name_alone(scene: Scene) -> None:
    worker, job = scene.running()
    _, stranger = scene.running()
    assert record(scene, worker, job) == b"1"
    assert find(scene, worker, job) == b"1"
    assert find(scene, worker, job, "Pay") is None
    (row,) = rows(scene)
    assert (row.origin, row.name, row.job_id, row.claim, row.key_id) == (
        job.origin,
        "pay",
        job.id,
        job.claim,
        None,
    )
    other = scene.store.steps
    with scene.store.reading() as connection:
        assert other.find(connection, "worker-2", stranger, "pay") is None


def test_what_was_recorded_first_stands(scene: Scene) -> None:
    """The reply was lost, and the write is tried again."""
    worker, job = scene.running()
    record(scene, worker, job, result=b"first")
    assert record(scene, worker, job, result=b"second") == b"first"
    assert [row.result for row in rows(scene)] == [b"first"]


def check_only_who_holds_the_job_does_its_steps(scene: Scene) -> None:
    worker, job = scene.running()
    for wrong in (job._replace(claim=job.claim + 1), job._replace(id=uuid4())):
        with pytest.raises(LeaseLost):
            record(scene, worker, wrong)
        with pytest.raises(LeaseLost):
            find(scene, worker, wrong)
    other = scene.worker()
    with pytest.raises(LeaseLost):
        record(scene, other, job)
    worker.exchange(succeeded(job))
    with pytest.raises(LeaseLost):
        record(scene, worker, job)
    assert rows(scene) == []


def test_only_who_holds_the_job_does_its_steps(scene: Scene) -> None:
    check_only_who_holds_the_job_does_its_steps(scene)


def check_a_step_waits_for_who_takes_the_job_away(scene: Scene) -> None:
    """Its fence is a lock: else it would be read before the rescue commits, and the step written after it."""
    worker, job = scene.running()
    written: Future[bytes] = Future()

    def write() -> None:
        try:
            written.set_result(record(scene, worker, job))
        except LeaseLost as error:
            written.set_exception(error)

    jobs = scene.store.tables.jobs
    with scene.store.writing() as connection:
        connection.execute(update(jobs).where(jobs.c.id == job.id).values(claim=job.claim + 1))
        thread = threading.Thread(target=write)
        thread.start()
        while scene.lock_waits() == 0 and not written.done():
            threading.Event().wait(0.01)
    thread.join()
    assert isinstance(written.exception(), LeaseLost)
    assert rows(scene) == []


def test_a_step_waits_for_who_takes_the_job_away(server: Scene) -> None:
    check_a_step_waits_for_who_takes_the_job_away(server)


def test_steps_are_kept_as_long_as_a_person_may_retry_their_job(scene: Scene) -> None:
    worker, job = scene.running()
    record(scene, worker, job)
    assert rows(scene)[0].expires_at == job.expires_at + KEEP
    late = new_job(origin=job.origin, expires_at=job.expires_at + KEEP)
    for retried in (late, new_job(origin=job.origin)):  # the second would shorten it
        with scene.store.writing() as connection:
            scene.store.steps.extend(connection, retried, KEEP)
        assert rows(scene)[0].expires_at == late.expires_at + KEEP


def test_a_job_that_ran_past_its_expiry_keeps_its_steps_from_then_on(scene: Scene) -> None:
    worker, job = scene.running()
    now = scene.database_now()
    record(scene, worker, job._replace(expires_at=now - KEEP))
    assert rows(scene)[0].expires_at >= now + KEEP


# ── once ──────────────────────────────────────────────────────────────────────────────────────


def ask(scene: Scene, connection: Connection, key: str = KEY, keep: timedelta | None = None) -> bool:
    until = None if keep is None else scene.database_now() + keep
    return scene.store.onces.take(connection, key, BY, until)


def asked(scene: Scene, **more: Any) -> bool:
    with scene.store.writing() as connection:
        return ask(scene, connection, **more)


def test_it_is_true_once_even_for_the_same_job(scene: Scene) -> None:
    with scene.store.writing() as connection:
        assert [ask(scene, connection) for _ in range(2)] == [True, False]
    assert not asked(scene)
    assert asked(scene, key="j" * 64)


def test_it_falls_with_its_transaction(scene: Scene) -> None:
    with scene.frozen() as connection:
        assert ask(scene, connection)
    assert asked(scene)


def test_a_time_to_keep_it_runs_out(scene: Scene) -> None:
    assert asked(scene, keep=timedelta(hours=1))
    assert not asked(scene, keep=timedelta(hours=1))
    keys = scene.store.tables.keys
    with scene.store.writing() as connection:
        connection.execute(update(keys).values(until_at=scene.database_now() - timedelta(seconds=1)))
    assert asked(scene)
    assert not asked(scene)


@pytest.mark.parametrize("commits", [True, False])
def test_the_second_waits_for_the_first(server: Scene, commits: bool) -> None:
    check_the_second_waits_for_the_first(server, commits)


@pytest.mark.parametrize("commits", [True, False])
def test_the_second_waits_for_who_takes_what_ran_out(server: Scene, commits: bool) -> None:
    past = {"job_id": uuid4(), "until": "ever", "until_at": server.database_now() - timedelta(hours=1)}
    with server.store.writing() as connection:
        connection.execute(insert(server.store.tables.keys).values(key=KEY, **past))
    check_the_second_waits_for_the_first(server, commits, keep=timedelta(hours=1))


def check_the_second_waits_for_the_first(scene: Scene, commits: bool, **more: Any) -> None:
    answer: Future[bool] = Future()
    with scene.store.engine.connect() as first:
        scene.store.dialect.begin(first)
        assert ask(scene, first, **more)
        thread = threading.Thread(target=lambda: answer.set_result(asked(scene, **more)))
        thread.start()
        while scene.lock_waits() == 0 and not answer.done():
            threading.Event().wait(0.01)
        waited = not answer.done()
        first.commit() if commits else first.rollback()
    thread.join()
    assert waited
    assert answer.result() is not commits


# ── mutants ───────────────────────────────────────────────────────────────────────────────────


def no_fence(patch: pytest.MonkeyPatch) -> None:
    """The job's row is enough, whoever holds it."""
    patch.setattr(Steps, "_fence", lambda self, worker, job: (self.tables.jobs.c.id == job.id,))


def unlocked_fence(patch: pytest.MonkeyPatch) -> None:
    """The fence is looked at, and may be gone a moment later."""

    def record(self: Any, connection: Connection, worker: str, job: ClaimedJob, name: str, **row: Any) -> Any:
        kept = self.find(connection, worker, job, name)
        values = {"origin": job.origin, "name": name, "job_id": job.id, "claim": job.claim}
        moments = {"at": self.dialect.clock, "expires_at": job.expires_at}
        insert = self.dialect.insert_or_ignore(self.tables.steps)
        connection.execute(insert.values(result=row["result"], **values, **moments))
        return kept or row["result"]

    patch.setattr(Steps, "record", record)


def look_then_insert(patch: pytest.MonkeyPatch) -> None:
    """Whoever sees no key is the first."""

    def take(self: Any, connection: Connection, key: str, job: UUID, until: Any) -> bool:
        keys = self.tables.keys
        if connection.scalar(select(keys.c.key).where(keys.c.key == key)) is not None:
            return False
        with connection.engine.begin() as other:
            other.execute(
                self.dialect.insert_or_ignore(keys).values(key=key, job_id=job, until="ever", until_at=until)
            )
        return True

    patch.setattr(Onces, "take", take)


MUTANTS: list[tuple[Mutate, Callable[[Scene], None]]] = [
    (no_fence, check_only_who_holds_the_job_does_its_steps),
    (unlocked_fence, check_a_step_waits_for_who_takes_the_job_away),
    (look_then_insert, lambda scene: check_the_second_waits_for_the_first(scene, commits=False)),
]


@pytest.mark.parametrize(("mutate", "check"), MUTANTS, ids=[mutate.__name__ for mutate, _ in MUTANTS])
def test_the_check_notices(
    postgresql: Scene, monkeypatch: pytest.MonkeyPatch, mutate: Mutate, check: Callable[[Scene], None]
) -> None:
    mutate(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(postgresql)
