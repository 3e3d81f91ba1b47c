"""The retry rule: n**4 + 5 seconds unless told otherwise."""

from __future__ import annotations

from datetime import timedelta

import pytest

from duly.model.retry import Backoff


def test_the_default_is_delayed_jobs_rule() -> None:
    assert [Backoff().delay(n).total_seconds() for n in (1, 2, 3, 4, 24)] == [6, 21, 86, 261, 331_781]


def test_factor_plus_power_and_cap() -> None:
    rule = Backoff(power=2, plus=1, factor=3, cap=50)
    assert [rule.delay(n).total_seconds() for n in (1, 2, 3, 4, 5)] == [4, 13, 28, 49, 50]


def test_a_fixed_wait() -> None:
    assert {Backoff.fixed(7).delay(n) for n in range(1, 30)} == {timedelta(seconds=7)}


def test_jitter_stays_within_its_share_and_spreads() -> None:
    waits = {Backoff.fixed(100, jitter=0.1).delay(1).total_seconds() for _ in range(200)}
    assert 90 <= min(waits) < 97
    assert 103 < max(waits) <= 110
    assert min(Backoff.fixed(1, jitter=1).delay(1) for _ in range(200)) >= timedelta(0)


def test_no_attempt_is_too_high_for_the_calendar() -> None:
    assert Backoff(power=1e6).delay(1000) == timedelta(days=3650)
    assert Backoff(factor=1e308).delay(1000) == timedelta(days=3650)
    assert Backoff(plus=1e300, jitter=1).delay(1) <= timedelta(days=3650)
    assert Backoff(power=1e6, cap=9).delay(1000) == timedelta(seconds=9)


@pytest.mark.parametrize(
    "wrong",
    [
        {"power": -1}, {"plus": -1}, {"factor": -0.1}, {"power": float("nan")}, {"plus": float("inf")}, {"jitter": 1.1},
        {"jitter": -0.1}, {"jitter": float("nan")}, {"cap": 0}, {"cap": -5}, {"cap": float("inf")},
        {"cap": float("nan")},
    ],
)  # fmt: skip
def test_numbers_out_of_bounds_are_refused_naming_the_field(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"Backoff\({name}=…\)"):
        Backoff(**wrong)
