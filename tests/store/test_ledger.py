"""Looking through the ledger, and resolutions in it: the statements, on each database."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.exc import IntegrityError

from duly.model.ids import new_id
from duly.model.resolution import Resolution, Verdict
from duly.model.states import Outcome
from duly.model.wanted import Wanted
from tests.store.scene import HOUR, Scene, now
from tests.store.test_prune import DAY, end


def page(scene: Scene, before: UUID | None = None, limit: int = 100, **wanted: Any) -> list[UUID] | None:
    with scene.store.reading() as connection:
        found = scene.store.ledger.page(connection, Wanted(**wanted), before=before, limit=limit)
    return None if found is None else [job.id for job in found]


def test_pages_are_the_whole_ledger_the_last_ended_first(scene: Scene) -> None:
    moment = now() - HOUR
    jobs = [end(scene, "succeeded", HOUR, -DAY, ended_at=moment - n // 3 * HOUR) for n in range(9)]
    groups = [sorted(jobs[start : start + 3], reverse=True) for start in (0, 3, 6)]
    whole = [job for group in groups for job in group]
    assert page(scene) == whole
    seen: list[UUID] = []
    while some := page(scene, seen[-1] if seen else None, limit=2):
        seen += some
    assert seen == whole
    assert page(scene, new_id()) is None


def test_the_ledger_is_searched(scene: Scene) -> None:
    one = end(scene, "succeeded", 3 * HOUR, -DAY)
    two = end(scene, "failed", 2 * HOUR, -DAY, task="other", queue="mail")
    three = end(scene, "failed", 1 * HOUR, -DAY, queue="mail")
    assert page(scene, outcome=Outcome.FAILED) == page(scene, queue="mail") == [three, two]
    assert page(scene, outcome=Outcome.SUCCEEDED) == page(scene, queue="default") == [one]
    assert page(scene, task="other") == page(scene, task="other", outcome=Outcome.FAILED) == [two]
    assert page(scene, since=now() - 2.5 * HOUR) == [three, two]
    assert page(scene, until=now() - 1.5 * HOUR) == [two, one]
    assert page(scene, jobs=[one, three, new_id()]) == [three, one]
    assert page(scene, outcome=Outcome.UNCERTAIN) == []


def test_the_ledger_shows_who_and_when_and_nothing_sealed(scene: Scene) -> None:
    job = end(scene, "failed", HOUR, -DAY)
    with scene.store.reading() as connection:
        [entry] = scene.store.ledger.page(connection, Wanted(), before=None, limit=5) or []
    assert (entry.id, entry.outcome, entry.cause, entry.attempts) == (job, Outcome.FAILED, "c", 2)
    assert (entry.principal, entry.worker, entry.resolution) == ("ann", "w", None)
    assert (entry.envelope, entry.result, entry.error) == (None, None, None)
    status: Any = scene.status(job)
    assert (status.envelope, status.result, status.error) == (b"e", b"r", b"e")


def resolve(scene: Scene, job: UUID, verdict: Verdict = Verdict.FAILED, **more: Any) -> Resolution:
    with scene.store.writing() as connection:
        standing = scene.store.resolutions.standing(connection, job)
        assert standing is None
        given: dict[str, Any] = {"actor": "ann", "reason": None, "again": None} | more
        return scene.store.resolutions.add(connection, job, verdict, **given)


def test_a_resolution_stands_beside_its_job(scene: Scene) -> None:
    job, fresh = end(scene, "uncertain", HOUR, -DAY), new_id()
    other = end(scene, "uncertain", HOUR, -DAY)
    made = resolve(scene, job, Verdict.AGAIN, reason="no\0 such transfer", again=fresh)
    assert made == Resolution(made.at, "ann", Verdict.AGAIN, fresh, "no such transfer")
    assert abs(made.at - now()) < timedelta(seconds=10)
    assert scene.status(job).resolution == made  # type: ignore[union-attr]
    assert scene.status(other).resolution is None  # type: ignore[union-attr]
    with scene.store.reading() as connection:
        found = scene.store.ledger.page(connection, Wanted(jobs=[job]), before=None, limit=5) or []
    assert [entry.resolution for entry in found] == [made]
    with pytest.raises(IntegrityError), scene.store.writing() as connection:
        scene.store.resolutions.add(connection, job, Verdict.FAILED, actor="bob", reason=None, again=None)


def test_of_two_people_the_second_waits_and_sees_the_first(server: Scene) -> None:
    import threading

    scene, seen = server, list[Resolution | None]()
    job = end(scene, "uncertain", HOUR, -DAY)

    def second() -> None:
        with scene.store.writing() as connection:
            seen.append(scene.store.resolutions.standing(connection, job))

    with scene.store.writing() as connection:
        assert scene.store.resolutions.standing(connection, job) is None
        other = threading.Thread(target=second)
        other.start()
        while not scene.lock_waits():
            assert not seen
        made = scene.store.resolutions.add(
            connection, job, Verdict.SUCCEEDED, actor="ann", reason=None, again=None
        )
    other.join()
    assert seen == [made]


def test_an_emptied_job_is_still_shown(scene: Scene) -> None:
    job = end(scene, "uncertain", HOUR, -DAY, cause=None, result=None, envelope=None, trace=None)
    made = resolve(scene, job)
    status: Any = scene.status(job)
    assert (status.cause, status.envelope, status.resolution) == (None, None, made)
