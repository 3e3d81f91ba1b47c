"""A claimed job on its way to a thread or the loop: started by one, or taken back by the pump, never both."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duly.model.job import ClaimedJob
from duly.model.report import Report
from duly.task.context import Cancellation

if TYPE_CHECKING:
    from duly.worker.attempt import Attempt


class Ticket:
    """One claimed job. ``take`` succeeds once: for the runner that starts it, or the pump that takes it back."""

    __slots__ = ("_free", "apart", "asynchronous", "attempt", "cancellation", "job", "key", "since", "worker")

    def __init__(
        self, job: ClaimedJob, worker: str, since: float, *, asynchronous: bool, apart: bool = False
    ) -> None:
        self.job = job
        self.key = job.id.int
        """The job's id as a number: a UUID is hashed in Python, ten times as slowly."""
        self.worker = worker
        self.since = since
        self.asynchronous = asynchronous
        """Whether it goes to the loop."""
        self.apart = apart
        """Whether it runs in a process of its own, whose death is not the worker's."""
        self.cancellation = Cancellation()
        self.attempt: Attempt | None = None
        """What the watch looks at, once the job was opened and fitted."""
        self._free = [True]

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


class Done(NamedTuple):
    """A ticket whose attempt is over."""

    ticket: Ticket
    report: Report
    seconds: float
