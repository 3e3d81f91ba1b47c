"""Running jobs in the process at hand, for tests: ``drain()`` and ``inline()``, through a worker's own code."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from duly.clock import Clock
from duly.model.job import ClaimedJob
from duly.model.report import Ended, PutBack, Recorded, Report
from duly.model.states import Outcome
from duly.task.context import Cancellation
from duly.worker.attempt import Attempt
from duly.worker.executor import Executor
from duly.worker.pump import Pump
from duly.worker.queues import Selection
from duly.worker.services.membership import Membership
from duly.worker.writeturn import WriteTurn

if TYPE_CHECKING:
    from duly.worker.home import Home


def drain(home: Home, queues: Selection) -> Counter[str]:
    """A worker with one thread that leaves when it finds nothing; how its attempts ended."""
    pump = Pump(home, queues, threads=1, coroutines=25, until_empty=True)
    pump.run()
    return pump.tally


def run_now(home: Home, jobs: Sequence[UUID]) -> None:
    """Run these jobs here, one after the other; the first exception of a task is raised, its job ended ``failed``."""
    if not jobs:
        return
    store = home.store
    membership = Membership(store, home.settings, Clock(), "inline")
    with store.writing() as connection:
        membership.join(connection)
    try:
        for job in jobs:
            _run_one(home, membership.id, job)
    finally:
        with store.writing() as connection:
            membership.leave(connection)
        membership.forget()


def _run_one(home: Home, worker: str, identity: UUID) -> None:
    store = home.store
    with store.writing() as connection:
        job = store.jobs.claim_one(connection, worker, identity)
    if job is None:
        return  # rolled back with its transaction, or somebody else has it
    raised: list[BaseException] = []
    report = _attempt(Executor(home, WriteTurn(shared=False), raised.append), job, worker)
    if isinstance(report, PutBack) and (report.counted or report.transient):
        report = Ended(job.id, job.claim, Outcome.FAILED, report.cause, True, report.started_at, report.error)
    if not isinstance(report, Recorded):
        with store.writing() as connection:
            store.jobs.exchange(connection, worker, [report], ("",), 0)
    if raised:
        raise raised[0]


def _attempt(executor: Executor, job: ClaimedJob, worker: str) -> Report:
    attempt = executor.prepare(job, worker, Cancellation())
    if not isinstance(attempt, Attempt):
        return attempt
    if not attempt.task.signature.is_async:
        return executor.call(attempt)
    # In a thread of its own: there may be a running loop here already. What the task enqueues is inline too.
    reports: list[Report] = []
    context = contextvars.copy_context()
    thread = threading.Thread(
        target=lambda: reports.append(context.run(asyncio.run, executor.acall(attempt)))
    )
    thread.start()
    thread.join()
    return reports[0]
