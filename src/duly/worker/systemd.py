"""What systemd is told of a supervisor: ready, stopping, its status, and that it still turns."""

from __future__ import annotations

import socket
from contextlib import suppress

from duly.settings import Notifying


class Systemd:
    """Datagrams to the socket that systemd names; nothing, where none is named.

    Called from the supervisor's own loop, so that a supervisor that hangs falls silent.
    """

    def __init__(self, notifying: Notifying) -> None:
        address = notifying.socket
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._every = None if notifying.watchdog is None else notifying.watchdog / 2
        self._status = ""
        self._next_ping = 0.0

    def say(self, *lines: str) -> None:
        """``READY=1``, ``STOPPING=1``: whatever it is. A socket that is gone is systemd's own trouble."""
        if self._address:
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
                line.sendto("\n".join(lines).encode(), self._address)

    def status(self, words: str) -> None:
        """``STATUS=``, where it has changed."""
        if words != self._status:
            self._status = words
            self.say(f"STATUS={words}")

    def ping(self, now: float) -> None:
        """``WATCHDOG=1``, when it is due."""
        if self._every is not None and now >= self._next_ping:
            self._next_ping = now + self._every
            self.say("WATCHDOG=1")

    def patience(self, now: float) -> float:
        """Seconds until the next ping."""
        return 60.0 if self._every is None else max(self._next_ping - now, 0.0)
