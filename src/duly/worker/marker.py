"""Marking an unrepeatable job as started, before its task is called.

1. In a short transaction of its own, under the fence: the mark, unless the job has expired. COMMIT.
2. Where that was not answered: read it back, before anything else is done.
3. The mark stands: the task may be called, unless its attempt was told to stop meanwhile.
4. It does not stand, or nobody can tell: this attempt calls nothing. What it hands in says so, and takes away a
   mark that has landed after all.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from duly.errors import DatabaseError
from duly.model.report import Ended, Lost, PutBack, Report
from duly.model.states import Outcome
from duly.worker.attempt import Attempt, TooLate
from duly.worker.writeturn import WriteTurn

if TYPE_CHECKING:
    from duly.store.marks import Mark
    from duly.worker.home import Home

AGAIN = timedelta(milliseconds=200)
"""How long a job waits whose mark the database did not take."""


class Marker:
    """Writes marks, on connections of the engine's pool."""

    def __init__(self, home: Home, turn: WriteTurn) -> None:
        self._home = home
        self._turn = turn

    def mark(self, attempt: Attempt) -> Report | None:
        """Mark the job; None: its task may be called now. Else what to report. ``TooLate``: it has expired."""
        with self._turn.of_task():
            refused = self._mark(attempt)
        return refused or self._stopped(attempt)

    async def amark(self, attempt: Attempt) -> Report | None:
        """As ``mark``, without holding up the loop. A cancellation that comes meanwhile waits until it is over."""
        cancelled = False
        async with self._turn.of_async_task():
            marking = asyncio.ensure_future(asyncio.to_thread(self._mark, attempt))
            while not marking.done():
                try:
                    await asyncio.wait([marking])
                except asyncio.CancelledError:
                    cancelled = True
        return marking.result() or self._stopped(attempt, cancelled=cancelled)

    def _mark(self, attempt: Attempt) -> Report | None:
        try:
            return None if self._write(attempt) else self._refused(attempt)
        except DatabaseError as error:
            if self._has_landed(attempt):
                return None
            job = attempt.job
            return PutBack(job.id, job.claim, str(error), False, AGAIN, unheard=True, may_repeat=True)

    def _write(self, attempt: Attempt) -> bool:
        store = self._home.store
        with store.tending() as connection:
            at = store.marks.set(connection, attempt.worker, attempt.job)
            if at is None:
                connection.rollback()
        return self._begin(attempt, at)

    def _has_landed(self, attempt: Attempt) -> bool:
        try:
            mark = self._look(attempt)
        except DatabaseError:
            return False
        if mark.late:
            raise TooLate  # the answer was lost, and the time has passed meanwhile
        return self._begin(attempt, mark.at)

    @staticmethod
    def _begin(attempt: Attempt, at: datetime | None) -> bool:
        if at is not None:
            attempt.marked, attempt.started_at = True, at
        return at is not None

    def _look(self, attempt: Attempt) -> Mark:
        store = self._home.store
        with store.tending() as connection:
            return store.marks.look(connection, attempt.worker, attempt.job)

    def _refused(self, attempt: Attempt) -> Report:
        """Why there is no mark of ours."""
        job, mark = attempt.job, self._look(attempt)
        if not mark.held:
            return Lost(job.id, job.claim)
        if mark.at is not None:
            cause = "it had been marked as started, by this very claim"
            return Ended(job.id, job.claim, Outcome.UNCERTAIN, cause, True, mark.at)
        raise TooLate

    @staticmethod
    def _stopped(attempt: Attempt, *, cancelled: bool = False) -> Report | None:
        """Told to stop while it was marked: what was not called need not end as uncertain."""
        if attempt.cancellation.reason is None and not cancelled:
            return None
        job = attempt.job
        return PutBack(
            job.id, job.claim, "stopped before it was called", False, timedelta(0), may_repeat=True
        )
