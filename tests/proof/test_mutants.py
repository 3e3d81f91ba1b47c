"""Provers that are wrong in one place, and the tests that see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from duly.proof.child import Child
from duly.proof.course import Course
from duly.proof.points import Point
from duly.store.rehearsal import Rehearsal
from tests.faults.ground import LONG
from tests.proof import test_outside, test_run
from tests.proof.conftest import Stage


def nothing(*_: Any, **__: Any) -> None:
    """Left out."""


def silent(course: Course, _number: int = 0) -> None:
    """What was done is not told."""
    course._open = None


MUTANTS: dict[str, tuple[Any, str, Callable[..., Any], Callable[[Stage], None]]] = {
    "the killed worker is not buried": (
        Child,
        "_bury",
        nothing,
        test_run.test_careless_task_pays_twice_exactly_between_its_first_commit_and_its_record,
    ),
    "other jobs stay on the stage": (
        Rehearsal,
        "clear",
        nothing,
        test_run.test_other_jobs_that_wait_in_the_copy_are_not_run,
    ),
    "effects are not told": (
        Course,
        "done",
        silent,
        test_outside.test_mail_goes_to_a_stand_in_and_two_sendings_of_it_are_alike,
    ),
    "every course is as good": (
        Point,
        "same",
        lambda *_: True,
        test_run.test_task_of_another_course_each_time_cannot_be_told,
    ),
}


@pytest.mark.skipif(not LONG, reason="proofs by broken provers: DULY_TEST_FAULTS=long")
@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name: str, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, broken, check = MUTANTS[name]
    monkeypatch.setattr(owner, attribute, broken)
    with pytest.raises((AssertionError, ValueError)):
        check(stage)
