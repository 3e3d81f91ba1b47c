"""The children of one run, as the prover sees them: started, listened to, woken, and never left behind."""

from __future__ import annotations

import json
import os
import select
import signal
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from duly.proof.child import Case, Part, be_child
from duly.proof.outside import Effect
from duly.proof.points import Point
from duly.proof.world import World

TICK = 0.02
"""Seconds between two looks at what no pipe tells: that a child has been stopped."""


class Kid:
    """One child, and what it has said."""

    def __init__(self, pid: int, pipe: int, gate: int | None) -> None:
        self.pid = pid
        self.pipe = pipe
        self.gate = gate
        """Where it waits to be let through, until it has been."""
        self.points: list[Point] = []
        self.effects: list[Effect] = []
        self.notes: list[str] = []
        self.workers: list[str] = []
        self.started: dict[UUID, int] = {}
        self.stopped: int | None = None
        """The point at which it stops, or has stopped, itself."""
        self.frozen = False
        self.ended: tuple[str, int, str | None] | None = None
        """The job's outcome, attempts and cause."""
        self.status: int | None = None
        """As ``waitpid`` has it; None while it lives."""
        self.heard = time.monotonic()
        self._words = b""

    @property
    def grave(self) -> tuple[list[str], dict[UUID, int]]:
        """What is to be buried of it."""
        return self.workers, self.started

    def hear(self) -> bool:
        """Take in what it has said; False at the end of its words."""
        said = os.read(self.pipe, 1 << 16)
        self.heard = time.monotonic()
        *lines, self._words = (self._words + said).split(b"\n")
        for line in lines:
            for kind, word in json.loads(line).items():
                self._take_in(kind, word)
        return bool(said)

    def _take_in(self, kind: str, word: Any) -> None:
        match kind:
            case "point":
                self.points.append(Point(*word))
            case "effect":
                self.effects.append(Effect(*word))
            case "note":
                self.notes.append(word)
            case "worker":
                self.workers.append(word)
            case "claim":
                self.started[UUID(word[0])] = word[1]
            case "stopped":
                self.stopped = word
            case "ended":
                self.ended = (word[0], word[1], word[2])


class Kin:
    """A context manager: at its end, however it comes, none of them lives."""

    def __init__(self, case: Case, world: World, patience: float) -> None:
        self._case = case
        self._world = world
        self._patience = patience
        self._kids: list[Kid] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for kid in self._kids:
            self._end(kid)

    def bear(self, *, gated: bool = False, **part: Any) -> Kid:
        """Fork one that does its *part*; *gated*: it waits before its first attempt."""
        ours, theirs = os.pipe()
        way, gate = os.pipe() if gated else (None, None)
        parent = os.getpid()
        with warnings.catch_warnings():
            # From 3.12 on a fork beside other threads (pytest's, a progress bar's) warns. The child uses none of them.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            be_child(self._case, Part(gate=way, **part), self._world, theirs, parent)
        os.close(theirs)
        if way is not None:
            os.close(way)
        kid = Kid(pid, ours, gate)
        self._kids.append(kid)
        return kid

    # ── listening ─────────────────────────────────────────────────────────────────────────────

    def listen(self, until: Callable[[], bool], patience: float | None = None) -> bool:
        """Take in what they say until it is so; False when nobody has said anything for *patience* seconds."""
        patience = patience or self._patience
        began = time.monotonic()
        while not until():
            living = [kid for kid in self._kids if kid.status is None]
            if not living or time.monotonic() - max([began, *(kid.heard for kid in living)]) > patience:
                return False
            ready, _, _ = select.select([kid.pipe for kid in living], [], [], TICK)
            for kid in living:
                self._look(kid, has_words=kid.pipe in ready)
        return True

    def _look(self, kid: Kid, *, has_words: bool) -> None:
        over = has_words and not kid.hear()
        pid, status = os.waitpid(kid.pid, os.WUNTRACED | (0 if over else os.WNOHANG))
        if pid == 0:
            return
        if os.WIFSTOPPED(status):
            kid.frozen = True
            return
        while not over and kid.hear():
            pass  # its last words; a process that it has forked may still hold the pipe
        kid.status = status

    # ── hands on ──────────────────────────────────────────────────────────────────────────────

    def let_through(self, *kids: Kid) -> None:
        """Open the gates, all at once."""
        for kid in kids:
            if kid.gate is not None:
                with suppress(BrokenPipeError):
                    os.write(kid.gate, b".")

    def wake(self, kid: Kid) -> None:
        """Go on, from where it froze."""
        kid.frozen = False
        kid.heard = time.monotonic()
        os.kill(kid.pid, signal.SIGCONT)

    @staticmethod
    def _end(kid: Kid) -> None:
        """It, and the programs that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(kid.pid, signal.SIGKILL)
        if kid.status is None:
            with suppress(ProcessLookupError):
                os.kill(kid.pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                _, kid.status = os.waitpid(kid.pid, 0)
        for handle in (kid.pipe, kid.gate):
            if handle is not None:
                os.close(handle)
