"""Holes that were once found in what needs no database: attempts, clocks, settings, and who may judge."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from duly import Backoff, Retry, Snooze
from duly.clock import DatabaseClock
from duly.envelope.trouble import Trouble
from duly.errors import DatabaseBusy, DatabaseUnavailable, SettingsError
from duly.model.report import Ended, PutBack, Released, Succeeded
from duly.settings import Settings
from duly.worker.blackbox import BlackBox
from duly.worker.pool import Loop, Threads
from duly.worker.services.membership import Membership
from duly.worker.ticket import Done, Ticket
from tests.unit.worker.bench import Bench
from tests.unit.worker.test_membership import pulse_at
from tests.worker.turned import TurnedClock

PATIENCE = 10
NOWHERE = Path("/nowhere/pyproject.toml")


@pytest.fixture
def bench() -> Bench:
    return Bench()


# ── what a task asks for wrongly ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", [Retry, Snooze])
@pytest.mark.parametrize("after", ["5", Decimal(5), b"5", True, [5], object(), 5j])
def test_a_bad_after_is_refused_where_it_is_written(kind: Any, after: Any) -> None:
    """In the pump's arithmetic it would end the worker."""
    with pytest.raises(TypeError, match="after"):
        kind(after=after)


@pytest.mark.parametrize("kind", [Retry, Snooze])
@pytest.mark.parametrize("at", ["2030-01-01", date(2030, 1, 1), 5, datetime(2030, 1, 1), timedelta(1)])  # noqa: DTZ001
def test_a_bad_at_is_refused_where_it_is_written(kind: Any, at: Any) -> None:
    with pytest.raises(TypeError, match="at"):
        kind(at=at)


@pytest.mark.parametrize("kind", [Retry, Snooze])
@pytest.mark.parametrize("after", [math.nan, math.inf, -math.inf, 1e30])
def test_seconds_that_are_no_time_are_refused_where_they_are_written(kind: Any, after: float) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        kind(after=after)


@pytest.mark.parametrize("kind", [Retry, Snooze])
def test_a_bad_wait_in_a_task_is_a_failed_attempt_of_it(bench: Bench, kind: Any) -> None:
    @bench.app.task(retry=Backoff.fixed(60))
    def odd() -> None:
        raise kind(after=Decimal(5))

    report: Any = bench.run(bench.job(odd.call()))
    assert isinstance(report, PutBack)
    assert (report.cause, report.counted, report.after) == ("TypeError", True, timedelta(seconds=60))


# ── what a task ends with ─────────────────────────────────────────────────────────────────────


async def cancelled_future() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def raised() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("way", [cancelled_future, raised])
def test_a_cancellation_of_the_tasks_own_is_a_failed_attempt(bench: Bench, way: Callable[[], Any]) -> None:
    @bench.app.task(max_attempts=2, retry=Backoff.fixed(60))
    async def odd() -> None:
        await way()

    first: Any = bench.run(bench.job(odd.call()))
    assert (type(first), first.cause, first.counted) == (PutBack, "CancelledError", True)
    last: Any = bench.run(bench.job(odd.call(), attempt=1))
    assert (type(last), last.outcome, last.counted) == (Ended, "failed", True)


async def _coroutine() -> None: ...


async def _asynchronous() -> AsyncIterator[int]:
    yield 1


def _generator() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize("what", [_coroutine, _generator, _asynchronous])
@pytest.mark.parametrize("keep", [False, True])
def test_a_sync_task_that_returns_what_never_ran_has_failed(
    bench: Bench, what: Callable[[], Any], keep: bool
) -> None:
    """A decorator that wraps an async function in a plain one makes such a task."""

    @bench.app.task(max_attempts=1, keep_result=keep)
    def wrapped():  # type: ignore[no-untyped-def]
        return what()

    job = bench.job(wrapped.call())
    report: Any = bench.run(job)
    assert isinstance(report, Ended)
    assert (report.outcome, report.counted) == ("failed", True)
    message = bench.trouble(job, report).message
    assert ("coroutine" if what is _coroutine else "generator") in message


@pytest.mark.parametrize("error", [DatabaseBusy, DatabaseUnavailable])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_database_error_out_of_a_tasks_body_is_a_failed_attempt(
    bench: Bench, error: type[Exception], asynchronous: bool
) -> None:
    def body() -> None:
        raise error("from the body")

    async def abody() -> None:
        raise error("from the body")

    task: Any = bench.app.task(name="t", max_attempts=1)(abody if asynchronous else body)
    report: Any = bench.run(bench.job(task.call()))
    assert (type(report), report.counted) == (Ended, True)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit("no words")


class Unshowable(Exception):
    __notes__ = property(lambda _: sys.exit(1))  # type: ignore[assignment]


