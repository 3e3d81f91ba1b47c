"""A clock that moves only when a test turns it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from duly.clock import Clock


class TurnedClock(Clock):
    def __init__(self) -> None:
        self.seconds = 1000.0
        self.day = datetime(2026, 5, 1, 12, tzinfo=UTC)

    def wall(self) -> datetime:
        return self.day

    def monotonic(self) -> float:
        return self.seconds

    def turn(self, seconds: float) -> None:
        self.seconds += seconds
        self.day += timedelta(seconds=seconds)
