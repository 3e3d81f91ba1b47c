"""Who is dead, and what becomes of the jobs they held."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import pytest

from tests.store import checks
from tests.store.scene import HOUR, LEASE, Scene, succeeded


def dead(scene: Scene, judge: str = "judge") -> list[str]:
    with scene.store.writing() as connection:
        return scene.store.dialect.dead_workers(connection, LEASE, judge)


def test_only_rows_of_dead_workers_are_rescued(scene: Scene) -> None:
    checks.check_only_rows_of_dead_workers_are_rescued(scene)


def test_the_judge_is_never_dead(scene: Scene) -> None:
    checks.check_the_judge_is_never_dead(scene)


def test_the_eleventh_rescue_ends_the_job_as_failed(scene: Scene) -> None:
    checks.check_the_eleventh_rescue_ends_the_job_as_failed(scene)


def test_rescue_passes_over_rows_that_a_frozen_transaction_holds(server: Scene) -> None:
    checks.check_rescue_passes_over_rows_that_a_frozen_transaction_holds(server)


def test_a_worker_that_registers_meanwhile_is_not_rescued(postgresql: Scene) -> None:
    checks.check_a_worker_that_registers_meanwhile_is_not_rescued(postgresql)


def test_rescue_uses_no_attempt(scene: Scene) -> None:
    worker, held = scene.running()
    worker.die()
    scene.rescue()
    row: Any = scene.row(held.id)
    assert (row["attempt"], row["deaths"], row["run_at"]) == (0, 0, held.run_at)


def test_what_was_marked_as_started_is_never_offered_again(scene: Scene) -> None:
    """An unrepeatable job: its effect may have happened."""
    worker, held = scene.running()
    scene.alter(held.id, started_at=held.run_at)
    worker.die()
    scene.rescue()
    ended: Any = scene.ended(held.id)
    assert (ended["outcome"], ended["attempts"], ended["started_at"]) == ("uncertain", 1, held.run_at)
    assert scene.row(held.id) is None


def test_what_somebody_cancels_ends_so_when_its_worker_is_gone(scene: Scene) -> None:
    worker, held = scene.running()
    scene.alter(held.id, cancelling=True)
    worker.die()
    assert scene.rescue() == [held.id]
    assert scene.outcome(held.id) == "cancelled"


def test_of_a_worker_that_we_killed_only_what_had_started_counts_a_rescue(scene: Scene) -> None:
    checks.check_of_a_worker_that_we_killed_only_what_had_started_counts_a_rescue(scene)


def test_what_had_not_started_is_offered_again_without_end(scene: Scene) -> None:
    """Only a rescue can be the eleventh."""
    worker, held = scene.running()
    scene.alter(held.id, rescues=10)
    with scene.store.writing() as connection:
        taken = scene.store.rescue.offer_again(connection, [worker.name], started={})
    assert (taken.offered, taken.ended) == (1, [])
    row: Any = scene.row(held.id)
    assert (row["state"], row["rescues"]) == ("available", 10)


def test_rescue_goes_in_batches(scene: Scene) -> None:
    scene.enqueue_many(5)
    worker = scene.worker()
    worker.claim()
    worker.die()
    with scene.store.writing() as connection:
        assert len(scene.store.rescue.offer_again(connection, [worker.name], limit=3).rows) == 3
        assert len(scene.store.rescue.offer_again(connection, [worker.name], limit=3).rows) == 2
        assert scene.store.rescue.offer_again(connection, [], limit=3).rows == []


def test_waiting_rows_are_never_rescued(scene: Scene) -> None:
    scene.enqueue()
    scene.worker().die()
    assert scene.rescue() == []


def test_a_rescued_row_that_had_ended_is_removed_at_its_next_claim(scene: Scene) -> None:
    worker, held = scene.running()
    row = scene.row(held.id)
    worker.exchange(succeeded(held))
    scene.put_back(row)
    worker.die()
    assert scene.rescue() == [held.id]
    reply = scene.worker().exchange(queues=("default",), limit=10)
    assert (reply.claimed, reply.replayed) == ([], [held.id])


def test_two_rescuers_at_once_offer_a_job_again_once(server: Scene) -> None:
    scene = server
    scene.enqueue_many(4)
    worker = scene.worker()
    worker.claim()
    worker.die()
    with scene.frozen() as one, scene.frozen() as two:
        first = scene.store.rescue.offer_again(one, [worker.name], limit=2).rows
        second = scene.store.rescue.offer_again(two, [worker.name], limit=4).rows
    assert len(first) == len(second) == 2
    assert not {row.id for row in first} & {row.id for row in second}


# ── heartbeats ────────────────────────────────────────────────────────────────────


def test_a_worker_silent_for_a_lease_is_dead_and_its_row_is_gone(server: Scene) -> None:
    scene = server
    silent, living, _ = scene.worker(), scene.worker(), scene.enqueue()
    silent.claim_one()
    scene.turn_beat(silent, -LEASE - timedelta(milliseconds=1))
    scene.turn_beat(living, -LEASE + timedelta(seconds=5))
    assert dead(scene) == [silent.name]
    assert dead(scene) == []
    with scene.store.writing() as connection:
        assert scene.store.workers.pulse(connection, silent.name, LEASE) is None
        assert scene.store.workers.pulse(connection, living.name, LEASE) is not None


def test_a_beat_in_the_future_counts_as_stale(server: Scene) -> None:
    worker = server.worker()
    server.turn_beat(worker, HOUR)
    assert dead(server) == [worker.name]


def test_a_beat_on_its_way_is_not_judged(server: Scene) -> None:
    """Its row is locked by the beat that has not committed; the judge neither waits nor deletes it."""
    scene = server
    worker = scene.worker()
    scene.turn_beat(worker, -HOUR)
    with scene.store.writing() as beating:
        scene.store.workers.pulse(beating, worker.name, LEASE)
        assert dead(scene) == []
    assert dead(scene) == []


def test_a_beat_moves_the_row_and_tells_the_databases_time(server: Scene) -> None:
    scene = server
    worker = scene.worker()
    scene.turn_beat(worker, -LEASE * 2)
    with scene.store.writing() as connection:
        told = scene.store.workers.pulse(connection, worker.name, LEASE)
    assert told is not None
    assert abs(told.now - scene.database_now()) < timedelta(seconds=5)
    assert dead(scene) == []


# ── OS locks: SQLite ──────────────────────────────────────────────────────────────────────────


def test_a_worker_of_a_living_process_is_not_dead_however_long_it_is_silent(sqlite: Scene) -> None:
    worker = sqlite.worker()
    sqlite.turn_beat(worker, -HOUR)
    assert dead(sqlite) == []


def test_a_worker_without_a_lock_is_dead_at_once(sqlite: Scene) -> None:
    worker, held = sqlite.enqueue() and sqlite.running()
    sqlite.store.dialect.drop_liveness(worker.name)
    assert dead(sqlite) == [worker.name]
    assert sqlite.rescue() == [held.id]


def test_a_beat_on_sqlite_only_looks(sqlite: Scene) -> None:
    worker = sqlite.worker()
    with sqlite.store.reading() as connection:
        assert sqlite.store.workers.pulse(connection, worker.name, LEASE) is not None
        assert not connection.connection.driver_connection.in_transaction  # type: ignore[union-attr]
    worker.die()
    with sqlite.store.reading() as connection:
        assert sqlite.store.workers.pulse(connection, worker.name, LEASE) is None


def _in_child(act: Any) -> tuple[int, Any]:
    """Fork a child that acts, says so and waits; its pid and the pipe's end that lets it go."""
    told, tell = os.pipe()
    wait, release = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(told)
            os.close(release)
            os.write(tell, act() or b"done")
            os.read(wait, 1)
        finally:
            os._exit(0)
    os.close(tell)
    os.close(wait)
    answer = os.read(told, 1000)
    os.close(told)

    def let_go() -> None:
        os.close(release)
        os.waitpid(pid, 0)

    assert answer, "the child failed"
    return pid, (let_go, answer)


