"""An attempt: a job that was opened and fitted, ready to be called; and how it may end before that."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from duly.errors import InvalidArguments
from duly.model.job import ClaimedJob
from duly.model.options import Options
from duly.task.context import Cancellation, Context

if TYPE_CHECKING:
    from duly.task.task import Task
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
    region: Region | None = None
    """The time in which the task's own code runs, once it has begun."""

    @property
    def number(self) -> int:
        """Counted from 1."""
        return self.job.attempt + 1

    def context(self) -> Context:
        """What the task may ask of its job."""
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
            cancellation=self.cancellation,
        )
