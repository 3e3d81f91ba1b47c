"""Promotion, expiry and rescue: what some worker has to do for all."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from duly.clock import Clock
from duly.model.events import Emitter, Event, JobEnded, JobSuspected, Rescued
from duly.model.states import Outcome

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from duly.settings import Settings
    from duly.store import Store
    from duly.store.rescue import Taken
    from duly.store.upkeep import Due

LOOK = 1.0
SOONEST = 0.001


class Upkeep:
    """Looks once a second, and earlier when a scheduled job is due before that.

    A worker that is woken, and told with each beat what is due, need not look in between.
    """

    def __init__(self, store: Store, clock: Clock, emitter: Emitter) -> None:
        self._store = store
        self._clock = clock
        self._emitter = emitter
        self._untold: list[JobEnded] = []
        self.due = 0.0

    def hurry(self, wait: timedelta) -> None:
        """A job was put back for so long: look then at the latest."""
        self.due = min(self.due, self._clock.monotonic() + max(wait.total_seconds(), SOONEST))

    def look(self, connection: Connection) -> bool:
        """Promote and expire what is due; whether there was anything."""
        return self.tend(connection, self._store.upkeep.look(connection), LOOK)

    def tend(self, connection: Connection, found: Due, longest: float) -> bool:
        """Promote and expire what was *found* due, and look again when the next is, in *longest* seconds at most."""
        upkeep = self._store.upkeep
        self._untold.clear()
        moved = found.promote and upkeep.promote(connection) > 0
        if found.expire:
            for row in upkeep.expire(connection):
                cause = "not started before expires_at"
                self._untold.append(
                    JobEnded(row.id, row.task, row.queue, Outcome.EXPIRED, row.attempt, cause)
                )
        something = moved or bool(self._untold)  # then there may be more behind; what is locked can wait
        wait = longest if found.next_due is None else found.next_due.total_seconds()
        self.due = self._clock.monotonic() + (
            SOONEST if something else min(max(wait, SOONEST), LOOK if found.promote else longest)
        )
        return something

    def tell(self) -> None:
        """Say what was done, once it is committed."""
        while self._untold:
            self._emitter.emit(self._untold.pop(0))


def news_of(taken: Taken, workers: int) -> list[Event]:
    """What to say of the jobs that were taken back from so many workers."""
    news: list[Event] = [
        JobEnded(row.id, row.task, row.queue, end.outcome, row.attempt + end.counted, end.cause)
        for row, end in taken.ended
    ]
    news += [JobSuspected(row.id, row.task, row.queue, deaths=row.deaths + 1) for row in taken.suspects]
    if taken.offered:
        news.append(Rescued(taken.offered, workers))
    return news


class Rescue:
    """Offers the jobs of dead workers again."""

    def __init__(self, store: Store, settings: Settings, emitter: Emitter) -> None:
        self._store = store
        self._lease = timedelta(seconds=settings.lease)
        self._emitter = emitter
        self._untold: list[Event] = []

    def look(self, connection: Connection, judge: str) -> int:
        """Rescue a batch; how many jobs it took."""
        rescue = self._store.rescue
        dead = self._store.dialect.dead_workers(connection, self._lease, judge)
        gone = list(dict.fromkeys([*dead, *rescue.orphaning_workers(connection)]))
        taken = rescue.offer_again(connection, gone)
        self._untold = news_of(taken, len(gone))
        return len(taken.rows)

    def tell(self) -> None:
        """Say what was done, once it is committed."""
        while self._untold:
            self._emitter.emit(self._untold.pop(0))
