"""A worker among workers: its row, its beats, and whether it may judge others.

Only a worker whose own beats have landed on time for a whole lease may call others dead. After an
outage, a jump of the database's clock or a long lock wait everyone looks dead to the first one back;
so it waits one lease, in which the living beat.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from duly.clock import Clock

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from duly.settings import Settings
    from duly.store import Store
    from duly.store.workers import Pulse


class Membership:
    """The row in the workers table. The id is new at each start, and after each loss of the row."""

    def __init__(self, store: Store, settings: Settings, clock: Clock, queues: str) -> None:
        self._store = store
        self._lease = settings.lease
        self._beat = settings.beat
        self._clock = clock
        self._queues = queues
        self._last: tuple[float, datetime] | None = None
        self._steady_since = 0.0
        self.due = 0.0
        self.id = ""

    @property
    def joined(self) -> bool:
        """Whether there is a row of ours."""
        return bool(self.id)

    def join(self, connection: Connection) -> None:
        """Enter the table under a new id, before any claim."""
        name = new_worker_id()
        self._store.dialect.hold_liveness(name)
        try:
            now = self._store.workers.register(
                connection, name, host=socket.gethostname(), pid=os.getpid(), queues=self._queues
            )
        except BaseException:
            self._store.dialect.drop_liveness(name)
            raise
        self.id = name
        self._store.clock.learn(now)
        self._land(now, fresh=True)

    def beat(self, connection: Connection) -> Pulse | None:
        """Show that we live, and learn what is to be seen to; None when our row is gone, and we count as dead."""
        pulse = self._store.workers.pulse(connection, self.id, timedelta(seconds=self._lease))
        if pulse is not None:
            self._store.clock.learn(pulse.now)
            self._land(pulse.now)
        return pulse

    def missed(self) -> None:
        """A beat failed: try again in a second."""
        self.due = self._clock.monotonic() + min(1.0, self._beat)

    def may_judge(self) -> bool:
        """Whether our own beats have landed on time for a whole lease (an OS lock needs no such proof)."""
        if not self._store.dialect.beats:
            return True
        now = self._clock.monotonic()
        on_time = self._last is not None and now - self._last[0] <= 2 * self._beat
        return on_time and now - self._steady_since >= self._lease

    def forget(self) -> None:
        """The id is spent: it is never entered again."""
        if self.id:
            self._store.dialect.drop_liveness(self.id)
        self.id = ""
        self._last = None

    def leave(self, connection: Connection) -> None:
        """Take our row out."""
        if self.id:
            self._store.workers.remove(connection, [self.id])

    def _land(self, told: datetime, *, fresh: bool = False) -> None:
        now = self._clock.monotonic()
        if fresh or self._last is None or not self._on_time(told, now):
            self._steady_since = now
        self._last = (now, told)
        self.due = now + self._beat

    def _on_time(self, told: datetime, now: float) -> bool:
        assert self._last is not None  # noqa: S101 - asked before
        here, there = now - self._last[0], (told - self._last[1]).total_seconds()
        return here <= 2 * self._beat and abs(there - here) <= self._beat


def new_worker_id() -> str:
    """``host.pid.random``: readable, and never the same twice."""
    host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:60]
    return f"{host}.{os.getpid()}.{secrets.token_hex(4)}"
