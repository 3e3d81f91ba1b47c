"""Background jobs out of the application's own database: once, never late, and only when allowed."""

from __future__ import annotations

from duly.app import Duly
from duly.errors import Cancel, DulyError, Retry, Snooze
from duly.model.retry import Backoff
from duly.model.states import Outcome, State
from duly.task import Call, Context, Job, JobHandle, Task, Tasks, given
from duly.worker.assignment import Pool

__all__ = [
    "Backoff",
    "Call",
    "Cancel",
    "Context",
    "Duly",
    "DulyError",
    "Job",
    "JobHandle",
    "Outcome",
    "Pool",
    "Retry",
    "Snooze",
    "State",
    "Task",
    "Tasks",
    "given",
]
