"""A storm: workers of several supervisors always have jobs, and at random moments some are killed or frozen.

A kill is SIGKILL: of a worker process mostly, now and then of a supervisor alone, or of a whole group, as when
a host is lost. A freeze is SIGSTOP of a whole group, or of one worker, for a random time; then it goes on,
whatever has happened to its jobs meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from duly.task.call import Call
from tests.faults.ground import Ground
from tests.faults.terminal import Terminal, pause

ENOUGH = 40
"""Jobs that wait while the storm blows: more are enqueued when there are fewer."""


@dataclass(eq=False)
class Frozen:
    """A group, or one process of it, that goes on at a moment of the monotonic clock."""

    terminal: Terminal
    process: int | None
    until: float


@dataclass
class Storm:
    """So many *kills* and *freezes*; ``blow`` returns when they are over and everybody goes on."""

    ground: Ground
    load: Callable[[], Iterable[Call[object]]]
    start: Callable[[], Terminal]
    kills: int
    freezes: int
    lengths: tuple[float, float]
    """Seconds that a freeze lasts: at least, at most."""
    groups: int = 3
    terminals: list[Terminal] = field(default_factory=list)
    frozen: list[Frozen] = field(default_factory=list)
    seen: int = 0
    """How long the journal was at the last strike."""

    def blow(self) -> None:
        """Until nothing is left to be done."""
        while len(self.terminals) < self.groups:
            self._start()
        for terminal in self._standing():
            terminal.workers(1)
        while self.kills or self.freezes or self.frozen:
            self._feed()
            self._wake()
            self._strike()
            pause(random.uniform(0.03, 0.09))

    def met(self) -> bool:
        """Whether a kill has met a running job; else some more kills."""
        counted = (
            "SELECT count(*) FROM duly_jobs WHERE deaths > 0",
            "SELECT count(*) FROM duly_executions WHERE deaths > 0",
        )
        if any(self.ground.database.rows(sql) != [(0,)] for sql in counted):
            return True
        self.kills = 5
        self.blow()
        return False

    def calm(self) -> list[int]:
        """Stop the workers that are left; how they ended."""
        return [terminal.stop() for terminal in self._standing()]

    def told(self, event: str) -> int:
        """How often a worker or supervisor has said so, the killed ones too."""
        return sum(len(terminal.said(event)) for terminal in self.terminals)

    # ── what happens ──────────────────────────────────────────────────────────────────────────

    def _start(self) -> None:
        self.terminals.append(self.start())

    def _standing(self) -> list[Terminal]:
        return [terminal for terminal in self.terminals if terminal.code is None]

    def _moving(self) -> list[Terminal]:
        """Those of which nothing is frozen."""
        held = [each.terminal for each in self.frozen]
        return [terminal for terminal in self._standing() if terminal not in held]

    def _feed(self) -> None:
        """Not while a frozen worker may hold SQLite's write lock: we are who wakes it."""
        if self.frozen and self.ground.database.name == "sqlite":
            return
        if self.ground.unfinished() < ENOUGH:
            self.ground.enqueue(*self.load())
            self.ground.roll_back(*self.load())

    def _strike(self) -> None:
        """One of what is left, at random, if some job has started since the last. One group at least is spared."""
        started = self.ground.journal.stat().st_size if self.ground.journal.exists() else 0
        if started == self.seen:
            return
        self.seen = started
        moving = self._moving()
        if random.randrange(self.kills + self.freezes or 1) < self.kills:
            self._kill(random.choice(moving))
        elif self.freezes and len(moving) > 1:
            self._freeze(random.choice(moving))

    def _kill(self, terminal: Terminal) -> None:
        chance = random.random()
        if chance < 0.94:
            if not (victims := terminal.children):
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(random.choice(victims), signal.SIGKILL)
        else:
            terminal.signal(signal.SIGKILL, group=chance > 0.97)
            terminal.ended()
            self._start()
        self.kills -= 1

    def _freeze(self, terminal: Terminal) -> None:
        children = terminal.children
        alone = random.choice(children) if children and random.random() < 0.3 else None
        with contextlib.suppress(ProcessLookupError):
            self._tell(terminal, alone, signal.SIGSTOP)
            self.frozen.append(Frozen(terminal, alone, time.monotonic() + random.uniform(*self.lengths)))
            self.freezes -= 1

    def _wake(self) -> None:
        now = time.monotonic()
        for each in [each for each in self.frozen if each.until <= now]:
            self.frozen.remove(each)
            if each.process is None or each.process in each.terminal.children:
                with contextlib.suppress(ProcessLookupError):
                    self._tell(each.terminal, each.process, signal.SIGCONT)

    @staticmethod
    def _tell(terminal: Terminal, process: int | None, number: signal.Signals) -> None:
        if process is None:
            terminal.signal(number, group=True)
        else:
            os.kill(process, number)
