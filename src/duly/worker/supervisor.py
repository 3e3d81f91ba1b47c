"""The supervisor: starts worker processes, watches them, and is the only one that counts signals.

* A child that dies is replaced, at once if it had lived a while, else after a growing wait; each slot waits
  for itself. Its jobs are offered again at once, and after 1 and 5 s (``graves.py``).
* A child that dies *by itself* leaves a black box. The jobs that had started in it are suspects from then on,
  and run in a child of their own: nothing drains, and no neighbour is blamed.
* A child that is silent on its pipe for a lease is killed: frozen, it would hold its jobs, on SQLite
  for ever, and on waking act on what is no longer its own.
* First TERM, INT or HUP: children claim no more, give back what was not started, and end what runs within
  the grace. Second: all are killed at once, and their jobs offered again. QUIT is a second one that first
  has the children show what they were doing.

It has one thread and keeps no connection open, so that it may fork at any time; and what it has imported
by then is shared with its children.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from duly.clock import Clock
from duly.errors import DatabaseError
from duly.model.events import ChildDied, JobEnded, Notice, Started, Stopped
from duly.model.states import Outcome
from duly.settings import Notifying
from duly.worker.assignment import Assignment
from duly.worker.blackbox import BlackBox
from duly.worker.child import (
    AFTER_GRACE,
    DRAIN,
    EXIT_CUT_OFF,
    EXIT_DEAF,
    EXIT_FAILED,
    EXIT_NO_NURSERY,
    EXIT_RECYCLE,
    SHOW_STACKS,
    be_child,
)
from duly.worker.graves import Graves
from duly.worker.queues import Selection
from duly.worker.signals import COUNTED_ABOVE, SignalPipe, obeys
from duly.worker.slot import Child, Slot
from duly.worker.systemd import Systemd

if TYPE_CHECKING:
    from duly.worker.home import Home

TICK = 0.5
TO_SHOW_STACKS = 1.0
WELL = {0, EXIT_RECYCLE, EXIT_DEAF, EXIT_NO_NURSERY}
"""Exit codes of children that have left nothing behind."""
WORDS = {
    EXIT_CUT_OFF: "jobs still ran when the grace was over",
    EXIT_DEAF: "a job did not stop when it was told to",
    EXIT_FAILED: "it could not work",
}


class Supervisor:
    """Runs until told to stop (or, where its children work until empty, until they find nothing left)."""

    def __init__(
        self,
        home: Home,
        assignments: Sequence[Assignment],
        *,
        notifying: Notifying | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._home = home
        self._clock = clock or Clock()
        self._lease, self._beat = home.settings.lease, home.settings.beat
        first = assignments[0]
        self._grace, self._until_empty = first.grace, first.until_empty
        self._queues = Selection([pattern for some in assignments for pattern in some.queues.patterns])
        self._suspects = Slot(first.of_suspects(self._queues))
        self._slots = [*(Slot(assignment) for assignment in assignments), self._suspects]
        self._graves = Graves(home, self._clock)
        self._systemd = Systemd(notifying or Notifying())
        self._ready = False
        self._stops = 0
        self._kill_at: float | None = None
        self._cut_off = False
        self._ticked = 0.0
        self._look_due = 0.0

    def run(self) -> int:
        """Supervise; 0 when every worker left cleanly, 1 when some had to be cut off."""
        name = f"{socket.gethostname()}.{os.getpid()}"
        heard = [number for number in COUNTED_ABOVE if obeys(number)]
        # What was imported by now stays. To look through it again and again for garbage would cost the children
        # a third of the time that many short jobs take, and unshare their memory.
        gc.collect()
        gc.freeze()
        with SignalPipe(*heard, signal.SIGCHLD) as signals:
            self._home.emitter.emit(Started("supervisor", name, {"processes": len(self._slots) - 1}))
            self._ticked = now = self._clock.monotonic()
            for slot in self._slots[:-1]:
                slot.due = now
            while self._children or self._graves or any(slot.due is not None for slot in self._slots):
                self._turn(signals)
            self._home.emitter.emit(Stopped("supervisor", name))
        gc.unfreeze()
        return int(self._cut_off)

    def _turn(self, signals: SignalPipe) -> None:
        self._start_due(signals)
        self._listen(signals)
        self._reap()
        self._look_after_the_dead()
        self._look_for_suspects()
        self._watch()
        self._report()

    @property
    def _children(self) -> list[Child]:
        return [slot.child for slot in self._slots if slot.child is not None]

    # ── children ──────────────────────────────────────────────────────────────────────────────

    def _start_due(self, signals: SignalPipe) -> None:
        for slot in self._slots:
            if slot.due is not None and slot.due <= self._clock.monotonic():
                self._start(slot, signals)

    def _start(self, slot: Slot, signals: SignalPipe) -> None:
        self._home.store.disconnect()
        blackbox = BlackBox(slot.assignment.lanes)
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            signals.forget()
            for handle in (ours, *(child.pipe for child in self._children)):
                handle.close()
            be_child(self._home, theirs, slot.assignment, blackbox)
        theirs.close()
        ours.setblocking(False)
        now = self._clock.monotonic()
        slot.fill(Child(pid, ours, blackbox, born=now, heard=now))

    def _reap(self) -> None:
        for slot in self._slots:
            child = slot.child
            if child is None:
                continue
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                child.hear(self._clock.monotonic())
                self._bury(slot, child, os.waitstatus_to_exitcode(status))

    def _bury(self, slot: Slot, child: Child, code: int) -> None:
        """A child is gone: see to its jobs, and start another unless we are leaving."""
        started = child.blackbox.read()
        child.blackbox.close()
        child.pipe.close()
        cause = child.cause_of_death(code)
        well = cause is None and code in WELL
        if not well or code == EXIT_DEAF:
            self._home.emitter.emit(ChildDied(child.pid, cause or _described(code)))
        if not well or code != 0:
            self._graves.dig(child.workers, started, cause)
        now = self._clock.monotonic()
        slot.empty(now, died=not well)
        if self._stops:
            self._cut_off = self._cut_off or not well
        elif slot is not self._suspects and not (well and code == 0 and self._until_empty):
            slot.ask_for_another(now)

    # ── listening ─────────────────────────────────────────────────────────────────────────────

    def _listen(self, signals: SignalPipe) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(signals, selectors.EVENT_READ)
            for child in self._children:
                if child.talks:  # a closed pipe is readable all the time
                    selector.register(child.pipe, selectors.EVENT_READ, child)
            for key, _ in selector.select(self._patience()):
                if isinstance(key.data, Child):
                    key.data.hear(self._clock.monotonic())
        for number in signals.arrived():
            if number == signal.SIGQUIT:
                self._show_and_stop()
            elif number in COUNTED_ABOVE:
                self._stop()

    def _patience(self) -> float:
        now = self._clock.monotonic()
        times = [*(slot.due for slot in self._slots if slot.due is not None), *self._graves.due]
        times += [] if self._kill_at is None else [self._kill_at]
        return min([TICK, self._systemd.patience(now), *(max(at - now, 0.0) for at in times)])

    # ── stopping ──────────────────────────────────────────────────────────────────────────────

    def _stop(self) -> None:
        self._begin_to_stop()
        if self._stops == 1:
            self._home.emitter.emit(
                Notice(f"stopping: running jobs have {self._grace:g} s; again to stop at once", "info")
            )
            self._kill_at = self._clock.monotonic() + self._grace + AFTER_GRACE
            for child in self._children:
                child.tell(f"{DRAIN}{self._grace}\n")
        else:
            self._kill_all()

    def _show_and_stop(self) -> None:
        """QUIT: at once, after all children have written their threads' stacks to stderr."""
        if self._stops < 2:
            self._home.emitter.emit(Notice("stopping at once, after a look at what the workers do", "info"))
        self._begin_to_stop()
        self._stops = max(self._stops, 2)
        for child in self._children:  # one after the other: they write word by word, to one stderr
            child.signal(SHOW_STACKS)
            time.sleep(TO_SHOW_STACKS / max(len(self._slots), 5))
        soon = self._clock.monotonic() + TO_SHOW_STACKS
        self._kill_at = soon if self._kill_at is None else min(soon, self._kill_at)

    def _begin_to_stop(self) -> None:
        self._stops += 1
        for slot in self._slots:
            slot.due = None
        if self._stops == 1:
            self._systemd.say("STOPPING=1")

    def _kill_all(self) -> None:
        for child in self._children:
            child.kill()

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
                child.kill()
                child.heard = now

    # ── the dead, and suspects ────────────────────────────────────────────────────────────────

    def _look_after_the_dead(self) -> None:
        last = bool(self._stops) and not self._children
        if self._graves.look(last=last) and not self._stops:
            self._suspects.ask_for_another(self._clock.monotonic())

    def _look_for_suspects(self) -> None:
        """At the start, and whenever a worker's beat tells of any: those of our queues are ours too.

        Where time has passed, they end.
        """
        now = self._clock.monotonic()
        if self._stops or now < self._look_due or self._suspects.child or self._suspects.due is not None:
            return
        if self._look_due and not any(child.saw_suspects for child in self._children):
            return
        for child in self._children:
            child.saw_suspects = False
        self._look_due = now + self._beat
        try:
            queues = self._queues_with_suspects()
        except Exception as error:  # noqa: BLE001 - as in graves.py
            if not isinstance(error, DatabaseError):  # that the workers say, and there is a next time
                self._home.emitter.emit(Notice(f"suspects were not looked for: {error}", "error"))
            return
        finally:
            self._home.store.disconnect()
        if any(self._queues.serves(queue) for queue in queues):
            self._suspects.ask_for_another(now)

    def _queues_with_suspects(self) -> list[str]:
        store = self._home.store
        with store.reading() as connection:
            store.dialect.limit_waits(connection, lock=2.0, statement=5.0, idle=5.0)
            queues, late = store.suspects.look(connection)
        if late:
            with store.tending() as connection:
                expired = store.suspects.expire(connection)
            for row in expired:
                end = (row.id, row.task, row.queue, Outcome.EXPIRED, row.attempt)
                self._home.emitter.emit(JobEnded(*end, "not started again before expires_at"))
        return queues

    # ── systemd ───────────────────────────────────────────────────────────────────────────────

    def _report(self) -> None:
        working = sum(bool(child.workers) for child in self._children)
        if working and not self._ready:
            self._ready = True
            self._systemd.say("READY=1")
        apart = bool(self._suspects.child and self._suspects.child.workers)
        words = f"{working - apart} of {len(self._slots) - 1} worker processes"
        words += ", and one for suspects" if apart else ""
        self._systemd.status(f"stopping: {words}" if self._stops else words)
        self._systemd.ping(self._clock.monotonic())


def _described(code: int) -> str:
    return "killed by its supervisor" if code < 0 else WORDS.get(code, f"exit status {code}")
