"""Which queues a worker serves: names, and patterns that end in ``*``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from duly.clock import Clock
from duly.errors import SettingsError
from duly.model.names import check_name
from duly.model.options import hint

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from duly.store import Store

EVERYTHING = ("*",)
FRESH = 1.0


class Selection:
    """The queues of one worker, in no order: each job's priority decides."""

    def __init__(self, patterns: Sequence[str] = EVERYTHING) -> None:
        if not patterns:
            raise SettingsError("queues: name at least one queue, or '*' for all")
        for pattern in patterns:
            self._check(pattern)
        self.patterns = tuple(dict.fromkeys(patterns))
        self._open = [pattern for pattern in self.patterns if "*" in pattern]
        self._named = [pattern for pattern in self.patterns if "*" not in pattern]

    @staticmethod
    def _check(pattern: str) -> None:
        try:
            if pattern != "*":
                check_name("queue", pattern.removesuffix("*"))
        except (TypeError, ValueError) as fault:
            raise SettingsError(f"queues: {fault}; a pattern may end in '*'") from None

    @property
    def open(self) -> bool:
        """Whether the names depend on which queues there are."""
        return bool(self._open)

    def among(self, waiting: Iterable[str]) -> list[str]:
        """The names to claim from, given the queues that have *waiting* jobs."""
        matching = [q for q in waiting if any(fnmatchcase(q, pattern) for pattern in self._open)]
        return list(dict.fromkeys([*self._named, *matching]))

    def check_known(self, known: Iterable[str]) -> None:
        """``SettingsError`` for a pattern that no known queue matches: most likely it is misspelt."""
        names = set(known)
        for pattern in self.patterns:
            if pattern != "*" and not any(fnmatchcase(name, pattern) for name in names):
                raise SettingsError(
                    f"queues: no task uses a queue {pattern!r}{hint(pattern, names)} (Duly(queues={{…}}) makes "
                    "queues known that only calls name)"
                )

    def __str__(self) -> str:
        return ",".join(self.patterns)


class Lines:
    """The names behind a selection's patterns: the queues that had jobs a second ago."""

    def __init__(self, selection: Selection, clock: Clock) -> None:
        self._selection = selection
        self._clock = clock
        self._waiting: list[str] = []
        self._due = 0.0

    def names(self, store: Store, connection: Connection) -> list[str]:
        """The queues to claim from."""
        if self._selection.open and self._clock.monotonic() >= self._due:
            self._waiting = store.upkeep.waiting_queues(connection)
            self._due = self._clock.monotonic() + FRESH
        return self._selection.among(self._waiting)

    def look_again(self) -> None:
        """They gave nothing: others may have jobs by now."""
        self._due = 0.0
