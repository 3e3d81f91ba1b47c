"""How long a pump with nothing to do may rest, and what wakes it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from duly.clock import Clock
from duly.model.events import Notice

if TYPE_CHECKING:
    from duly.worker.home import Home

SHORTEST = 0.005
MOMENT, MOMENTS = 0.0005, 10
LONGEST_LOOK = 1.0
"""Seconds: after a rest of so long the beats look for what no wake-up told of."""

NEVER = math.inf
PROVEN_WITHIN = 5.0
BUSY_TURNS = 3


class Rest:
    """5, 10, 20 … ms between looks: up to the poll interval, or to a second while something wakes us.

    Where enqueues have to be asked for a call, the worker says in its row that it sleeps, and *then*
    looks again after 5, 10, 20 … ms: a transaction that did not see the flag yet is found after about
    its own length.
    """

    def __init__(self, home: Home, clock: Clock) -> None:
        self._emitter = home.emitter
        self._poll = home.settings.poll
        self._clock = clock
        self._waker = home.store.dialect.waker(home.store.engine)
        self._asks = home.store.dialect.asks_to_be_woken
        self._wait = SHORTEST
        self._moments = 0
        self._busy = 0
        self._told = False
        self._started: float | None = None
        self.asleep = False
        """Whether our row says that we sleep."""

    def start(self, ring: Callable[[], None], worker: Callable[[], str]) -> None:
        """Be woken from now on, as *worker*: *ring* is called from another thread."""
        self.asleep = False
        if self._waker is not None:
            self._started = self._clock.monotonic()
            self._waker.start(ring, worker)

    def close(self) -> None:
        """Be woken no more."""
        if self._waker is not None:
            self._waker.close()

    @property
    def woken(self) -> bool:
        """Whether something is known to wake us."""
        return self._waker is not None and self._waker.proven

    @property
    def wants_ping(self) -> bool:
        """Whether a beat should come at once, so that its echo can be heard."""
        return self._waker is not None and self._waker.wants_ping

    def expect_echo(self) -> None:
        """A beat is about to be sent, whose echo should be heard."""
        if self._waker is None or self._started is None:
            return
        unheard = not self.woken and self._clock.monotonic() - self._started > PROVEN_WITHIN
        if unheard and not self._told:
            self._told = True
            self._emitter.emit(
                Notice(
                    "notifications do not reach this worker (is there a pooler in transaction mode?): it looks "
                    f"for jobs every {self._poll:g} s"
                )
            )
        self._waker.expect_echo()

    def wait(self) -> float:
        """Seconds until the next look."""
        if self._moments > 0:
            self._moments -= 1
            return MOMENT
        wait = self._wait
        if not self.woken:
            self._wait = min(wait * 2, max(self._poll, SHORTEST))
        else:
            self._wait = wait * 2 if wait < LONGEST_LOOK else NEVER
        return wait

    def over(self) -> None:
        """Something came: the next wait is short again."""
        self._wait, self._moments = SHORTEST, 0

    def rung(self) -> None:
        """Somebody rang, and there is no news: perhaps they are not done yet."""
        self._wait, self._moments = SHORTEST, MOMENTS

    def flag(self, *, found: bool) -> bool | None:
        """What our row should say from now on; None while it says it.

        Asleep with the first look that finds nothing; awake when three in a row have found something,
        since each enqueue that wakes somebody takes a lock that all sessions share.
        """
        self._busy = self._busy + 1 if found else 0
        if self._asks and not self.asleep and not found:
            return True
        if self.asleep and self._busy >= BUSY_TURNS:
            return False
        return None
