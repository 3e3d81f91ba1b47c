"""What follows from what a task raises: named, passing or neither, counted or not."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from duly import Backoff, Cancel, Retry, Snooze
from duly.model.report import Ended, PutBack
from duly.model.states import Outcome
from duly.task.context import Stop
from duly.worker.verdict import MOST_PASSING
from tests.unit.worker.bench import Bench


class Declined(Exception): ...


class DeclinedForNow(Declined): ...


@pytest.fixture
def bench() -> Bench:
    return Bench()


def report(
    bench: Bench, error: BaseException, *, passing: bool = False, job: Any = None, **options: Any
) -> Any:
    """Of an attempt of a task that raises."""
    if passing:
        bench.passing.append(error)

    def fail() -> None:
        raise error

    task = bench.app.task(name="raising", retry=Backoff.fixed(7), **options)(fail)
    return bench.run(bench.job(task.call(), **(job or {})))


def is_retry(found: Any) -> bool:
    return isinstance(found, PutBack) and found.counted and found.after == timedelta(seconds=7)


# ── what the task has named ───────────────────────────────────────────────────────────────────


def test_what_is_given_up_on_fails_at_once(bench: Bench) -> None:
    found = report(bench, DeclinedForNow("no money"), give_up_on=(Declined,))
    assert isinstance(found, Ended)
    assert (found.outcome, found.counted) == (Outcome.FAILED, True)
    assert found.cause == "DeclinedForNow: given up at once"
    assert bench.trouble(bench.job(bench.app.tasks[0].call()), found).message == "no money"


def test_the_nearer_class_is_tried_again(bench: Bench) -> None:
    assert is_retry(report(bench, DeclinedForNow(), give_up_on=(Declined,), retry_on=(DeclinedForNow,)))


def test_what_is_not_named_is_tried_again_too(bench: Bench) -> None:
    """Also where something else is named: delayed_job's rule."""
    assert is_retry(report(bench, ValueError(), retry_on=(Declined,)))


def test_what_a_task_says_goes_before_what_it_has_named(bench: Bench) -> None:
    named = (Exception,)
    assert report(bench, Snooze(), give_up_on=named).cause == "snoozed"
    bench = Bench()
    assert report(bench, Cancel(), give_up_on=named).outcome is Outcome.CANCELLED
    bench = Bench()
    assert is_retry(report(bench, Retry(), give_up_on=named))


def test_what_is_tried_again_has_its_last_attempt(bench: Bench) -> None:
    found = report(bench, Declined(), retry_on=(Declined,), max_attempts=3, job={"attempt": 2})
    assert (found.outcome, found.cause) == (Outcome.FAILED, "Declined in attempt 3, the last")


def test_a_task_that_was_told_to_stop_gives_nothing_up(bench: Bench) -> None:
    bench.cancellation.set(Stop.TIME)
    found = report(bench, Declined(), give_up_on=(Declined,))
    assert is_retry(found)
    assert found.cause.startswith("over its max_run_time")


# ── what passes by itself ─────────────────────────────────────────────────────────────────────


def test_a_passing_fault_uses_no_attempt(bench: Bench) -> None:
    found = report(bench, ValueError(), passing=True, max_attempts=1)
    assert isinstance(found, PutBack)
    assert (found.counted, found.transient, found.cause) == (False, True, "ValueError")
    assert found.error is not None


def test_its_waits_are_short_and_grow_and_differ(bench: Bench) -> None:
    waits: dict[int, set[timedelta]] = {}
    error = ValueError()
    bench.passing.append(error)

    @bench.app.task(name="raising")
    def fail() -> None:
        raise error

    for before in (0, MOST_PASSING - 1):
        runs: list[Any] = [bench.run(bench.job(fail.call(), transients=before)) for _ in range(5)]
        waits[before] = {found.after for found in runs}
    assert all(len(some) > 1 for some in waits.values())
    assert max(waits[0]) <= timedelta(seconds=0.15)
    assert timedelta(seconds=5) <= min(waits[9]) <= max(waits[9]) <= timedelta(seconds=15)


def test_the_eleventh_counts(bench: Bench) -> None:
    assert is_retry(report(bench, ValueError(), passing=True, job={"transients": 10}))
    bench = Bench()
    assert report(bench, ValueError(), passing=True, job={"transients": 9}).transient


def test_a_passing_fault_that_is_given_up_on_fails(bench: Bench) -> None:
    found = report(bench, ValueError(), passing=True, give_up_on=(ValueError,))
    assert found.outcome is Outcome.FAILED


def test_a_passing_fault_in_a_task_that_was_told_to_stop_counts(bench: Bench) -> None:
    """What it meets while it tidies up is no reason to go on for ever."""
    bench.cancellation.set(Stop.TIME)
    assert is_retry(report(bench, ValueError(), passing=True))


def test_passing_faults_do_not_lengthen_the_wait_for_an_unknown_task(bench: Bench) -> None:
    @bench.app.task(name="raising")
    def fail() -> None: ...

    job = bench.job(fail.call(), task="unknown", claim=4, transients=3)
    found: Any = bench.run(job)
    assert found.after == timedelta(seconds=5)
