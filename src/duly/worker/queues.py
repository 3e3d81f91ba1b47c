"""Which queues a worker serves: names, and patterns that end in ``*``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from duly.clock import Clock
from duly.errors import SettingsError
from duly.model.names import check_name
from duly.model.options import hint

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from duly.model.report import Report
    from duly.store import Store
    from duly.store.dialect import Exchanged
    from duly.store.jobs import Jobs
    from duly.store.outcomes import Settled
    from duly.store.suspects import Suspects

EVERYTHING = ("*",)
FRESH = 1.0
SHARE = 20
"""Asking takes a twentieth of the time at the most, however many dead entries have gathered in the index."""


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

    def serves(self, queue: str) -> bool:
        """Whether it is one of them."""
        return any(fnmatchcase(queue, pattern) for pattern in self.patterns)

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
    """The names behind a selection's patterns: the queues that had jobs when this was last asked.

    Asking takes a statement, so the names of the last time are tried first; they are asked for anew after
    a second of use, and at once where the old ones gave nothing.
    """

    def __init__(self, selection: Selection, clock: Clock) -> None:
        self._selection = selection
        self._clock = clock
        self._waiting: list[str] = []
        self._fresh_until = 0.0
        self._ask = True
        self._asked = False

    def names(self, store: Store, connection: Connection) -> list[str]:
        """The queues to claim from."""
        self._asked = not self._selection.open or self._ask or not self._waiting
        if self._asked and self._selection.open:
            began = self._clock.monotonic()
            self._waiting = self._look(store, connection) or self._waiting
            now = self._clock.monotonic()
            self._fresh_until = now + max(FRESH, SHARE * (now - began))
        self._ask = self._clock.monotonic() > self._fresh_until
        return self._selection.among(self._waiting)

    def exchange(
        self,
        store: Store,
        connection: Connection,
        worker: str,
        reports: Sequence[Report],
        limit: int,
        **how: Any,
    ) -> tuple[Exchanged, Settled]:
        """Hand in *reports*, and claim at most *limit* jobs that wait here."""
        names = self.names(store, connection) if limit > 0 else []
        return self._counter(store).exchange(
            connection, worker, reports, names or ("",), limit if names else 0, **how
        )

    def more_soon(self, store: Store, connection: Connection, within: timedelta) -> bool:
        """Whether a job is due in a moment: one put back without a wait, or enqueued just now."""
        every = EVERYTHING[0] in self._selection.patterns
        names = [] if every else self.names(store, connection)
        return (every or bool(names)) and store.upkeep.due_soon(connection, names, within)

    def _look(self, store: Store, connection: Connection) -> list[str]:
        return store.upkeep.waiting_queues(connection)

    def _counter(self, store: Store) -> Jobs | Suspects:
        return store.jobs

    def dry(self) -> bool:
        """They gave nothing; whether others may, since the names were old."""
        self._ask = not self._asked
        return self._ask


class SuspectLines(Lines):
    """The same for suspects: they stand apart, and nothing else is waited for."""

    def more_soon(self, store: Store, connection: Connection, within: timedelta) -> bool:  # noqa: ARG002
        """No: what becomes a suspect from now on is another child's."""
        return False

    def _look(self, store: Store, connection: Connection) -> list[str]:
        return store.suspects.queues(connection)

    def _counter(self, store: Store) -> Suspects:
        return store.suspects
