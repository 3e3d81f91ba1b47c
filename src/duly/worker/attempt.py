"""An attempt: a job that was opened and fitted, ready to be called; and how it may end before that."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from duly.errors import InvalidArguments
from duly.model.job import ClaimedJob
from duly.model.options import Options
from duly.task.context import Cancellation, Context
from duly.worker.steps import AttemptNotebook

if TYPE_CHECKING:
    from duly.task.task import Task
    from duly.worker.home import Home
    from duly.worker.interrupt import Region


class ResultRefused(InvalidArguments):
    """A result that was to be kept would not come back as it is."""


class OverLimit(Exception):
    """An isolated attempt was killed at a limit of its process. The message says which, and may be shown anywhere."""


class TooLate(Exception):
    """The job has expired while its attempt was made ready."""


@dataclass(slots=True)
class Attempt:
    """A job ready to be called."""

    job: ClaimedJob
    task: Task[..., Any]
    values: dict[str, Any]
    options: Options
    worker: str
    cancellation: Cancellation
    started_at: datetime
    run_time: float
    """Its run-time limit in seconds."""
    home: Home
    region: Region | None = None
    """The time in which the task's own code runs, once it has begun."""
    marked: bool = False
    """Whether the mark of an unrepeatable job stands: written here, before its task is called."""
    begun: bool = False
    """Whether the task was called."""
    returned: bool = False
    """Whether it has returned, to a part of Duly's that may still fail."""
    _notebook: AttemptNotebook | None = None
    _context: Context | None = None

    @property
    def number(self) -> int:
        """Counted from 1."""
        return self.job.attempt + 1

    def lend(self, given: dict[str, Any]) -> dict[str, Any]:
        """What the task is given by name, and what ``ctx`` may therefore write with."""
        if given:
            self._notes().lend(next(iter(given.values())))
        return given

    def _notes(self) -> AttemptNotebook:
        if self._notebook is None:
            self._notebook = AttemptNotebook(self.home, self.task, self.job, self.worker)
        return self._notebook

    def context(self) -> Context:
        """What the task may ask of its job; made when it is first asked for."""
        if self._context is None:
            self._context = self._made()
        return self._context

    def _made(self) -> Context:
        job = self.job
        return Context(
            job_id=job.id,
            origin=job.origin,
            task=job.task,
            queue=job.queue,
            attempt=self.number,
            max_attempts=self.options.max_attempts or 1,
            enqueued_at=job.enqueued_at,
            run_at=job.run_at,
            expires_at=job.expires_at,
            worker=self.worker,
            started_at=self.started_at,
            max_run_time=timedelta(seconds=self.run_time),
            cancellation=self.cancellation,
            notebook=self._notes(),
        )
