"""The course of a child: the points that its attempt comes by, counted as they come; and the place where it stops.

Only what an attempt does counts, seen by a context variable that its thread, its coroutines and the threads
that it starts inherit. Each point *begins* and is *done*. One whose end cannot be seen is done when the next
begins: between the two the task does nothing that anybody else could see.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

from duly.proof.lines import Lines
from duly.proof.outside import Effect
from duly.proof.points import Moment, Point, Stop

LOOKS = ("SELECT", "SET", "SHOW", "PRAGMA")
"""How statements begin that change nothing: those of Duly's own are no points."""

SEAMS = ("BEGIN", "SAVEPOINT", "RELEASE SAVEPOINT", "ROLLBACK")
"""How those begin that nobody else could see."""

_inside: ContextVar[bool] = ContextVar("duly_proof_inside", default=False)


@dataclass(frozen=True, slots=True)
class Halt:
    """Where a child stops itself, and how: killed, or frozen."""

    at: Stop
    how: Literal["kill", "freeze"]
    expected: Sequence[Point]
    """The course of the clean run up to there: on another one it does not stop."""


class Course:
    """Counts the points of one process."""

    def __init__(
        self, say: Callable[..., None], lines: Lines, *, step_table: str = "", halt: Halt | None = None
    ) -> None:
        self._say = say
        self._lines = lines
        self._step_table = step_table
        self._halt = halt
        self._count = 0
        self._lock = threading.RLock()
        self._open: tuple[int, Callable[[], Effect] | None] | None = None
        self._connections: dict[int, Any] = {}
        os.register_at_fork(after_in_child=self._end)

    # ── inside an attempt ─────────────────────────────────────────────────────────────────────

    @property
    def inside(self) -> bool:
        """Whether the caller is in an attempt."""
        return _inside.get()

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Within it an attempt runs."""
        token = _inside.set(True)
        try:
            yield
        finally:
            self.done()
            _inside.reset(token)

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Within it nothing counts."""
        token = _inside.set(False)
        try:
            yield
        finally:
            _inside.reset(token)

    # ── points ────────────────────────────────────────────────────────────────────────────────

    def begin(self, kind: str, what: str, effect: Callable[[], Effect] | None = None) -> int:
        """Something is about to be done; its number, 0 where it does not count. *effect* is asked when it is done."""
        if not self.inside:
            return 0
        with self._lock:
            self.done()
            self._count += 1
            where = self._lines.innermost()
            point = Point(self._count, kind, what, where, held=self._held())
            self._say(point=[point.number, point.kind, point.what, point.where, point.held])
            self._stop_at(point)
            self._open = point.number, effect
            return point.number

    def done(self, number: int = 0) -> None:
        """What was begun last, or *number*, has been done."""
        with self._lock:
            if self._open is None or number not in (0, self._open[0]) or not self.inside:
                return
            (number, effect), self._open = self._open, None
            if effect is not None:
                self._say(effect=_as_list(effect()))
            if self._halt is not None and self._halt.at == Stop(number, Moment.AFTER):
                self._stop(number)

    def returned(self) -> None:
        """The task has returned, and nothing is recorded yet."""
        self.begin("returned", "the task has returned")
        self.done()

    def note(self, text: str) -> None:
        """Why this run cannot tell."""
        if self.inside:
            self._say(note=text)

    # ── as a witness of statements ────────────────────────────────────────────────────────────

    def statement(self, text: str, connection: Any) -> None:
        """A statement is about to be sent. Savepoints, and Duly's own looks and settings, are no points."""
        if not self.inside:
            return
        self._connections[id(connection)] = connection
        words = " ".join(text.split())
        said = words.upper()
        if said.startswith(SEAMS) or (said.startswith(LOOKS) and self._lines.ours()):
            return
        kind = "step" if self._step_table and self._writes_step(words) else "statement"
        self.begin(kind, words)

    def commit(self) -> None:
        """A transaction is about to be committed."""
        self.begin("commit", "COMMIT")

    def _writes_step(self, words: str) -> bool:
        return words.upper().startswith("INSERT") and self._step_table in words.partition("(")[0]

    def _held(self) -> bool:
        """Whether a transaction is open on SQLite: its drivers alone can tell."""
        return any(
            getattr(connection, "in_transaction", False) is True for connection in self._connections.values()
        )

    # ── the end ───────────────────────────────────────────────────────────────────────────────

    def _stop_at(self, point: Point) -> None:
        halt = self._halt
        if halt is None or point.number > min(halt.at.point, len(halt.expected)):
            return
        before = halt.expected[point.number - 1]
        if not point.same(before):
            self._halt = None
            self._say(
                note=f"the task takes another course each time: at point {point.number} ({point.where}) the clean "
                f"run had {before.kind} {before.what!r} ({before.where}), this one {point.kind} {point.what!r}"
            )
        elif halt.at == Stop(point.number, Moment.BEFORE):
            self._stop(point.number)

    def _stop(self, number: int) -> None:
        """Here, and no instruction later: the signal goes to this very thread."""
        halt, self._halt = self._halt, None
        self._say(stopped=number)
        frozen = halt is not None and halt.how == "freeze"
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP if frozen else signal.SIGKILL)

    def _end(self) -> None:
        """In a process that the task has forked: it is not watched."""
        self._say = _say_nothing
        self._halt = None


def _say_nothing(**_: Any) -> None:
    pass


def _as_list(effect: Effect) -> list[Any]:
    return [effect.kind, effect.target, effect.payload, effect.keyed, effect.where]
