"""A claimed job on its way to a thread or the loop: started by one, or taken back by the pump, never both."""

from __future__ import annotations

from dataclasses import dataclass, field

from duly.model.job import ClaimedJob
from duly.model.report import Report
from duly.task.context import Cancellation


@dataclass(slots=True, eq=False)
class Ticket:
    """One claimed job. ``take`` succeeds once: for the runner that starts it, or the pump that takes it back."""

    job: ClaimedJob
    worker: str
    since: float
    asynchronous: bool
    cancellation: Cancellation = field(default_factory=Cancellation)
    _free: list[bool] = field(default_factory=lambda: [True])

    def take(self) -> bool:
        """Whether the caller is the first to ask. ``list.pop`` is atomic, so nobody waits for a lock."""
        try:
            return self._free.pop()
        except IndexError:
            return False

    @property
    def waiting(self) -> bool:
        """Neither started nor taken back."""
        return bool(self._free)


@dataclass(frozen=True, slots=True)
class Done:
    """A ticket whose attempt is over."""

    ticket: Ticket
    report: Report
    seconds: float
