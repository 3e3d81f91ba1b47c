"""What a worker does beside running jobs, by the clock: it beats, promotes, expires, prunes, looks after the dead."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import TYPE_CHECKING

from duly.clock import Clock
from duly.worker.rest import Rest
from duly.worker.services.prune import Prune
from duly.worker.services.upkeep import LOOK, Rescue, Upkeep
from duly.worker.standing import Standing

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from duly.worker.home import Home


class Duties:
    """Each in a transaction of its own, short as they are."""

    def __init__(
        self,
        home: Home,
        clock: Clock,
        standing: Standing,
        rest: Rest,
        transaction: Callable[[], AbstractContextManager[Connection]],
        on_suspects: Callable[[], object],
    ) -> None:
        self._clock = clock
        self._standing = standing
        self._rest = rest
        self._transaction = transaction
        self._on_suspects = on_suspects
        self._beat = home.settings.beat
        self._upkeep = Upkeep(home.store, clock, home.emitter)
        self._rescue = Rescue(home.store, home.settings, home.emitter)
        self._prune = Prune(home.store, home.settings, clock)

    @property
    def due(self) -> float:
        """When the next of them is."""
        if self._rest.wants_ping:
            return 0.0
        return min(self._standing.membership.due, self._upkeep.due, self._prune.due)

    def hurry(self, wait: timedelta) -> None:
        """A job was put back for so long: look then at the latest."""
        self._upkeep.hurry(wait)

    def serve(self, *, draining: bool) -> bool:
        """Do what is due; whether there may be jobs to claim now."""
        now = self._clock.monotonic()
        if now >= self._standing.membership.due or self._rest.wants_ping:
            return self.beat(draining=draining)
        if draining:
            return False
        found = now >= self._upkeep.due and self._keep_up()
        if now >= self._prune.due:
            with self._transaction() as connection:
                self._prune.look(connection)
        return found

    def _keep_up(self) -> bool:
        with self._transaction() as connection:
            found = self._upkeep.look(connection)
        self._upkeep.tell()
        return found

    def beat(self, *, draining: bool) -> bool:
        """A beat, and what it tells: jobs that are due or that no wake-up told of, and workers that are gone."""
        found = False
        self._rest.expect_echo()
        with self._transaction() as connection:
            pulse = self._standing.beat(connection)
            if pulse is None:
                self._rest.asleep = False
            elif not draining:
                found = self._upkeep.tend(connection, pulse.due, self._beat if self._rest.woken else LOOK)
        self._upkeep.tell()
        if pulse is None:
            return True
        if pulse.suspects:
            self._on_suspects()
        if pulse.dead and self._standing.membership.may_judge():
            found = self._look_after_the_dead() or found
        return found or pulse.free

    def _look_after_the_dead(self) -> bool:
        """Offer their jobs again, a batch a transaction; what is locked is left for the next beat."""
        count = 0
        while True:
            with self._transaction() as connection:
                some = self._rescue.look(connection, self._standing.membership.id)
            self._rescue.tell()
            count += some
            if not some:
                return count > 0
