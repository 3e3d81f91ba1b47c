"""A database that does not answer, or is busy: what a pump knows of it, and says of it."""

from __future__ import annotations

from duly.clock import Clock
from duly.errors import DatabaseBusy, DatabaseError
from duly.model.events import DatabaseFound, DatabaseLost, Emitter, Notice

BUSY_FOR = 5.0
"""Seconds of waiting for locks after which it is said, again and again."""


class Outage:
    """From the first transaction that failed to the next turn that went well."""

    def __init__(self, emitter: Emitter, clock: Clock) -> None:
        self._emitter = emitter
        self._clock = clock
        self._lost_at: float | None = None
        self._busy_since: float | None = None
        self.doubtful = False
        """Whether a reply was not read, so that rows and what we hold must be compared first."""
        self.careful = False
        """Whether the next exchange should pass over rows that others have locked."""

    @property
    def lasts(self) -> bool:
        """Whether the database does not answer."""
        return self._lost_at is not None

    def stumble(self, error: DatabaseError) -> None:
        """A transaction failed."""
        self.doubtful = True
        if isinstance(error, DatabaseBusy):
            self.careful = True
            self._busy(error)
        elif self._lost_at is None:
            self._lost_at = self._clock.monotonic()
            self._emitter.emit(DatabaseLost(str(error)))

    def over(self) -> None:
        """A turn went well."""
        self._busy_since = None
        if self._lost_at is not None:
            self._emitter.emit(DatabaseFound(self._clock.monotonic() - self._lost_at))
            self._lost_at = None

    def _busy(self, error: DatabaseBusy) -> None:
        now = self._clock.monotonic()
        if self._busy_since is None:
            self._busy_since = now
        elif now - self._busy_since > BUSY_FOR:
            self._emitter.emit(Notice(f"the database is busy for {now - self._busy_since:.0f} s: {error}"))
