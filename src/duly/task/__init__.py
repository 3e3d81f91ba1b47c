"""Declared functions and job classes: their calls, handles and routers. Imports no database library."""

from duly.task.call import Call
from duly.task.client import Client
from duly.task.context import Context
from duly.task.given import given
from duly.task.handle import Desk, JobHandle
from duly.task.injected import Injected
from duly.task.job_class import Job
from duly.task.signature import Signature
from duly.task.task import AsyncTask, SyncTask, Task
from duly.task.tasks import RouterOptions, TaskOptions, Tasks
from duly.task.using import Using, UsingOptions

__all__ = [
    "AsyncTask",
    "Call",
    "Client",
    "Context",
    "Desk",
    "Injected",
    "Job",
    "JobHandle",
    "RouterOptions",
    "Signature",
    "SyncTask",
    "Task",
    "TaskOptions",
    "Tasks",
    "Using",
    "UsingOptions",
    "given",
]
