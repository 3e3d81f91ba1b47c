"""An executor with an app around it and no database: what an attempt makes of a job."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from duly import Duly
from duly.clock import DatabaseClock
from duly.envelope.seal import Sealer
from duly.envelope.trouble import Trouble
from duly.model.events import Event
from duly.model.job import ClaimedJob
from duly.model.report import Report
from duly.settings import Settings
from duly.task import Call
from duly.task.context import Cancellation
from duly.worker.attempt import Attempt
from duly.worker.executor import Executor
from duly.worker.writeturn import WriteTurn
from tests.worker.turned import TurnedClock

FIELDS = set(ClaimedJob._fields)


class Bench:
    def __init__(self, **options: Any) -> None:
        self.clock = TurnedClock()
        self.app = Duly("sqlite:///nowhere/never.db", clock=self.clock, **options)
        store: Any = SimpleNamespace(
            clock=DatabaseClock(self.clock),
            tell_time=lambda: None,
            passes=lambda error: error in self.passing,
        )
        self.passing: list[BaseException] = []
        self.app._store = store
        self.events: list[Event] = []
        self.app.emitter.subscribe(self.events.append, successes=True)
        self.raised: list[BaseException] = []
        self.executor = Executor(self.app, WriteTurn(shared=False), self.raised.append)
        self.cancellation = Cancellation()

    def job(self, call: Call[Any], **changes: Any) -> ClaimedJob:
        """The call as a worker would hold it at its first claim."""
        row = self.app.client._job(call, None)
        columns = {name: getattr(row, name) for name in FIELDS if hasattr(row, name)}
        return ClaimedJob(**(columns | {"claim": 1, "attempt": 0, "rescues": 0} | changes))

    def run(self, job: ClaimedJob) -> Report:
        attempt = self.executor.prepare(job, "w1", self.cancellation)
        if not isinstance(attempt, Attempt):
            return attempt
        if attempt.task.signature.is_async:
            return asyncio.run(self.executor.acall(attempt))
        return self.executor.call(attempt)

    def keyed(self, keys: str | None) -> None:
        """The same app in a process with other keys."""
        self.app.sealer = Sealer(Settings.read(keys=keys).keys)

    def trouble(self, job: ClaimedJob, report: Any) -> Trouble:
        return Trouble.load(self.app.sealer.open("error", job.binding, report.error))


def tampered(job: ClaimedJob, **changes: Any) -> ClaimedJob:
    return job._replace(**changes)
