"""The mark of an unrepeatable job: set once, under the fence, and taken away by nobody who does not know better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, update

from duly.model.job import ClaimedJob
from duly.model.report import Died, PutBack
from duly.store import outcomes
from duly.store.marks import Mark, Marks
from tests.store.scene import HOUR, Scene, Worker, failed, now, released, retried, snoozed, succeeded

SECOND = timedelta(seconds=1)


def mark(scene: Scene, worker: str, job: ClaimedJob) -> datetime | None:
    """As a worker does, which commits nothing where there is no mark."""
    with scene.store.writing() as connection:
        at = scene.store.marks.set(connection, worker, job)
        if at is None:
            connection.rollback()
    return at


def look(scene: Scene, worker: str, job: ClaimedJob) -> Mark:
    with scene.store.writing() as connection:
        return scene.store.marks.look(connection, worker, job)


def marked(scene: Scene, **changes: Any) -> tuple[Worker, ClaimedJob]:
    worker, job = scene.running(**changes)
    assert mark(scene, worker.name, job) is not None
    return worker, job


def vouched(job: ClaimedJob, after: timedelta = HOUR) -> PutBack:
    return replace(retried(job, after), may_repeat=True)


# ── setting it ────────────────────────────────────────────────────────────────────────────────


def test_it_is_set_by_the_databases_clock(scene: Scene) -> None:
    before = scene.database_now()
    worker, job = scene.running()
    assert look(scene, worker.name, job) == Mark(held=True, at=None, late=False)
    at = mark(scene, worker.name, job)
    assert at is not None
    assert before <= at <= scene.database_now()
    row: Any = scene.row(job.id)
    assert before <= row["started_at"] <= at
    assert (row["state"], row["worker"], row["claim"]) == ("running", worker.name, job.claim)
    assert look(scene, worker.name, job) == Mark(held=True, at=row["started_at"], late=False)


def check_it_needs_the_fence(scene: Scene) -> None:
    worker, job = scene.running()
    for name, other in ((worker.name, job._replace(claim=job.claim + 1)), ("another", job)):
        assert mark(scene, name, other) is None
        assert look(scene, name, other) == Mark(held=False, at=None, late=False)
    worker.exchange(released(job))
    assert mark(scene, worker.name, job) is None
    assert scene.row(job.id)["started_at"] is None  # type: ignore[index]


def check_it_is_not_set_after_expires_at(scene: Scene) -> None:
    worker, job = scene.running()
    scene.alter(job.id, expires_at=now() - SECOND)
    assert mark(scene, worker.name, job) is None
    assert look(scene, worker.name, job) == Mark(held=True, at=None, late=True)
    assert scene.row(job.id)["started_at"] is None  # type: ignore[index]


def check_it_is_not_set_twice(scene: Scene) -> None:
    worker, job = marked(scene)
    first = scene.row(job.id)["started_at"]  # type: ignore[index]
    assert mark(scene, worker.name, job) is None
    assert look(scene, worker.name, job) == Mark(held=True, at=first, late=False)


def check_the_clock_is_asked_after_the_wait_for_the_row(scene: Scene) -> None:
    """A lock may have been waited for: then what was true when the statement began says nothing."""
    worker, job = scene.running()
    soon = job._replace(expires_at=now() - SECOND)  # as if it had passed since the first line
    assert mark(scene, worker.name, soon) is None
    assert scene.row(job.id)["started_at"] is None  # type: ignore[index]


# ── what becomes of it ────────────────────────────────────────────────────────────────────────


def check_who_gives_it_back_does_not_offer_it_again(scene: Scene) -> None:
    """Whatever the reason is: nobody who does not say so knows that it may run again."""
    for report in (released, retried, snoozed, cut_short):
        worker, job = marked(scene)
        reply = worker.exchange(report(job))
        assert reply.settled.ended[job.id].outcome == "uncertain"
        assert scene.row(job.id) is None
        ended: Any = scene.ended(job.id)
        assert (ended["outcome"], ended["attempts"]) == ("uncertain", 1)
        assert ended["started_at"] is not None
        assert ended["envelope"] == job.envelope
        assert len(scene.attempts(job.id)) == 1


def cut_short(job: ClaimedJob) -> PutBack:
    return PutBack(job.id, job.claim, "internal error: OSError", counted=False, after=SECOND)


def test_what_may_be_repeated_goes_back_without_its_mark(scene: Scene) -> None:
    for report in (vouched, lambda job: replace(snoozed(job), may_repeat=True)):
        worker, job = marked(scene)
        worker.exchange(report(job))
        row: Any = scene.row(job.id)
        assert (row["state"], row["started_at"]) == ("scheduled", None)


def test_what_may_be_repeated_ends_where_somebody_cancels_it_or_it_comes_too_late(scene: Scene) -> None:
    worker, job = marked(scene)
    scene.alter(job.id, cancelling=True)
    worker.exchange(vouched(job))
    assert scene.outcome(job.id) == "cancelled"
    worker, job = marked(scene)
    worker.exchange(vouched(job, timedelta(days=2)))
    assert scene.outcome(job.id) == "expired"


def test_what_somebody_cancels_is_uncertain_all_the_same(scene: Scene) -> None:
    for report in (released, retried, snoozed):
        worker, job = marked(scene)
        scene.alter(job.id, cancelling=True)
        worker.exchange(report(job))
        assert scene.outcome(job.id) == "uncertain"


def test_it_ends_as_its_worker_says(scene: Scene) -> None:
    worker, job = marked(scene)
    assert worker.exchange(succeeded(job)).lost == set()
    assert scene.outcome(job.id) == "succeeded"
    worker, job = marked(scene)
    worker.exchange(failed(job))
    assert scene.outcome(job.id) == "failed"


def test_its_own_death_leaves_it_uncertain(scene: Scene) -> None:
    worker, job = marked(scene)
    worker.exchange(Died(job.id, job.claim, "killed by SIGKILL", now()))
    assert scene.outcome(job.id) == "uncertain"


def test_a_claim_takes_it_away(scene: Scene) -> None:
    """However it came to be there on a waiting row: an attempt has not started before its mark."""
    jobs, suspects, worker = scene.store.jobs, scene.store.suspects, scene.worker()
    ways: dict[str, Callable[[Connection, UUID], object]] = {
        "suspect": lambda connection, _: suspects.exchange(connection, worker.name, [], ["default"], 1),
        "available": lambda connection, _: jobs.exchange(connection, worker.name, [], ["default"], 1),
        "scheduled": lambda connection, job: jobs.claim_one(connection, worker.name, job),
    }
    for state, claim in ways.items():
        job = scene.enqueue()
        scene.alter(job.id, started_at=now(), state=state)
        with scene.store.writing() as connection:
            claim(connection, job.id)
        row: Any = scene.row(job.id)
        assert (row["state"], row["started_at"]) == ("running", None)


def check_a_success_that_comes_after_the_rescue_is_no_success(scene: Scene) -> None:
    """The ledger says uncertain, under this very claim: its worker must not tell that it succeeded."""
    worker, job = marked(scene)
    worker.die()
    scene.rescue()
    assert scene.outcome(job.id) == "uncertain"
    assert worker.exchange(succeeded(job)).lost == {job.id}
    assert scene.outcome(job.id) == "uncertain"


# ── passing faults ────────────────────────────────────────────────────────────────────────────


def test_passing_faults_are_counted_in_the_row(scene: Scene) -> None:
    worker, job = scene.running()
    passing = PutBack(job.id, job.claim, "OperationalError", False, timedelta(0), transient=True)
    worker.exchange(passing)
    again = worker.claim_one()
    assert (again.transients, again.attempt) == (1, 0)
    worker.exchange(snoozed(again, timedelta(0)))
    again = worker.claim_one()
    worker.exchange(replace(passing, claim=again.claim))
    again = worker.claim_one()
    assert (again.transients, again.attempt) == (2, 0)
    worker.exchange(released(again))
    assert scene.row(job.id)["transients"] == 2  # type: ignore[index]
    assert scene.attempts(job.id) == []


# ── mutants ───────────────────────────────────────────────────────────────────────────────────

CHECKS = {
    check.__name__.removeprefix("check_"): check
    for check in (
        check_it_needs_the_fence,
        check_it_is_not_set_after_expires_at,
        check_it_is_not_set_twice,
        check_the_clock_is_asked_after_the_wait_for_the_row,
        check_who_gives_it_back_does_not_offer_it_again,
        check_a_success_that_comes_after_the_rescue_is_no_success,
    )
}


@pytest.mark.parametrize("check", CHECKS)
def test_rule(scene: Scene, check: str) -> None:
    CHECKS[check](scene)


def without(*columns: str) -> Callable[[pytest.MonkeyPatch], None]:
    """A mark that is set without looking at these."""

    def breaks(patch: pytest.MonkeyPatch) -> None:
        def set_(self: Marks, connection: Any, worker: str, job: ClaimedJob) -> datetime | None:
            jobs, clock = self.tables.jobs.c, self.dialect.clock
            looks = {
                "worker": jobs.worker == worker,
                "claim": jobs.claim == job.claim,
                "started_at": jobs.started_at.is_(None),
                "expires_at": jobs.expires_at > clock,
            }
            kept = [look for name, look in looks.items() if name not in columns]
            statement = update(self.tables.jobs).where(jobs.id == job.id, *kept).values(started_at=clock)
            return now() if connection.execute(statement).rowcount else None

        patch.setattr(Marks, "set", set_)

    return breaks


def offer_again(patch: pytest.MonkeyPatch) -> None:
    """What is given back goes back."""
    patch.setattr(outcomes, "in_doubt", lambda *_: None)


MUTANTS = [
    (without("worker"), check_it_needs_the_fence),
    (without("claim"), check_it_needs_the_fence),
    (without("expires_at"), check_it_is_not_set_after_expires_at),
    (without("started_at"), check_it_is_not_set_twice),
    (without(), check_the_clock_is_asked_after_the_wait_for_the_row),
    (offer_again, check_who_gives_it_back_does_not_offer_it_again),
]


@pytest.mark.parametrize("number", range(len(MUTANTS)), ids=[check.__name__ for _, check in MUTANTS])
def test_the_check_notices(postgresql: Scene, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    breaks, check = MUTANTS[number]
    breaks(monkeypatch)
    with pytest.raises((AssertionError, KeyError)):
        check(postgresql)
