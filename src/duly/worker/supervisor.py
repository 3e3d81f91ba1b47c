"""The supervisor: starts worker processes, watches them, and is the only one that counts signals.

* A child that dies is replaced, at once if it had lived a while, else after a growing wait. Its jobs
  are offered again at once, and after 1 and 5 s: the dead child's last statement may still commit.
* A child that is silent on its pipe for a lease is killed: frozen, it would hold its jobs, on SQLite
  for ever, and on waking act on what is no longer its own.
* First TERM or INT: children claim no more, give back what was not started, and end what runs within
  the grace. Second: all are killed at once, and their jobs offered again.

It has one thread and keeps no connection open, so that it may fork at any time.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from duly.clock import Clock
from duly.errors import DatabaseError
from duly.model.events import ChildDied, Notice, Rescued, Started, Stopped
from duly.worker.child import DRAIN, EXIT_CUT_OFF, be_child
from duly.worker.queues import Selection
from duly.worker.signals import SignalPipe

if TYPE_CHECKING:
    from duly.worker.home import Home

LOOK_AGAIN = (0.0, 1.0, 5.0)
LIVED_A_WHILE = 10.0
FIRST_WAIT, LONGEST_WAIT = 0.2, 30.0
TICK = 0.5
AFTER_GRACE = 2.0


@dataclass(slots=True, eq=False)
class Child:
    """A worker process, as its supervisor sees it."""

    pid: int
    pipe: socket.socket
    born: float
    heard: float
    unread: bytes = b""
    workers: list[str] = field(default_factory=list)


class Supervisor:
    """Runs until told to stop (or, with *until_empty*, until its workers find nothing left)."""

    def __init__(
        self,
        home: Home,
        queues: Selection,
        *,
        processes: int,
        threads: int,
        coroutines: int,
        grace: float,
        until_empty: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self._home = home
        self._queues = queues
        self._processes = processes
        self._threads = threads
        self._coroutines = coroutines
        self._grace = grace
        self._until_empty = until_empty
        self._clock = clock or Clock()
        self._lease = home.settings.lease
        self._children: list[Child] = []
        self._starts: list[float] = []
        self._offers: list[tuple[float, str]] = []
        self._quick_deaths = 0
        self._stops = 0
        self._kill_at: float | None = None
        self._cut_off = False
        self._ticked = 0.0

    def run(self) -> int:
        """Supervise; 0 when every worker left cleanly, 1 when some had to be cut off."""
        name = f"{socket.gethostname()}.{os.getpid()}"
        self._home.emitter.emit(Started("supervisor", name, {"processes": self._processes}))
        self._ticked = now = self._clock.monotonic()
        self._starts = [now] * self._processes
        with SignalPipe(signal.SIGTERM, signal.SIGINT, signal.SIGCHLD) as signals:
            while self._children or self._starts or self._offers:
                self._start_due(signals)
                self._listen(signals)
                self._reap()
                self._offer_due()
                self._watch()
        self._home.emitter.emit(Stopped("supervisor", name))
        return int(self._cut_off)

    # ── children ──────────────────────────────────────────────────────────────────────────────

    def _start_due(self, signals: SignalPipe) -> None:
        now = self._clock.monotonic()
        due = [at for at in self._starts if at <= now]
        self._starts = [at for at in self._starts if at > now]
        for _ in due:
            self._start(signals)

    def _start(self, signals: SignalPipe) -> None:
        self._home.store.disconnect()
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            signals.forget()
            for handle in (ours, *(child.pipe for child in self._children)):
                handle.close()
            be_child(
                self._home,
                theirs,
                self._queues,
                threads=self._threads,
                coroutines=self._coroutines,
                until_empty=self._until_empty,
            )
        theirs.close()
        ours.setblocking(False)
        now = self._clock.monotonic()
        self._children.append(Child(pid, ours, born=now, heard=now))

    def _reap(self) -> None:
        for child in list(self._children):
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                self._read(child)
                self._buried(child, os.waitstatus_to_exitcode(status))

    def _buried(self, child: Child, code: int) -> None:
        """A child is gone: offer its jobs again, and start another unless we are leaving."""
        child.pipe.close()
        self._children.remove(child)
        now = self._clock.monotonic()
        if code != 0:
            self._home.emitter.emit(ChildDied(child.pid, _described(code)))
            self._offers += [(now + wait, worker) for worker in child.workers for wait in LOOK_AGAIN]
        if self._stops:
            self._cut_off = self._cut_off or code != 0
            return
        if code == 0 and self._until_empty:
            return
        self._quick_deaths = 0 if now - child.born > LIVED_A_WHILE else self._quick_deaths + 1
        wait = (
            min(FIRST_WAIT * 2 ** (self._quick_deaths - 2), LONGEST_WAIT) if self._quick_deaths > 1 else 0.0
        )
        self._starts.append(now + wait)

    # ── listening ─────────────────────────────────────────────────────────────────────────────

    def _listen(self, signals: SignalPipe) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(signals, selectors.EVENT_READ)
            for child in self._children:
                selector.register(child.pipe, selectors.EVENT_READ, child)
            for key, _ in selector.select(self._patience()):
                if isinstance(key.data, Child):
                    self._read(key.data)
        for number in signals.arrived():
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stop()

    def _patience(self) -> float:
        times = [*self._starts, *(at for at, _ in self._offers)]
        now = self._clock.monotonic()
        return min([TICK, *(max(at - now, 0.0) for at in times)])

    def _read(self, child: Child) -> None:
        """Pulses and the ids that the child takes as a worker; end of file is left to ``_reap``."""
        try:
            said = child.pipe.recv(65_536)
        except (BlockingIOError, OSError):
            return
        if not said:
            self._clock_wait()
            return
        child.heard = self._clock.monotonic()
        *lines, child.unread = (child.unread + said).split(b"\n")
        child.workers += [line[1:].decode() for line in lines if line.startswith(b"w")]

    def _clock_wait(self) -> None:
        """A closed pipe is readable all the time: do not spin until SIGCHLD comes."""
        signal.sigtimedwait([signal.SIGCHLD], 0.01)

    # ── stopping ──────────────────────────────────────────────────────────────────────────────

    def _stop(self) -> None:
        self._stops += 1
        self._starts.clear()
        if self._stops == 1:
            self._home.emitter.emit(
                Notice(f"stopping: running jobs have {self._grace:g} s; again to stop at once", "info")
            )
            self._kill_at = self._clock.monotonic() + self._grace + AFTER_GRACE
            for child in self._children:
                self._tell(child, f"{DRAIN}{self._grace}\n")
        else:
            self._kill_all()

    @staticmethod
    def _tell(child: Child, words: str) -> None:
        with suppress(OSError):  # it is gone, or about to be: _reap sees it
            child.pipe.send(words.encode())

    def _kill_all(self) -> None:
        for child in self._children:
            os.kill(child.pid, signal.SIGKILL)

    def _watch(self) -> None:
        """Kill the silent, and those that outstay the grace."""
        now = self._clock.monotonic()
        if now - self._ticked > max(self._lease / 3, 2 * TICK):
            for child in self._children:  # we were stopped ourselves: what they said meanwhile is unread
                child.heard = now
        self._ticked = now
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            self._kill_all()
        for child in self._children:
            if now - child.heard > self._lease:
                self._home.emitter.emit(
                    Notice(f"worker process {child.pid} is silent for {self._lease:g} s; killed")
                )
                os.kill(child.pid, signal.SIGKILL)
                child.heard = now

    # ── the dead ──────────────────────────────────────────────────────────────────────────────

    def _offer_due(self) -> None:
        now = self._clock.monotonic()
        leaving = bool(self._stops) and not self._children  # what a late commit leaves, others will rescue
        due = list(dict.fromkeys(worker for at, worker in self._offers if at <= now or leaving))
        self._offers = [] if leaving else [(at, worker) for at, worker in self._offers if at > now]
        if not due:
            return
        try:
            self._offer_again(due)
        except Exception as error:  # noqa: BLE001 - whatever it is, the workers need their supervisor
            if not isinstance(error, DatabaseError):
                self._home.emitter.emit(
                    Notice(f"jobs of a dead worker were not offered again: {error}", "error")
                )
            if not self._stops:
                self._offers += [(now + 1.0, worker) for worker in due]
        finally:
            self._home.store.disconnect()

    def _offer_again(self, workers: list[str]) -> None:
        store, count = self._home.store, 0
        while True:
            with store.tending() as connection:
                store.workers.remove(connection, workers)
                rows = store.rescue.offer_again(connection, workers)
            count += len(rows)
            if not rows:
                break
        for worker in workers:
            store.dialect.drop_liveness(worker)
        if count:
            self._home.emitter.emit(Rescued(count, len(workers)))


def _described(code: int) -> str:
    if code == EXIT_CUT_OFF:
        return "jobs still ran when the grace was over"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit status {code}"
