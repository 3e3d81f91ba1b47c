"""LISTEN: how a worker on PostgreSQL is woken. On a connection of its own, in a thread of its own.

With each beat the worker rings its own bell. A listener that does not hear it within ``ECHO`` seconds is
deaf (its connection is dead, or a pooler in transaction mode stands between) and is replaced; until its
echo is heard the worker polls.
"""

from __future__ import annotations

import hashlib
import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sqlalchemy import Engine

from duly.store.dialect.base import Waker
from duly.store.schema import Tables

ECHO = 4.0
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0


class Listener(Waker):
    """Hears the channel, and rings for what is said to everybody."""

    def __init__(self, engine: Engine, channel: str) -> None:
        self._engine = engine
        self._channel = channel
        self._thread: threading.Thread | None = None
        self._wake_read = self._wake_write = -1
        self._stopping = False
        self._heard = self._fresh = False
        self._asked: float | None = None

    @property
    def proven(self) -> bool:
        """Whether the last echo was heard, or may still come."""
        return self._heard and not self._deaf

    def start(self, ring: Callable[[], None], worker: Callable[[], str]) -> None:
        """Listen, in a thread."""
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(
            target=self._serve, args=(ring, worker), name="duly-listen", daemon=True
        )
        self._thread.start()

    @property
    def wants_ping(self) -> bool:
        """Whether it has begun to listen, and nobody has tried yet whether it hears."""
        return self._fresh

    def expect_echo(self) -> None:
        """Said before the pulse is sent, since its echo may be faster than whoever sent it."""
        self._fresh = False
        if self._thread is not None and self._asked is None:
            self._asked = time.monotonic()
            self._nudge()

    def close(self) -> None:
        """End the thread, and with it the connection."""
        if self._thread is None:
            return
        self._stopping = True
        self._nudge()
        self._thread.join()
        os.close(self._wake_read)
        os.close(self._wake_write)

    @property
    def _deaf(self) -> bool:
        return self._asked is not None and time.monotonic() - self._asked > ECHO

    def _nudge(self) -> None:
        os.write(self._wake_write, b".")

    def _serve(self, ring: Callable[[], None], worker: Callable[[], str]) -> None:
        wait = FIRST_WAIT
        while not self._stopping:
            self._heard, self._fresh, self._asked = False, False, None
            with suppress(Exception):  # whatever it is, polling serves, and the next try will tell
                self._listen(ring, worker)
            wait = FIRST_WAIT if self._heard else min(wait * 2, LONGEST_WAIT)
            self._pause(wait)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stopping and (left := until - time.monotonic()) > 0:
            if select.select([self._wake_read], [], [], left)[0]:
                os.read(self._wake_read, 4096)

    def _listen(self, ring: Callable[[], None], worker: Callable[[], str]) -> None:
        """Until it turns out to be deaf, or somebody closes it."""
        with self._engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            connection.detach()  # it goes back to no pool
            driver.autocommit = True
            driver.execute(f"LISTEN {self._channel}")
            self._fresh = True
            ring()  # what came before is not told
            while not self._stopping and not self._deaf:
                left = None if self._asked is None else max(self._asked + ECHO - time.monotonic(), 0) + 0.01
                ready = select.select([driver.fileno(), self._wake_read], [], [], left)[0]
                if self._wake_read in ready:
                    os.read(self._wake_read, 4096)
                for note in driver.notifies(timeout=0):
                    if note.payload == worker():
                        self._heard, self._asked = True, None
                    elif note.payload == "":
                        ring()


def channel_of(tables: Tables) -> str:
    """One channel an installation; its name is short enough whatever prefix and schema are called."""
    return f"duly_{hashlib.sha256(tables.jobs.fullname.encode()).hexdigest()[:16]}"
