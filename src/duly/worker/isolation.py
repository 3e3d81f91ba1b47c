"""The worker's side of isolated jobs: one thread of the lane of sync tasks waits for each, and can kill it.

What may come of it, in this order:

1. The cell reports: that is the report. A report that came stands, whatever we did to the cell meanwhile.
2. We killed it: over its run time, or told to stop and did not.
3. The kernel killed it: over its processor time.
4. It died by itself. Before the task began that is no fault of the job; after that it is its own death.

A transactional task may have committed before it was killed or died: these reports go through the fence
and the ledger like any other.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from duly.errors import AttemptStopped, TimeLimit
from duly.model.events import Notice
from duly.model.report import Died, Report
from duly.worker.attempt import OverLimit
from duly.worker.nursery import fork_nursery, kill
from duly.worker.watch import DEAF, PATIENCE
from duly.worker.wire import Began, Garbled, Message, Order, Returned, StopAsked, Wire

if TYPE_CHECKING:
    from duly.worker.attempt import Attempt
    from duly.worker.home import Home

STARTING = 60.0
"""Seconds in which a cell must come to the task's own code: it connects, and may wait for SQLite's write lock."""
ENDING = 60.0
"""Seconds in which it must come from there to its report: the COMMIT, above all."""
AFTER_TIME = 1.0
"""Seconds between the run-time limit, of which the task hears in its cell as it would anywhere, and the kill."""
AFTER_STOP = PATIENCE + DEAF
"""Seconds between the wish to stop and the kill."""
LOOK = 0.25
"""Seconds between two looks at whether the attempt should stop. Such wishes come with a beat, every few seconds."""
LEAVING = 2.0


class CellLost(Exception):
    """A cell that was not made, or ended before the task began: nothing has happened."""


class Isolation:
    """A worker's nursery and what runs in its cells. ``start`` it before the worker has threads or connections."""

    def __init__(self, home: Home, pid: int, orders: socket.socket) -> None:
        self._home = home
        self._pid = pid
        self._orders = orders
        self._ordering = threading.Lock()
        self._gone = False
        self.on_loss: Callable[[], object] = str
        """Called when the nursery was found gone. A worker with threads cannot fork another: it should leave."""
        hold = weakref.ref(orders)
        os.register_at_fork(after_in_child=lambda: _let_go(hold()))

    @classmethod
    def start(cls, home: Home, *foreign: socket.socket) -> Self:
        """Fork a nursery, which is to close *foreign*."""
        return cls(home, *fork_nursery(home, foreign))

    @property
    def lost(self) -> bool:
        """Whether the nursery was found gone."""
        return self._gone

    def run(self, attempt: Attempt) -> Report:
        """Run an attempt in a cell. Raises ``AttemptStopped`` or ``OverLimit`` where it was killed for that."""
        leash = self._cell()
        try:
            with suppress(OSError):  # nobody listens: the nursery says why
                leash.wire.say(Order(attempt.job, attempt.worker, self._home.store.clock.now()))
            return _Watch(leash, attempt, self._lose).result()
        finally:
            leash.close()

    def close(self) -> None:
        """Kill what still runs, and wait a moment for the nursery to leave."""
        self._orders.settimeout(LEAVING)
        how = os.WNOHANG
        with suppress(OSError):
            self._orders.shutdown(socket.SHUT_WR)
            if not self._orders.recv(1):
                how = 0  # it is at its very end
        self._orders.close()
        with suppress(ChildProcessError):
            os.waitpid(self._pid, how)

    def _cell(self) -> Leash:
        ours, theirs = socket.socketpair()
        cord, far_end = socket.socketpair()
        try:
            with self._ordering:
                socket.send_fds(self._orders, [b"+"], [theirs.fileno(), far_end.fileno()])
        except OSError as error:
            ours.close()
            cord.close()
            self._lose()
            raise CellLost("the nursery is gone") from error
        finally:
            theirs.close()
            far_end.close()
        ours.settimeout(STARTING)
        return Leash(Wire(ours), cord)

    def _lose(self) -> None:
        """Without a nursery no isolated job can run; whoever started us starts another worker."""
        with self._ordering:
            first, self._gone = not self._gone, True
        if first:
            with suppress(ChildProcessError):
                os.waitpid(self._pid, os.WNOHANG)
            self._home.emitter.emit(
                Notice(
                    "the nursery of isolated jobs has died: the worker ends what runs, and leaves", "error"
                )
            )
            self.on_loss()


@dataclass(slots=True)
class Leash:
    """What a worker holds a cell by."""

    wire: Wire
    cord: socket.socket

    def kill(self) -> None:
        """Have the nursery kill it."""
        with suppress(OSError):
            self.cord.send(b"k")

    def close(self) -> None:
        """Let go, which kills it where it still runs."""
        with suppress(OSError):
            self.cord.shutdown(socket.SHUT_RDWR)
        self.cord.close()
        self.wire.close()


