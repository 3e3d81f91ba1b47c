"""The cursor: claims begin behind the last one, and a full look comes soon enough to starve nobody."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from duly.model.ids import new_id
from duly.model.job import ClaimedJob
from duly.worker.cursor import LONGEST, Cursor
from tests.worker.turned import TurnedClock

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LIMIT = 2


def job(
    seconds: float, *, queue: str = "mail", priority: int = 0, identity: UUID | None = None
) -> ClaimedJob:
    at, id_ = NOON + timedelta(seconds=seconds), identity or new_id()
    return ClaimedJob(id_, id_, "t", queue, priority, 1, 0, 0, at, at + timedelta(days=1), at, None, b"")


class Scene:
    def __init__(self) -> None:
        self.clock = TurnedClock()
        self.cursor = Cursor(self.clock)

    def claim(self, *jobs: ClaimedJob, took: float = 0.01) -> bool:
        """A claim of two jobs at the most; whether it began at the head."""
        full = not self.cursor.places()
        self.cursor.learn(jobs, LIMIT, took)
        return full

    def rot(self) -> None:
        """Full looks take a tenth of a second longer than claims from the cursor: the next is due in a second."""
        self.claim(job(1), job(2))
        self.claim(job(3), job(4))
        assert self.claim(job(5), job(6), took=0.11)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_the_first_claim_begins_at_the_head(scene: Scene) -> None:
    assert scene.claim(job(1), job(2))


def test_the_next_begins_behind_the_last_job_claimed(scene: Scene) -> None:
    last = job(2)
    scene.claim(job(1), last)
    assert scene.cursor.places() == {"mail": (0, last.run_at, last.id)}


def test_each_queue_has_a_place_of_its_own(scene: Scene) -> None:
    mail, report = job(2), job(1, queue="report", priority=5)
    scene.claim(mail, report)
    assert scene.cursor.places() == {
        "mail": (0, mail.run_at, mail.id),
        "report": (5, report.run_at, report.id),
    }


def test_where_full_looks_cost_no_more_every_second_claim_is_one(scene: Scene) -> None:
    assert [scene.claim(job(2 * n), job(2 * n + 1)) for n in range(6)] == [True, False] * 3


def test_where_they_cost_more_they_wait_but_not_for_longer_than_a_second(scene: Scene) -> None:
    scene.rot()
    for n in range(9):
        assert not scene.claim(job(10 + n), job(11 + n))
        scene.clock.turn(LONGEST / 10)
    scene.clock.turn(LONGEST / 10 + 0.001)
    assert scene.claim(job(30), job(31), took=0.11)


def test_a_range_that_is_dry_is_followed_by_a_full_look_at_once(scene: Scene) -> None:
    scene.rot()
    assert scene.cursor.places()
    assert scene.cursor.learn([job(20)], LIMIT, 0.01), "there may be more before the cursor"
    assert not scene.cursor.places()


def test_a_full_look_that_finds_nothing_ends_it(scene: Scene) -> None:
    assert not scene.cursor.places()
    assert not scene.cursor.learn([], LIMIT, 0.01)
