"""The places of a supervisor's worker processes: what each is for, who is there, and when it is filled again."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass, field

from duly.worker.assignment import Assignment
from duly.worker.blackbox import BlackBox

LIVED_A_WHILE = 10.0
FIRST_WAIT, LONGEST_WAIT = 0.2, 30.0


@dataclass(slots=True, eq=False)
class Child:
    """A worker process, as its supervisor sees it."""

    pid: int
    pipe: socket.socket
    blackbox: BlackBox
    born: float
    heard: float
    unread: bytes = b""
    workers: list[str] = field(default_factory=list)
    """The ids that it has taken as a worker."""
    leaving: int | None = None
    """The exit code that it says it leaves with. One that comes without a word is not ours."""
    talks: bool = True
    """Whether its end of the pipe is open."""
    saw_suspects: bool = False
    """Whether its last beats have told of any, of whatever queue."""
    killed: bool = False
    """By us, so that nobody is to blame."""

    def hear(self, now: float) -> None:
        """Take in what it has said: signs of life, its ids, and how it leaves."""
        try:
            said = self.pipe.recv(65_536)
        except (BlockingIOError, OSError):
            return
        if not said:
            self.talks = False
            return
        self.heard = now
        *lines, self.unread = (self.unread + said).split(b"\n")
        for line in lines:
            if line.startswith(b"w"):
                self.workers.append(line[1:].decode())
            elif line.startswith(b"s"):
                self.saw_suspects = True
            elif line.startswith(b"x"):
                self.leaving = int(line[1:])

    def tell(self, words: str) -> None:
        """Say something to it; where it is gone, or about to be, its burial follows."""
        with suppress(OSError):
            self.pipe.send(words.encode())

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal. It has not been waited for, so the process id is its own."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """At once, and by us."""
        self.killed = True
        self.signal(signal.SIGKILL)

    def cause_of_death(self, code: int) -> str | None:
        """What it died of, where it died by itself; None where it was told to, or left."""
        if code < 0:
            ours = self.killed and code == -signal.SIGKILL
            return None if ours else f"killed by {_name(-code)}"
        return None if code == self.leaving else f"exit status {code}"


@dataclass(slots=True, eq=False)
class Slot:
    """A place for one worker process. One that dies again and again is replaced after longer and longer waits."""

    assignment: Assignment
    due: float | None = None
    """When a process is to be started here; None: not as things are."""
    child: Child | None = None
    not_before: float = 0.0
    _quick_deaths: int = 0

    def fill(self, child: Child) -> None:
        """A process was started here."""
        self.child, self.due = child, None

    def empty(self, now: float, *, died: bool) -> None:
        """It is gone: when the next one may come."""
        lived = 0.0 if self.child is None else now - self.child.born
        self.child = None
        self._quick_deaths = self._quick_deaths + 1 if died and lived <= LIVED_A_WHILE else 0
        doublings = self._quick_deaths - 2
        self.not_before = now if doublings < 0 else now + min(FIRST_WAIT * 2.0**doublings, LONGEST_WAIT)

    def ask_for_another(self, now: float) -> None:
        """Start one, as soon as that may be."""
        if self.child is None:
            self.due = max(now, self.not_before)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