class _Watch:
    """One attempt in its cell, from the order to its end."""

    def __init__(self, leash: Leash, attempt: Attempt, lose: Callable[[], object]) -> None:
        self._leash = leash
        self._attempt = attempt
        self._lose = lose
        self._kill_at = time.monotonic() + STARTING
        self._why: BaseException = CellLost(f"the task did not begin within {STARTING:g} s")
        self._killed = False
        self._stoppable = True
        self._began: Began | None = None
        self._report: Report | None = None
        self._pid: int | None = None
        self._end: tuple[int, float] | None = None
        self._said = b""

    def result(self) -> Report:
        """Wait; what came of it."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._leash.wire, selectors.EVENT_READ, self._hear_cell)
            selector.register(self._leash.cord, selectors.EVENT_READ, self._hear_nursery)
            while self._report is None and self._end is None:
                for key, _ in selector.select(self._patience()):
                    if not key.data():
                        selector.unregister(key.fileobj)
                self._keep_time()
        if self._report is None:
            self._hear_the_rest()
        return self._report or self._verdict()

    def _patience(self) -> float:
        return LOOK if self._killed else max(0.0, min(self._kill_at - time.monotonic(), LOOK))

    # ── hearing ───────────────────────────────────────────────────────────────────────────────

    def _hear_cell(self, *, wait: bool = True) -> bool:
        try:
            messages = self._leash.wire.hear(wait=wait)
        except Garbled:
            return False  # the task has written there: its cell will end without a report
        for message in messages or ():
            self._take(message)
        return bool(messages) or (messages is not None and wait)

    def _hear_the_rest(self) -> None:
        """It has ended; what it said before that is here."""
        while self._hear_cell(wait=False):
            pass

    def _take(self, message: Message) -> None:
        match message:
            case Began():
                self._began = message
                self._attempt.started_at = message.at
                self._attempt.begun = True
                if self._stoppable:  # else it was told to stop before it began, and its time runs already
                    self._kill_after(self._attempt.run_time + AFTER_TIME, TimeLimit())
            case Returned():
                self._stoppable = False  # neither time limit nor cancellation reaches what follows
                self._kill_after(ENDING, OverLimit(f"not over {ENDING:g} s after the task had returned"))
            case Order() | StopAsked():
                pass
            case _ if (message.id, message.claim) == (self._attempt.job.id, self._attempt.job.claim):
                self._report = message

    def _hear_nursery(self) -> bool:
        try:
            some = self._leash.cord.recv(256)
        except OSError:
            some = b""
        *lines, self._said = (self._said + some).split(b"\n")
        for line in lines:
            match line.decode().split():
                case ["pid", pid]:
                    self._pid = int(pid)
                case ["end", code, used]:
                    self._end = int(code), float(used)
                case ["not", *why]:
                    raise CellLost(f"no process could be made: {' '.join(why)}")
        if not some and self._end is None:
            self._mourn()
        return bool(some)

    def _mourn(self) -> None:
        """The nursery has died, and with it the cell; what that has started is in its process group."""
        if self._pid is not None:
            kill(self._pid)
        self._hear_the_rest()
        self._lose()
        if self._report is None:
            raise CellLost("the nursery died")

    # ── acting ────────────────────────────────────────────────────────────────────────────────

    def _keep_time(self) -> None:
        reason = self._attempt.cancellation.reason
        if reason is not None and self._stoppable:
            self._stoppable = False
            self._kill_after(AFTER_STOP, AttemptStopped())
            with suppress(OSError):  # it has just ended
                self._leash.wire.say(StopAsked(reason))
        if time.monotonic() >= self._kill_at and not self._killed:
            self._killed = True
            self._leash.kill()

    def _kill_after(self, seconds: float, why: BaseException) -> None:
        self._kill_at, self._why = time.monotonic() + seconds, why

    # ── judging ───────────────────────────────────────────────────────────────────────────────

    def _verdict(self) -> Report:
        assert self._end is not None  # noqa: S101 - that is why we were asked
        code, used = self._end
        if self._killed:
            raise self._why
        if self._began is None:
            raise CellLost(f"the process ended before the task began: {described(code)}")
        limit = self._over_its_cpu(code, used)
        if limit is not None:
            raise OverLimit(f"over its max_cpu of {limit.total_seconds():g} s")
        job = self._attempt.job
        return Died(job.id, job.claim, described(code), self._began.at)

    def _over_its_cpu(self, code: int, used: float) -> timedelta | None:
        isolation = self._attempt.task.isolation
        limit = isolation.max_cpu if isolation is not None else None
        if limit is None or -code not in {signal.SIGXCPU, signal.SIGKILL} or used < limit.total_seconds():
            return None
        return limit


def described(code: int) -> str:
    """How a process ended."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit status {code}"


def _let_go(orders: socket.socket | None) -> None:
    """In a process that a task forks in the worker: the nursery must see when the worker itself is gone."""
    if orders is not None:
        orders.close()
