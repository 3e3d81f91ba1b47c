"""Where a claim may begin: behind the entries that earlier claims have left dead at the head of a queue.

A claim from the cursor sees only what stands behind the last job claimed. What came in before it (a
better priority, a retry, a job given back) is seen by a *full look*, which follows

* at once, when a claim from the cursor brought less than was asked for;
* after twenty times what the last full look took longer than claims from the cursor do, and after a
  second at the most. So full looks cost a twentieth of the time; and where no dead entries have
  gathered, every second claim is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from duly.clock import Clock
from duly.model.job import ClaimedJob

if TYPE_CHECKING:
    from duly.store.dialect.base import Position

LONGEST = 1.0
SHARE = 20
FORGET = 0.2


class Cursor:
    """One worker's positions, by queue."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._positions: dict[str, Position] = {}
        self._usual: float | None = None
        self._full_due = 0.0
        self._just_full = False

    def places(self) -> Mapping[str, Position]:
        """Where to begin in each queue; nowhere in particular when a full look is due."""
        if not self._just_full and self._clock.monotonic() >= self._full_due:
            self._positions = {}
        return self._positions

    def learn(self, claimed: Sequence[ClaimedJob], limit: int, seconds: float) -> bool:
        """A claim from ``places()`` brought this, and took so long; whether there may be more before the cursor."""
        full = self._just_full = not self._positions
        if full:
            excess = 0.0 if self._usual is None else max(0.0, seconds - self._usual)
            self._full_due = self._clock.monotonic() + min(SHARE * excess, LONGEST)
        elif self._usual is None:
            self._usual = seconds
        else:
            self._usual += FORGET * (seconds - self._usual)
        if len(claimed) < limit:
            self._positions = {}
            return not full
        last = {
            job.queue: job for job in claimed
        }  # the best come first, so the last of each queue is farthest
        for queue, job in last.items():
            self._positions[queue] = (job.priority, job.run_at, job.id)
        return False
