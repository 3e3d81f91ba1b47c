"""Where handles ask about their jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar
from uuid import UUID

from duly.envelope.seal import Sealer
from duly.envelope.trouble import Trouble
from duly.errors import ArgumentsMisfit
from duly.model.job import JobStatus

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from duly.store import Store
    from duly.task.task import Task

P = ParamSpec("P")
T = TypeVar("T")


class Home(Protocol):
    """What the desk needs of its app."""

    sealer: Sealer

    @property
    def store(self) -> Store:
        """The opened store."""
        ...

    def find(self, name: str) -> Task[..., Any] | None:
        """The task with this name or alias."""
        ...


def cancel(store: Store, connection: Connection, job: UUID, *, actor: str, cause: str) -> bool:
    """End the job, or have its worker stop it; what was done stands in the audit log."""
    if store.jobs.cancel(connection, job, cause):
        done = "cancelled"
    elif store.jobs.ask_to_stop(connection, job):
        done = "asked to stop"
    elif store.jobs.cancel(connection, job, cause):  # it was put back between the two
        done = "cancelled"
    else:
        return False
    store.audit.note(connection, actor, done, [job])
    return True


class Desk:
    """Answers handles, opening sealed results and errors for them."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def look(self, job: UUID) -> JobStatus | None:
        """The job as it stands; None when there is none."""
        store = self._home.store
        with store.reading() as connection:
            return store.ledger.status(connection, job)

    def cancel(self, job: UUID) -> bool:
        """Cancel a job that nobody runs, or ask the worker that does; False when it has ended, or there is none."""
        store = self._home.store
        with store.writing() as connection:
            return cancel(store, connection, job, actor="handle", cause="cancelled")

    def result_of(self, status: JobStatus) -> Any:
        """The result of a job that succeeded and kept it."""
        task = self._home.find(status.task)
        if task is None:
            raise ArgumentsMisfit(f"task {status.task!r} is not known here, so its result cannot be read")
        body = self._home.sealer.open("result", status.binding, status.result or b"")
        return task.signature.result.load(body)

    def trouble_of(self, status: JobStatus) -> Trouble | None:
        """What went wrong last; None when nothing did."""
        if status.error is None:
            return None
        return Trouble.load(self._home.sealer.open("error", status.binding, status.error))

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a sync verb in a thread, off the event loop."""
        return await asyncio.to_thread(function, *args, **kwargs)
