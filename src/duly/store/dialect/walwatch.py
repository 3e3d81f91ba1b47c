"""How a worker on SQLite is woken: whoever commits writes to the -wal file, and Linux tells who watches it."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from duly.store.dialect.base import Waker

_MODIFY = 0x2
_EVENT = struct.Struct("iIII")


class WalWatch(Waker):
    """Watches the folder by inotify, since the -wal file comes and goes. On other systems workers poll."""

    def __init__(self, database: Path) -> None:
        self._folder = database.parent
        self._file = os.fsencode(f"{database.name}-wal")
        self._handle = -1
        self._thread: threading.Thread | None = None
        self._wake_read = self._wake_write = -1

    @property
    def proven(self) -> bool:
        """Whether the folder is watched."""
        return self._handle >= 0

    def start(self, ring: Callable[[], None], worker: Callable[[], str]) -> None:  # noqa: ARG002 - each commit is for all
        """Watch, in a thread, where the system can."""
        self._handle = _watch(self._folder)
        if self._handle >= 0:
            self._wake_read, self._wake_write = os.pipe()
            self._thread = threading.Thread(target=self._serve, args=(ring,), name="duly-watch", daemon=True)
            self._thread.start()

    def expect_echo(self) -> None:
        """Nothing can go deaf here."""

    def close(self) -> None:
        """End the thread and the watch."""
        if self._thread is None:
            return
        os.write(self._wake_write, b".")
        self._thread.join()
        for handle in (self._handle, self._wake_read, self._wake_write):
            os.close(handle)
        self._handle = -1

    def _serve(self, ring: Callable[[], None]) -> None:
        while self._wake_read not in select.select([self._handle, self._wake_read], [], [])[0]:
            if self._file in _names(os.read(self._handle, 65_536)):
                ring()


def _watch(folder: Path) -> int:
    """A handle that tells of writes to files in *folder*; -1 where that cannot be had."""
    if sys.platform != "linux":
        return -1
    library = ctypes.CDLL(None)
    handle: int = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if handle >= 0 and library.inotify_add_watch(handle, os.fsencode(folder), _MODIFY) < 0:
        os.close(handle)
        return -1
    return handle


def _names(events: bytes) -> set[bytes]:
    found, at = set(), 0
    while at < len(events):
        length = _EVENT.unpack_from(events, at)[3]
        at += _EVENT.size
        found.add(events[at : at + length].rstrip(b"\0"))
        at += length
    return found
