"""What a test may not leave behind: threads and child processes.

Connections are looked after where the database is handed out (``conftest.py``).
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

from tests.postgresql import children_of, wait_gone

PATIENCE = 2.0
PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Let grandchildren whose parent has gone come to this process, so that they are seen (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@dataclass(frozen=True)
class Surroundings:
    """The threads and children of this process at one moment."""

    threads: frozenset[threading.Thread]
    children: frozenset[int]

    @classmethod
    def now(cls) -> Surroundings:
        """What is there before a test."""
        return cls(frozenset(threading.enumerate()), frozenset(_children()))

    def left_behind(self, spared: Callable[[], set[int]]) -> list[str]:
        """What has come since and does not go. Children are killed once they are named."""
        deadline = time.monotonic() + PATIENCE
        left = []
        for thread in threading.enumerate():
            if thread not in self.threads and (not thread.daemon or thread.name.startswith("duly-")):
                thread.join(max(0.0, deadline - time.monotonic()))
                if thread.is_alive():
                    left.append(f"thread {thread.name!r}")
        for child in _children() - self.children - spared() - _helpers():
            if not wait_gone(child, max(0.0, deadline - time.monotonic())):
                left.append(f"child process {child}: {_command(child)}")
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                wait_gone(child)
        return left


def _children() -> set[int]:
    if sys.platform == "linux":
        return children_of(os.getpid())
    return {child.pid for child in multiprocessing.active_children() if child.pid}


def _helpers() -> set[int]:
    """The processes that ``multiprocessing`` keeps for as long as the interpreter lives."""
    return {
        getattr(resource_tracker._resource_tracker, "_pid", None) or 0,
        getattr(forkserver._forkserver, "_forkserver_pid", None) or 0,
    }


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return "gone meanwhile"


def open_files(path: Path) -> list[str]:
    """The file descriptors of this process that stand open on files whose names begin with *path*."""
    found = []
    for descriptor in Path("/proc/self/fd").glob("*"):
        with contextlib.suppress(OSError):
            if (target := str(descriptor.readlink())).startswith(str(path)):
                found.append(target)
    return sorted(found)
