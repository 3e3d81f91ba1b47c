"""Workers that die by themselves: who is blamed, who is a suspect, and how that ends."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from duly.model.report import Died
from tests.store import checks
from tests.store.checks import claim_suspect, mourn
from tests.store.scene import Scene, now, released, retried, succeeded


def test_only_what_had_started_is_blamed(scene: Scene) -> None:
    checks.check_only_what_had_started_is_blamed(scene)


def test_the_third_death_ends_the_job_as_failed(scene: Scene) -> None:
    checks.check_the_third_death_ends_the_job_as_failed(scene)


def test_suspects_are_claimed_apart_and_one_at_a_time(scene: Scene) -> None:
    checks.check_suspects_are_claimed_apart_and_one_at_a_time(scene)


def a_suspect(scene: Scene, **changes: Any) -> Any:
    """A job whose worker has died of it once."""
    worker, held = scene.running(**changes)
    mourn(scene, worker, held)
    return held


def expire(scene: Scene) -> list[Any]:
    with scene.store.writing() as connection:
        return [row.id for row in scene.store.suspects.expire(connection)]


def look(scene: Scene) -> tuple[list[str], bool]:
    with scene.store.reading() as connection:
        return scene.store.suspects.look(connection)


def test_a_death_leaves_an_attempt_with_its_cause(scene: Scene) -> None:
    worker, held = scene.running()
    mourn(scene, worker, held, cause="killed by SIGKILL")
    (attempt,) = scene.attempts(held.id)
    assert (attempt["claim"], attempt["attempt"], attempt["worker"]) == (1, 1, worker.name)
    assert (attempt["cause"], attempt["error"]) == ("killed by SIGKILL", None)


def test_only_rows_of_the_dead_worker_are_mourned(scene: Scene) -> None:
    worker, held = scene.running()
    alive, spared = scene.running()
    mourn(scene, worker, held, spared)
    row: Any = scene.row(spared.id)
    assert (row["state"], row["worker"], row["deaths"]) == ("running", alive.name, 0)


def test_a_second_look_counts_no_second_death(scene: Scene) -> None:
    worker, held = scene.running()
    assert len(mourn(scene, worker, held).rows) == 1
    assert mourn(scene, worker, held).rows == []
    assert scene.row(held.id)["deaths"] == 1  # type: ignore[index]


def test_a_row_that_its_last_statement_still_holds_is_blamed_with_the_next_look(postgresql: Scene) -> None:
    scene = postgresql
    worker, held = scene.running()
    with scene.frozen() as line:
        worker.exchange(retried(held), on=line)
        assert mourn(scene, worker, held).rows == []
    assert len(mourn(scene, worker, held).suspects) == 1


def test_an_outcome_that_its_last_statement_still_brought_stands(postgresql: Scene) -> None:
    scene = postgresql
    worker, held = scene.running()
    with scene.store.engine.connect() as line:
        scene.store.dialect.begin(line)
        worker.exchange(retried(held), on=line)
        assert mourn(scene, worker, held).rows == []
        line.commit()
    assert mourn(scene, worker, held).rows == []
    row: Any = scene.row(held.id)
    assert (row["state"], row["attempt"], row["deaths"]) == ("scheduled", 1, 0)


def test_deaths_go_in_batches(scene: Scene) -> None:
    scene.enqueue_many(3)
    worker = scene.worker()
    box = {job.id: job.claim for job in worker.claim()}
    with scene.store.writing() as connection:
        some = [scene.store.rescue.mourn(connection, [worker.name], box, "x", limit=2) for _ in range(3)]
    assert [len(taken.suspects) for taken in some] == [2, 1, 0]


# ── what else may end it ──────────────────────────────────────────────────────────────────────


def test_an_unrepeatable_job_that_had_started_is_uncertain_at_its_first_death(scene: Scene) -> None:
    worker, held = scene.running()
    scene.alter(held.id, started_at=held.run_at)
    assert mourn(scene, worker, held).suspects == []
    ended: Any = scene.ended(held.id)
    assert (ended["outcome"], ended["deaths"], ended["attempts"]) == ("uncertain", 1, 1)
    assert ended["cause"] == "its worker died while it ran: killed by SIGSEGV"


def test_an_unrepeatable_job_that_was_over_but_not_recorded_is_uncertain_too(scene: Scene) -> None:
    worker, held = scene.running()
    scene.alter(held.id, started_at=held.run_at)
    mourn(scene, worker)
    ended: Any = scene.ended(held.id)
    assert (ended["outcome"], ended["deaths"]) == ("uncertain", 0)


@pytest.mark.parametrize(("marked", "outcome"), [(False, "failed"), (True, "uncertain")])
def test_the_last_death_of_a_job_that_somebody_cancels_is_a_death(
    scene: Scene, marked: bool, outcome: str
) -> None:
    worker, held = scene.running()
    scene.alter(held.id, deaths=2, cancelling=True, started_at=held.run_at if marked else None)
    mourn(scene, worker, held)
    assert scene.outcome(held.id) == outcome


def test_a_job_that_somebody_cancels_does_not_become_a_suspect(scene: Scene) -> None:
    worker, held = scene.running()
    scene.alter(held.id, cancelling=True)
    assert mourn(scene, worker, held).suspects == []
    ended: Any = scene.ended(held.id)
    assert (ended["outcome"], ended["deaths"]) == ("cancelled", 1)


# ── suspects ──────────────────────────────────────────────────────────────────────────────────


def test_suspects_are_seen_with_their_queues(scene: Scene) -> None:
    assert look(scene) == ([], False)
    a_suspect(scene)
    scene.enqueue(queue="other")
    assert look(scene) == (["default"], False)


def test_a_suspect_of_another_queue_is_left_to_others(scene: Scene) -> None:
    held = a_suspect(scene)
    worker = scene.worker()
    with scene.store.writing() as connection:
        reply, _ = scene.store.suspects.exchange(connection, worker.name, (), ("mail",), 5)
    assert reply.claimed == []
    assert scene.row(held.id)["state"] == "suspect"  # type: ignore[index]


def test_the_best_suspect_comes_first(scene: Scene) -> None:
    worst, best = scene.enqueue(priority=5), scene.enqueue(priority=-5)
    worker = scene.worker()
    mourn(scene, worker, *worker.claim())
    (claimed,) = claim_suspect(scene, scene.worker())
    assert (claimed.id, claimed.claim) == (best.id, 2)
    assert scene.row(worst.id)["claim"] == 1  # type: ignore[index]


def test_a_worker_whose_row_is_gone_is_given_no_suspect(scene: Scene) -> None:
    held = a_suspect(scene)
    worker = scene.worker()
    worker.die()
    with scene.store.writing() as connection:
        reply, _ = scene.store.suspects.exchange(connection, worker.name, (), ("default",), 5)
    assert (reply.claimed, reply.alive) == ([], False)
    assert scene.row(held.id)["state"] == "suspect"  # type: ignore[index]


def test_a_suspect_whose_job_had_ended_is_removed_and_does_not_run(scene: Scene) -> None:
    held = a_suspect(scene)
    row: Any = scene.row(held.id)
    worker = scene.worker()
    (again,) = claim_suspect(scene, worker)
    worker.exchange(succeeded(again))
    scene.put_back(row)
    worker = scene.worker()
    with scene.store.writing() as connection:
        reply, _ = scene.store.suspects.exchange(connection, worker.name, (), ("default",), 5)
    assert (reply.claimed, [job.id for job in reply.replayed]) == ([], [held.id])
    assert scene.row(held.id) is None
    assert scene.audited()[-1][1:] == ("replayed row removed", held.id)


def test_a_suspect_past_its_time_is_not_claimed_and_expires(scene: Scene) -> None:
    held = a_suspect(scene)
    scene.alter(held.id, expires_at=now() - timedelta(seconds=1))
    assert claim_suspect(scene, scene.worker()) == []
    assert look(scene) == (["default"], True)
    assert expire(scene) == [held.id]
    assert expire(scene) == []
    assert scene.outcome(held.id) == "expired"


def test_a_suspect_that_is_given_back_or_fails_is_an_ordinary_job_again(scene: Scene) -> None:
    """It has run, or has not even started: that its worker lived through it speaks for it."""
    held = a_suspect(scene)
    worker = scene.worker()
    (again,) = claim_suspect(scene, worker)
    worker.exchange(released(again))
    row: Any = scene.row(held.id)
    assert (row["state"], row["deaths"]) == ("available", 1)


def test_people_cancel_and_clear_suspects(scene: Scene) -> None:
    one, two = a_suspect(scene), a_suspect(scene)
    with scene.store.writing() as connection:
        assert scene.store.jobs.cancel(connection, one.id, "cancelled by somebody")
        assert scene.store.jobs.clear(connection, queue="default", task=None) == 1
        assert scene.store.jobs.clear(connection, queue="default", task=None) == 0
    assert {scene.outcome(one.id), scene.outcome(two.id)} == {"cancelled"}


# ── jobs that die apart ───────────────────────────────────────────────────────────────────────


def test_a_job_that_dies_apart_is_offered_again_and_ends_with_its_third_death(scene: Scene) -> None:
    job, worker = scene.enqueue(), scene.worker()
    for deaths in (1, 2, 3):
        held = worker.claim_one()
        began = now()
        reply = worker.exchange(Died(held.id, held.claim, "killed by SIGKILL", began))
        if deaths < 3:
            row: Any = scene.row(job.id)
            assert (row["state"], row["deaths"], row["attempt"], row["worker"]) == (
                "available",
                deaths,
                0,
                None,
            )
            assert reply.settled.ended == {}
    ended: Any = scene.ended(job.id)
    assert (ended["outcome"], ended["deaths"], ended["started_at"]) == ("failed", 3, began)
    assert ended["cause"] == "it killed its worker 3 times; last: SIGKILL"
    assert set(reply.settled.ended) == {job.id}
    assert [row["cause"] for row in scene.attempts(job.id)] == ["killed by SIGKILL"] * 3


def test_a_death_that_has_lost_its_fence_counts_nothing(scene: Scene) -> None:
    worker, held = scene.running()
    worker.exchange(released(held))
    again = worker.claim_one()
    reply = worker.exchange(Died(held.id, held.claim, "killed by SIGKILL"))
    assert reply.lost == {held.id}
    row: Any = scene.row(held.id)
    assert (row["deaths"], row["claim"], row["state"]) == (0, again.claim, "running")
