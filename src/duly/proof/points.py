"""The points of an attempt: where a process can be killed so that it makes a difference."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Moment(StrEnum):
    """When, at a point."""

    BEFORE = "before"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class Point:
    """Something that an attempt does which is seen outside its process, or by another attempt."""

    number: int
    """Counted from 1 in the clean run, over all its attempts."""
    kind: str
    """``statement``, ``commit``, ``step``, ``mail``, ``http``, ``socket``, ``process``, ``file`` or ``returned``: the
    task has returned, and nothing is recorded yet."""
    what: str
    """What was done, for people: the statement without its parameters, the request line, the program, the path."""
    where: str
    """The line of the task's own code that does it, as ``file:line``; where Duly does it, after the task has
    returned, the line on which the task is declared."""
    held: bool = False
    """Whether SQLite's write lock is held there: a worker that freezes then holds up all others, so freezing it
    would show nothing."""

    def same(self, other: Point) -> bool:
        """Whether another run did the same at this place of its course. A file may have another name each time."""
        alike = (self.number, self.kind, self.where) == (other.number, other.kind, other.where)
        return alike and (self.what == other.what or self.kind == "file")


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a run is stopped: at a point of the clean run (``Point.number``), before or after what it does."""

    point: int
    moment: Moment