@pytest.mark.parametrize("error", [Unspeakable, Unshowable])
def test_an_exception_that_exits_when_it_is_shown_is_a_failed_attempt_and_costs_no_thread(
    bench: Bench, error: type[Exception]
) -> None:
    done: SimpleQueue[Done | None] = SimpleQueue()

    @bench.app.task(name="odd", max_attempts=1)
    def odd() -> None:
        raise error

    @bench.app.task(name="fine")
    def fine() -> None: ...

    lane = Threads(bench.executor, done, 1, BlackBox(1))
    lane.start()
    try:
        tickets = [Ticket(bench.job(task.call()), "w1", 0.0, asynchronous=False) for task in (odd, fine)]
        lane.hand_over(tickets)
        first, second = done.get(timeout=PATIENCE), done.get(timeout=PATIENCE)
    finally:
        lane.stop(PATIENCE)
    assert first is not None
    assert second is not None
    report: Any = first.report
    assert (type(report), report.outcome) == (Ended, "failed")
    assert error.__name__ in bench.trouble(tickets[0].job, report).type
    assert isinstance(second.report, Succeeded)


def test_trouble_is_made_of_whatever_is_raised() -> None:
    assert "SystemExit" in Trouble.of(Unspeakable()).message


# ── the loop lane ─────────────────────────────────────────────────────────────────────────────


async def exit_in_a_child() -> None:
    async def child() -> None:
        sys.exit(1)

    await asyncio.gather(child())


async def exit_in_a_callback() -> None:
    asyncio.get_running_loop().call_soon(sys.exit, 1)
    await asyncio.sleep(0)


@pytest.mark.parametrize("way", [exit_in_a_child, exit_in_a_callback])
def test_the_loop_outlives_an_exit_in_what_a_task_starts(bench: Bench, way: Callable[[], Any]) -> None:
    done: SimpleQueue[Done | None] = SimpleQueue()

    @bench.app.task(name="odd", max_attempts=1)
    async def odd() -> None:
        await way()

    @bench.app.task(name="fine")
    async def fine() -> None: ...

    lane = Loop(bench.executor, done, 4, BlackBox(4), 0)
    seen: list[Done] = []
    try:
        for task in (odd, fine, fine):
            lane.hand_over([Ticket(bench.job(task.call()), "w1", 0.0, asynchronous=True)])
            report = done.get(timeout=PATIENCE)
            assert report is not None
            seen.append(report)
    finally:
        if lane._thread is not None and lane._thread.is_alive():
            assert lane.stop(PATIENCE)
    assert [report.ticket.job.task for report in seen] == ["odd", "fine", "fine"]
    assert not isinstance(seen[0].report, Released)
    assert all(isinstance(report.report, Succeeded) for report in seen[1:])


# ── time ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("wall", "monotonic"), [(3600.0, 0.0), (-3600.0, 0.0), (0.0, 30.0), (1.2, 0.0)])
def test_a_reading_is_stale_when_the_machines_clocks_disagree(wall: float, monotonic: float) -> None:
    """It slept, or somebody has set its clock; the database's may have been set as well."""
    clock = TurnedClock()
    database = DatabaseClock(clock)
    database.learn(clock.wall())
    clock.turn(10)
    assert not database.stale
    clock.day += timedelta(seconds=wall)
    clock.seconds += monotonic
    assert database.stale
    database.learn(clock.wall())
    assert not database.stale


@pytest.mark.parametrize("by", [0.9, -0.9])
def test_a_correction_of_the_clock_is_no_jump(by: float) -> None:
    clock = TurnedClock()
    database = DatabaseClock(clock)
    database.learn(clock.wall())
    clock.turn(5)
    clock.day += timedelta(seconds=by)
    assert not database.stale


# ── lease and beat ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("lease", "beat"), [(15, 7.5), (15, 5.1), (3, 1.2), (0.5, 0.2)])
def test_a_beat_of_more_than_a_third_of_the_lease_is_refused(lease: float, beat: float) -> None:
    with pytest.raises(SettingsError, match="third"):
        Settings.read(pyproject=NOWHERE, lease=lease, beat=beat)


def test_a_third_of_any_lease_is_taken() -> None:
    for tenths in range(5, 1000):
        lease = tenths / 10
        assert Settings.read(pyproject=NOWHERE, lease=lease).beat == lease / 3
        assert Settings.read(pyproject=NOWHERE, lease=lease, beat=round(lease / 3, 4)).lease == lease


def member(clock: TurnedClock, settings: Settings) -> Membership:
    workers = SimpleNamespace(register=lambda *_, **__: clock.wall(), pulse=lambda *_: pulse_at(clock.wall()))
    dialect = SimpleNamespace(beats=True, hold_liveness=lambda _: None)
    store: Any = SimpleNamespace(workers=workers, dialect=dialect, clock=DatabaseClock(clock))
    made = Membership(store, settings, clock, "*")
    made.join(None)  # type: ignore[arg-type]
    return made


@pytest.mark.parametrize("lease", [1.5, 15.0, 60.0])
@pytest.mark.parametrize("part", [3, 5, 10])
def test_nobody_judges_after_a_gap_in_which_a_living_worker_may_have_been_silent_for_a_lease(
    lease: float, part: int
) -> None:
    """The other one's last beat may be a whole beat older than ours when the database goes away."""
    settings = Settings.read(pyproject=NOWHERE, lease=lease, beat=lease / part)
    clock = TurnedClock()
    judge = member(clock, settings)
    for _ in range(part + 1):
        clock.turn(settings.beat)
        assert judge.beat(None)  # type: ignore[arg-type]
    assert judge.may_judge()
    clock.turn(lease - settings.beat + 0.001)
    assert not judge.may_judge()
    judge.beat(None)  # type: ignore[arg-type]
    assert not judge.may_judge()
