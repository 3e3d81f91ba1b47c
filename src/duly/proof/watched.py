"""An executor whose attempts are watched."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from duly.model.report import PutBack, Report
from duly.proof.course import Course
from duly.worker.attempt import Attempt
from duly.worker.executor import Executor
from duly.worker.ticket import Ticket


def watched_by(course: Course, job: UUID, on_start: Callable[[Ticket], None]) -> type[Executor]:
    """An executor that runs *job* alone and tells *course* of each attempt; *on_start* is called before one begins."""

    class Watched(Executor):
        """What a worker of the prover runs its attempts with."""

        def run(self, ticket: Ticket) -> Report:
            if ticket.job.id != job:
                return _set_aside(ticket)
            on_start(ticket)
            with course.attempt():
                return super().run(ticket)

        async def arun(self, ticket: Ticket) -> Report:
            if ticket.job.id != job:
                return _set_aside(ticket)
            on_start(ticket)
            with course.attempt():
                return await super().arun(ticket)

        def _invoke(self, attempt: Attempt, given: dict[str, Any]) -> Any:
            returned = super()._invoke(attempt, given)
            if attempt.task.signature.is_async:
                return _awaited(returned)
            course.returned()
            return returned

    def _set_aside(ticket: Ticket) -> PutBack:
        """What the task has enqueued: it shall stand there, and not be run."""
        left = ticket.job.expires_at - datetime.now(UTC)
        return PutBack(ticket.job.id, ticket.job.claim, "set aside", counted=False, after=left / 2)

    async def _awaited(returning: Any) -> Any:
        result = await returning
        course.returned()
        return result

    return Watched
