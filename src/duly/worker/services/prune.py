"""Pruning, as a worker does it between its exchanges: seldom, and a little at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duly.clock import Clock
from duly.model.pruning import Keep

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from duly.settings import Settings
    from duly.store import Store

FIRST, EVERY = 10.0, 60.0
"""Seconds until the first look, and between looks that find nothing."""

BATCH = 200
"""Rows in one round, in each of its orders."""

SHARE = 4
"""While there is more to do, a round takes one part in so many of the time."""


class Prune:
    """Looks once a minute. Where there is something to do it does a batch after the other, with pauses for the jobs."""

    def __init__(self, store: Store, settings: Settings, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._keep = Keep.days(settings.keep_succeeded, settings.keep_failed, settings.keep_other)
        self._more = False
        self.due = clock.monotonic() + FIRST

    def look(self, connection: Connection) -> None:
        """One look, and a batch where there is something to do; a failure of either waits for the next minute."""
        began = self._clock.monotonic()
        self.due, prune = began + EVERY, self._store.prune
        if not self._more and not prune.look(connection, self._keep, self._store.clock.now()):
            return
        self._more = False
        self._more = prune.round(connection, self._keep, BATCH).more
        if self._more:
            now = self._clock.monotonic()
            self.due = now + (SHARE - 1) * (now - began)
