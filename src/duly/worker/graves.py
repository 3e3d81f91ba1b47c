"""Worker processes that are gone, and the jobs that they leave: offered again, and looked for twice more.

At once, and after 1 and 5 s: the dead process's last statement may still have been on its way. What its
black box had stands with each look, so that a row that was locked at first is blamed, or spared, all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from duly.clock import Clock
from duly.errors import DatabaseError
from duly.model.events import Notice
from duly.worker.services.upkeep import news_of

if TYPE_CHECKING:
    from duly.store.rescue import Taken
    from duly.worker.home import Home

LOOK_AGAIN = (0.0, 1.0, 5.0)
TRY_AGAIN = 1.0


@dataclass(slots=True, eq=False)
class Grave:
    """A process that is gone: the ids that it had as a worker, what had started in it, and what it died of."""

    workers: list[str]
    started: Mapping[UUID, int]
    cause: str | None
    """None: it did not die by itself, so nobody is to blame."""
    looks: list[float] = field(default_factory=list)


class Graves:
    """What is still to be looked for."""

    def __init__(self, home: Home, clock: Clock) -> None:
        self._home = home
        self._clock = clock
        self._graves: list[Grave] = []

    def __bool__(self) -> bool:
        return bool(self._graves)

    @property
    def due(self) -> list[float]:
        """When the next looks are."""
        return [grave.looks[0] for grave in self._graves]

    def dig(self, workers: list[str], started: Mapping[UUID, int], cause: str | None) -> None:
        """A process is gone."""
        if workers:
            now = self._clock.monotonic()
            self._graves.append(Grave(workers, started, cause, [now + wait for wait in LOOK_AGAIN]))

    def look(self, *, last: bool) -> bool:
        """Look where it is due, or (*last*) once more everywhere; whether some job has become a suspect.

        What a late commit leaves behind the last look, others will rescue.
        """
        now = self._clock.monotonic()
        due = [grave for grave in self._graves if last or grave.looks[0] <= now]
        if not due:
            return False
        found = False
        for grave in due:
            found = self._look_at(grave, now) or found
        self._graves = [] if last else [grave for grave in self._graves if grave.looks]
        self._home.store.disconnect()
        return found

    def _look_at(self, grave: Grave, now: float) -> bool:
        try:
            found = self._take_back(grave)
        except Exception as error:  # noqa: BLE001 - whatever it is, the workers need their supervisor
            if not isinstance(error, DatabaseError):
                words = f"jobs of a dead worker were not offered again: {error}"
                self._home.emitter.emit(Notice(words, "error"))
            grave.looks = [now + TRY_AGAIN, *(at for at in grave.looks if at > now + TRY_AGAIN)]
            return False
        grave.looks = [at for at in grave.looks if at > now]
        return found

    def _take_back(self, grave: Grave) -> bool:
        """All that it leaves, a batch a transaction."""
        store, found = self._home.store, False
        while True:
            with store.tending() as connection:
                store.workers.remove(connection, grave.workers)
                if grave.cause is None:
                    taken = store.rescue.offer_again(connection, grave.workers, started=grave.started)
                else:
                    taken = store.rescue.mourn(connection, grave.workers, grave.started, grave.cause)
            self._tell(taken, grave)
            found = found or bool(taken.suspects)
            if not taken.rows:
                break
        for worker in grave.workers:
            store.dialect.drop_liveness(worker)
        return found

    def _tell(self, taken: Taken, grave: Grave) -> None:
        for event in news_of(taken, len(grave.workers)):
            self._home.emitter.emit(event)
