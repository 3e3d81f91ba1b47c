"""Options: read, checked, merged."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from duly.errors import DeclarationError, InvalidOptions
from duly.model.ids import new_id
from duly.model.options import DEFAULTS, CallOptions, Options, QueueOptions, hint, seconds
from duly.model.retry import Backoff

ALL = tuple(CallOptions.__annotations__) + tuple(QueueOptions.__annotations__)
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def read(**given: Any) -> Options:
    return Options.read(given, allowed=ALL, where="here", error=InvalidOptions)


def test_the_defaults_are_delayed_jobs_and_expiry_after_ninety_days() -> None:
    assert Options(
        queue="default", priority=0, expires=timedelta(days=90), max_attempts=25, retry=Backoff(),
        max_run_time=timedelta(hours=4), keep_result=False, unique_scope="unfinished", on_conflict="existing",
    ) == DEFAULTS  # fmt: skip


def test_everything_is_read_into_one_unit() -> None:
    identity = new_id()
    assert read(
        queue="q", priority=-5, run_in=1.5, expires_in=timedelta(1), max_attempts=3, retry=Backoff.fixed(1),
        max_run_time=9, keep_result=True, id=identity,
    ) == Options(
        "q", -5, timedelta(seconds=1.5), timedelta(1), 3, Backoff.fixed(1), timedelta(seconds=9), True, identity
    )  # fmt: skip


def test_instants_become_utc() -> None:
    zone = timezone(timedelta(hours=-3))
    found = read(run_at=MOMENT.astimezone(zone), expires_at=MOMENT.astimezone(zone))
    assert (found.run, found.expires) == (MOMENT, MOMENT)
    assert isinstance(found.run, datetime)
    assert found.run.tzinfo is UTC


def test_none_says_nothing() -> None:
    assert read(**dict.fromkeys(ALL)) == Options()
    assert read(run_at=None, run_in=5).run == timedelta(seconds=5)


def test_the_nearer_level_wins_moment_or_distance() -> None:
    near, far = (
        read(run_in=5, priority=0),
        read(run_at=MOMENT, expires_at=MOMENT, priority=3, keep_result=True),
    )
    merged = near.over(far)
    assert (merged.run, merged.expires, merged.priority, merged.keep_result) == (
        timedelta(seconds=5), MOMENT, 0, True,
    )  # fmt: skip
    assert far.over(near).run == MOMENT
    for field in fields(Options):
        assert getattr(Options().over(far), field.name) == getattr(far, field.name)


def test_false_and_zero_are_said_and_win() -> None:
    merged = read(keep_result=False, priority=0, run_in=0).over(read(keep_result=True, priority=5, run_in=9))
    assert (merged.keep_result, merged.priority, merged.run) == (False, 0, timedelta(0))


def test_a_misspelt_option_is_refused_with_a_hint_and_by_the_callers_error() -> None:
    with pytest.raises(InvalidOptions, match=r"here has no option 'prio'; did you mean 'priority'\?"):
        read(prio=1)
    with pytest.raises(DeclarationError, match="no option 'zzz'; there are priority, queue"):
        Options.read({"zzz": 1}, allowed=("queue", "priority"), where="task x", error=DeclarationError)


@pytest.mark.parametrize("pair", [("run_at", "run_in"), ("expires_at", "expires_in")])
def test_a_moment_and_a_distance_together_contradict(pair: tuple[str, str]) -> None:
    with pytest.raises(InvalidOptions, match=f"give {pair[0]}= or {pair[1]}=, not both"):
        read(**{pair[0]: MOMENT, pair[1]: 5})


@pytest.mark.parametrize("given", [{"run_at": 5}, {"expires_at": timedelta(5)}, {"run_in": MOMENT}])
def test_a_distance_is_no_moment(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptions):
        read(**given)


@pytest.mark.parametrize("value", [0, 0.0, 1.5, timedelta(days=36_500), -5, timedelta(microseconds=1)])
def test_durations_are_timedeltas_or_seconds(value: Any) -> None:
    expected = value if isinstance(value, timedelta) else timedelta(seconds=value)
    assert seconds("x", value) == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300, timedelta.max, -timedelta(days=36_501)])
def test_durations_out_of_bounds_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="out of bounds"):
        seconds("x", value)


@pytest.mark.parametrize("value", [True, "5", None, b"5", MOMENT])
def test_what_is_no_duration_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="timedelta or a number of seconds"):
        seconds("x", value)


@pytest.mark.parametrize("priority", [-32_768, 32_767])
def test_priorities_fit_a_smallint_to_the_last(priority: int) -> None:
    assert read(priority=priority).priority == priority
    with pytest.raises(InvalidOptions, match="from -32768 to 32767"):
        read(priority=priority + (1 if priority > 0 else -1))


def test_a_hint_names_the_nearest_or_all_or_nothing() -> None:
    assert hint("quue", ["queue", "x"]) == "; did you mean 'queue'?"
    assert hint("zzz", ["b", "a"]) == "; there are a, b"
    assert hint("zzz", []) == ""
