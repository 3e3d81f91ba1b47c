"""Who may write next, in a process on SQLite: the pump first, then one transactional task at a time.

SQLite has one writer. Two threads of a process that wait for its lock take turns by chance, so the
pump, for which every job of the worker waits, could starve behind a row of transactional tasks.
Elsewhere it is no lock at all.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from duly.errors import DatabaseBusy


class WriteTurn:
    """One lock with two doors; a release may come from another thread than the acquire."""

    def __init__(self, *, shared: bool) -> None:
        self._shared = shared
        self._changed = threading.Condition()
        self._taken = False
        self._pumps_waiting = 0
        self._broken = False

    @contextmanager
    def of_pump(self) -> Iterator[None]:
        """For the pump: next in line, whoever else waits."""
        if not self._shared:
            yield
            return
        with self._changed:
            self._pumps_waiting += 1
            try:
                self._changed.wait_for(lambda: not self._taken or self._broken)
                if self._taken:
                    raise DatabaseBusy("a transactional task that does not stop holds SQLite's write lock")
                self._taken = True
            finally:
                self._pumps_waiting -= 1
        try:
            yield
        finally:
            self._leave()

    def break_off(self) -> bool:
        """A task does not stop while it has the turn: the pump waits no more. False where there are no turns."""
        with self._changed:
            self._broken = self._shared
            self._changed.notify_all()
        return self._broken

    @contextmanager
    def of_task(self) -> Iterator[None]:
        """For a transactional task: when nobody writes and no pump waits."""
        if self._shared:
            self._enter_task()
        try:
            yield
        finally:
            if self._shared:
                self._leave()

    @asynccontextmanager
    async def of_async_task(self) -> AsyncIterator[None]:
        """The same, without holding up the loop."""
        if self._shared:
            while not self._try_task():  # noqa: ASYNC110 - who leaves may be another thread
                await asyncio.sleep(0.005)
        try:
            yield
        finally:
            if self._shared:
                self._leave()

    def _enter_task(self) -> None:
        with self._changed:
            self._changed.wait_for(self._free_for_task)
            self._taken = True

    def _try_task(self) -> bool:
        with self._changed:
            if not self._free_for_task():
                return False
            self._taken = True
            return True

    def _free_for_task(self) -> bool:
        return not self._taken and not self._pumps_waiting

    def _leave(self) -> None:
        with self._changed:
            self._taken = False
            self._changed.notify_all()