def test_a_childs_lock_is_alive_while_it_lives_and_dead_when_it_is_gone(sqlite: Scene) -> None:
    worker = sqlite.worker()
    sqlite.store.dialect.drop_liveness(worker.name)
    sqlite.store.engine.dispose()
    _, (let_go, _) = _in_child(lambda: sqlite.store.dialect.hold_liveness(worker.name))
    assert dead(sqlite) == []
    let_go()
    assert dead(sqlite) == [worker.name]


def test_a_forked_child_does_not_keep_its_parents_lock_alive(sqlite: Scene) -> None:
    worker = sqlite.worker()
    sqlite.store.engine.dispose()
    _, (let_go, _) = _in_child(lambda: None)
    sqlite.store.dialect.drop_liveness(worker.name)
    try:
        assert dead(sqlite) == [worker.name]
    finally:
        let_go()


def test_a_forked_child_sees_its_parents_worker_alive_and_leaves_the_lock_to_it(sqlite: Scene) -> None:
    worker = sqlite.worker()
    sqlite.store.engine.dispose()

    def look() -> bytes:
        found = dead(sqlite)
        sqlite.store.engine.dispose()
        return repr(found).encode()

    _, (let_go, answer) = _in_child(look)
    let_go()
    assert answer == b"[]"
    assert dead(sqlite) == []
    assert sqlite.store.dialect.lives.are_over(worker.name) is False  # type: ignore[attr-defined]


def test_lock_files_are_private_and_go_with_their_worker(sqlite: Scene) -> None:
    worker = sqlite.worker()
    file = sqlite.store.dialect.lives._file(worker.name)  # type: ignore[attr-defined]
    assert file.stat().st_mode & 0o077 == 0
    assert file.parent.stat().st_mode & 0o077 == 0
    worker.die()
    assert not file.exists()


@pytest.mark.parametrize("lease", [timedelta(seconds=1), timedelta(hours=1)])
def test_on_sqlite_no_lease_has_to_pass(sqlite: Scene, lease: timedelta) -> None:
    worker, held = sqlite.running()
    sqlite.store.dialect.drop_liveness(worker.name)
    assert sqlite.rescue(lease=lease) == [held.id]
