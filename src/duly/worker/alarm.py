"""The alarm clock of the watch: it sleeps until the next deadline, and an earlier one wakes it.

A job asks for no lock and tells nobody: when its region can be seen, it compares its deadline with ``next``,
the moment at which the watch looks anyway. Only a limit that is shorter than the watch's sleep rings, and of
many such jobs the first alone.
"""

from __future__ import annotations

import threading

NEVER = float("inf")


class Alarm:
    """Between the threads and loops that run jobs, and the watch."""

    def __init__(self) -> None:
        self._rung = threading.Event()
        self.next = -NEVER
        """When the watch looks; whose time is up before that, rings. While nobody looks nobody need be rung."""

    def ring(self) -> None:
        """Look now."""
        self._rung.set()

    def awake(self, at_latest: float) -> None:
        """The watch looks, and will again *at_latest* then. Who comes meanwhile may be passed over by this look."""
        self._rung.clear()
        self.next = at_latest

    def rest(self, now: float, until: float) -> None:
        """Until then, or until an earlier deadline comes."""
        self.next = until
        self._rung.wait(max(0.0, until - now))

    def off(self) -> None:
        """Nobody looks any more."""
        self.next = -NEVER
