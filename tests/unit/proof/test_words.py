"""Options in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from duly import Backoff
from duly.proof import words


@pytest.mark.parametrize(
    ("length", "said"),
    [
        (timedelta(days=90), "90 days"),
        (timedelta(hours=36), "36 hours"),
        (timedelta(hours=1), "1 hour"),
        (timedelta(minutes=5), "5 minutes"),
        (timedelta(seconds=90), "90 seconds"),
        (timedelta(milliseconds=500), "0.5 seconds"),
        (timedelta(0), "0 seconds"),
    ],
)
def test_durations(length: timedelta, said: str) -> None:
    assert words.span(length) == said


def test_expiry() -> None:
    assert words.expiry(timedelta(days=90)) == "90 days after `run_at`"
    assert words.expiry(datetime(2026, 7, 1, 12, tzinfo=UTC)) == "2026-07-01 12:00 UTC"


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Backoff(), "after `n**4 + 5` seconds"),
        (Backoff.fixed(60), "each after 1 minute"),
        (Backoff.fixed(60, jitter=0.25), "each after 1 minute, give or take 25%"),
        (Backoff(power=2, factor=3, plus=0, cap=3600), "after `3 * n**2 + 0` seconds, at most 1 hour"),
        (Backoff(power=0, factor=2, plus=1), "each after 3 seconds"),
    ],
)
def test_waits_between_attempts(rule: Backoff, said: str) -> None:
    assert words.waits(rule) == said
