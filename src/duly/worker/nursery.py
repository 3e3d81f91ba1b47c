"""The nursery: a small process beside a worker, which makes a fresh process (a *cell*) for each isolated job.

A worker has threads and connections, so it cannot fork safely. Its nursery is forked before the worker has
either: it has one thread, holds the imported application, and opens no connection. So it may fork at any
time, and what cells inherit is shared memory.

* A worker sends a byte with two sockets: one for the cell, one for the nursery (the *cord*). On the cord
  the nursery says which process the cell is, and how it ended; whatever the worker says there, or its
  silence for ever (end of file), kills the cell.
* A cell leads a process group. It is killed with all that it has started, also when it ends by itself.
* When the worker is gone, the nursery kills all cells and leaves. A cell whose nursery is gone is killed
  by the kernel (Linux), or leaves by itself when its own line is cut.
"""

from __future__ import annotations

import ctypes
import logging
import os
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from duly.model.events import Notice
from duly.worker.cell import be_cell
from duly.worker.signals import COUNTED_ABOVE, SignalPipe, leave_it, obeys
from duly.worker.title import set_title

if TYPE_CHECKING:
    from duly.worker.home import Home

PR_SET_PDEATHSIG = 1
KILLED_FIRST = 500
"""Added to the badness by which the kernel chooses whom to kill when memory runs out: rather a cell than a worker."""


def fork_nursery(home: Home, foreign: Iterable[socket.socket]) -> tuple[int, socket.socket]:
    """Right after a worker was forked: its nursery's process id, and the line to it. *foreign* is not the nursery's."""
    ours, theirs = socket.socketpair()
    worker = os.getpid()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for handle in (ours, *foreign):
                handle.close()
            Nurse(home, theirs, worker).serve()
            code = 0
        except BaseException:
            logging.getLogger("duly").exception("the nursery of isolated jobs failed")
        finally:
            os._exit(code)
    theirs.close()
    return pid, ours


class Nurse:
    """The nursery's one thread."""

    def __init__(self, home: Home, orders: socket.socket, worker: int) -> None:
        self._home = home
        self._orders = orders
        self._worker = worker
        self._cords: dict[int, socket.socket] = {}
        self._signals = SignalPipe(*filter(obeys, COUNTED_ABOVE), signal.SIGCHLD)
        self._selector = selectors.DefaultSelector()

    def serve(self) -> None:
        """Make cells, and bury them, until the worker is gone."""
        # A terminal's Ctrl-C and a kill of the worker's group are not for us: we are to outlive it by a moment.
        os.setpgid(0, 0)
        set_title("nursery")
        with self._signals, self._selector:
            die_with_parent(signal.SIGTERM)
            self._warn_of_threads()
            self._selector.register(self._orders, selectors.EVENT_READ)
            self._selector.register(self._signals, selectors.EVENT_READ)
            try:
                while os.getppid() == self._worker and self._turn():
                    pass
            finally:
                for pid in self._cords:
                    kill(pid)

    def _turn(self) -> bool:
        """What has come; False at the end of orders."""
        came = {key.fileobj: key.data for key, _ in self._selector.select()}
        signalled = came.pop(self._signals, False) is None
        ordered = came.pop(self._orders, False) is None
        for cord, pid in came.items():
            self._selector.unregister(cord)
            kill(pid)
        if signalled:
            self._signals.arrived()
            self._bury()  # last of those that look at cords: it closes some
        return not ordered or self._take_order()

    def _take_order(self) -> bool:
        said, handles, _, _ = socket.recv_fds(self._orders, 1, 2)
        if not said or len(handles) < 2:
            return False
        for handle in handles:
            os.set_inheritable(handle, False)
        end, cord = (socket.socket(fileno=handle) for handle in handles)
        cord.setblocking(False)
        try:
            pid = os.fork()
        except OSError as error:
            _say(cord, f"not {error.strerror}\n")
            cord.close()
        else:
            if pid == 0:
                self._become_cell(end, cord)
            with suppress(OSError):  # it has done so itself, or is gone
                os.setpgid(pid, pid)
            self._cords[pid] = cord
            self._selector.register(cord, selectors.EVENT_READ, pid)
            _say(cord, f"pid {pid}\n")
        end.close()
        return True

    def _bury(self) -> None:
        for pid, cord in list(self._cords.items()):
            ended, status, usage = os.wait4(pid, os.WNOHANG)
            if ended:
                del self._cords[pid]
                with suppress(KeyError):  # its kill was asked for
                    self._selector.unregister(cord)
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)  # what it has started
                used = usage.ru_utime + usage.ru_stime
                _say(cord, f"end {os.waitstatus_to_exitcode(status)} {used:.3f}\n")
                cord.close()

    def _become_cell(self, end: socket.socket, cord: socket.socket) -> NoReturn:
        try:
            nursery = os.getppid()
            os.setpgid(0, 0)
            die_with_parent(signal.SIGKILL)
            if os.getppid() != nursery:
                os._exit(1)
            self._signals.forget()
            self._selector.close()
            for handle in (self._orders, cord, *self._cords.values()):
                handle.close()
            for number in filter(obeys, COUNTED_ABOVE):
                signal.signal(number, leave_it)  # a stop of the whole service: the worker's grace counts
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _offer_to_be_killed_first()
            be_cell(self._home, end)
        finally:
            os._exit(1)

    def _warn_of_threads(self) -> None:
        """Libraries may start threads anew after a fork."""
        if threading.active_count() > 1:
            names = ", ".join(sorted(thread.name for thread in threading.enumerate()))
            self._home.emitter.emit(
                Notice(
                    f"the nursery of isolated jobs has threads ({names}) that some library starts after a fork: "
                    "a fork beside them may hang; such jobs are killed at their max_run_time"
                )
            )


def kill(pid: int) -> None:
    """A cell that was not buried yet, and its process group; also when it has left its group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def die_with_parent(number: signal.Signals) -> None:
    """Have the kernel send us *number* when our parent is gone (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def _offer_to_be_killed_first() -> None:
    with suppress(OSError, ValueError):
        file = Path("/proc/self/oom_score_adj")
        file.write_text(str(min(int(file.read_text()) + KILLED_FIRST, 1000)))


def _say(cord: socket.socket, words: str) -> None:
    with suppress(OSError):  # the worker has hung up
        cord.send(words.encode())
