"""The only source of local time, so that tests can turn it.

Two readings: ``wall`` (UTC, only to be corrected by the database's offset) and ``monotonic``
(seconds, for intervals). What the *database* says the time is, is kept in ``DatabaseClock``.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

FRESH = 60.0
"""Seconds for which a reading of the database's clock is good: clocks that nobody sets drift by 10 ms in it."""

JUMP = 1.0
"""Seconds by which wall and monotonic clock may differ before one of them is taken to have jumped."""


class Clock:
    """The machine's time. Tests put a turned one in its place."""

    def wall(self) -> datetime:
        """The time of day, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that never go back; the zero is arbitrary."""
        return time.monotonic()


class DatabaseClock:
    """The database's time, as far as a process knows it without asking.

    ``learn`` takes a reading that came with some statement; between readings the time is carried
    forward on the monotonic clock, so a jump of the machine's wall clock moves nothing.
    """

    def __init__(self, local: Clock) -> None:
        self.local = local
        self._reading: tuple[datetime, float, datetime] | None = None

    @property
    def known(self) -> bool:
        """Whether the database has been asked at least once."""
        return self._reading is not None

    def learn(self, told: datetime) -> None:
        """Remember that the database has just said that it is *told*.

        Taken as the time of the reply, though it was read a little before. So ``now`` runs behind the
        database by a round trip at most, and never ahead: a job that is due "now" is due for the database.
        """
        self._reading = (told, self.local.monotonic(), self.local.wall())

    @property
    def stale(self) -> bool:
        """Whether to ask again: the reading is old, or one of the machine's own clocks has jumped or slept since."""
        if self._reading is None:
            return True
        _, at, wall = self._reading
        elapsed = self.local.monotonic() - at
        return elapsed > FRESH or abs((self.local.wall() - wall).total_seconds() - elapsed) > JUMP

    def now(self) -> datetime:
        """The database's time by the last reading; the machine's own before the first."""
        if self._reading is None:
            return self.local.wall()
        told, at, _ = self._reading
        return told + timedelta(seconds=self.local.monotonic() - at)
