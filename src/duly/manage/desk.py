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
        """Cancel a waiting job; whether it was waiting."""
        store = self._home.store
        with store.writing() as connection:
            cancelled = store.jobs.cancel(connection, job, "cancelled")
            if cancelled:
                store.audit.note(connection, "handle", "cancelled", [job])
        return cancelled

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
