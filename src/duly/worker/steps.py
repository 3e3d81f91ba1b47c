"""The notebook of a running attempt: its steps, in short transactions of their own, and what its session does once.

Nothing of ours is locked here while the task's own code may be stopped from outside; what is interrupted in the
middle of a write was written, or was not.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from duly.errors import (
    ArgumentsMisfit,
    ContextError,
    DatabaseError,
    EnvelopeRejected,
    Snooze,
    StepRefused,
    UnknownKey,
)
from duly.model.events import JobPutBack, SecurityAlert
from duly.model.job import Binding, ClaimedJob, step_binding
from duly.model.unique import BY_ONCE, stored_key
from duly.task.notebook import Notebook

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from duly.task.task import Task
    from duly.worker.home import Home

PAUSES = (0.1, 0.5, 2.0)
"""Seconds between the tries to record what was done: there is no other way to know of it."""
UNKNOWN_KEY = 5.0
"""Seconds for which a job waits whose steps were sealed with a key that this worker does not have yet."""


class AttemptNotebook(Notebook):
    """One attempt's, on the queue's database."""

    def __init__(self, home: Home, task: Task[..., Any], job: ClaimedJob, worker: str) -> None:
        super().__init__()
        self.task = job.task
        self.limits = home.limits
        self._home = home
        self._job = job
        self._worker = worker
        self._transactional = task.transactional
        self._unrepeatable = task.unrepeatable
        self._async = task.signature.is_async
        self._lent: Any = None

    def lend(self, session: Any) -> None:
        """What the task is given to write with: a session or a connection."""
        self._lent = session

    def now(self) -> datetime:
        """The database's time, carried forward from when it was last heard."""
        return self._home.store.clock.now()

    # ── once ──────────────────────────────────────────────────────────────────────────────────

    def once(self, key: str, keep: timedelta | None) -> bool:
        """Written in the transaction of what the task was given."""
        if self._async:
            raise ContextError("once() in an async task is await ctx.aonce(key)")
        return self._take(self._given().connection() if self._is_session else self._given(), key, keep)

    async def aonce(self, key: str, keep: timedelta | None) -> bool:
        """The same through an async session or connection."""
        if not self._async:
            raise ContextError("aonce() is for async tasks: in this one write ctx.once(key)")
        connection = await self._given().connection() if self._is_session else self._given()
        taken: bool = await connection.run_sync(self._take, key, keep)
        return taken

    @property
    def _is_session(self) -> bool:
        return hasattr(self._lent, "flush")

    def _given(self) -> Any:
        if self._lent is None:
            raise ContextError(
                "once() is answered in the transaction of what the task does: have Duly give it a session "
                "(`*, session: Session = given`), or write ctx.step(…) for what is done outside of the database"
            )
        return self._lent

    def _take(self, connection: Any, key: str, keep: timedelta | None) -> bool:
        store, digest = self._home.store, stored_key(BY_ONCE, "", key)
        with store.joined(connection) as joined:
            return store.onces.take(joined, digest, self._job.id, None if keep is None else self.now() + keep)

    # ── steps ─────────────────────────────────────────────────────────────────────────────────

    def find(self, name: str) -> bytes | None:
        """Behind the fence, so that an attempt whose job is another worker's does no more."""
        if self._on_loop():
            raise ContextError("a step in an async task is await ctx.astep(…)")
        if self._may_block:
            session = self._lent
            self._see_way(session.connection() if self._is_session else session)
        return self._find(name)

    def record(self, name: str, body: bytes) -> bytes:
        """Tried again when the database is away or its reply was lost; a row that is there then is ours."""
        sealed = self._home.sealer.seal("step", self._binding(name), body)
        for pause in PAUSES:
            try:
                return self._record(name, body, sealed)
            except DatabaseError:
                time.sleep(pause)
        return self._record(name, body, sealed)

    async def afind(self, name: str) -> bytes | None:
        """In a thread."""
        if self._may_block:
            session = self._lent
            connection = await session.connection() if self._is_session else session
            await connection.run_sync(self._see_way)
        return await asyncio.to_thread(self._find, name)

    async def arecord(self, name: str, body: bytes) -> bytes:
        """In a thread, to its end: a cancellation that comes while it runs is obeyed after it."""
        recording = asyncio.ensure_future(asyncio.to_thread(self.record, name, body))
        try:
            return await asyncio.shield(recording)
        except asyncio.CancelledError:
            await asyncio.wait([recording])
            raise

    def _find(self, name: str) -> bytes | None:
        store = self._home.store
        with store.reading() as connection:
            sealed = store.steps.find(connection, self._worker, self._job, name)
        return None if sealed is None else self._opened(name, sealed)

    def _record(self, name: str, body: bytes, sealed: bytes) -> bytes:
        home, keep = self._home, timedelta(days=self._home.settings.keep_failed)
        with home.store.tending() as connection:
            standing = home.store.steps.record(
                connection, self._worker, self._job, name, result=sealed, key_id=home.sealer.key_id, keep=keep
            )
        return body if standing == sealed else self._opened(name, standing)

    def _binding(self, name: str) -> Binding:
        return step_binding(self._job.origin, self._job.task, name)

    def _opened(self, name: str, sealed: bytes) -> bytes:
        """The result in a row; what was edited ends the job, for a key that is not here yet it waits."""
        home, job = self._home, self._job
        try:
            return home.sealer.open("step", self._binding(name), sealed)
        except UnknownKey as error:
            if self._unrepeatable:
                raise  # it was called: only its own code can know that it may be called again
            home.emitter.emit(JobPutBack(job.id, job.task, job.queue, str(error), problem=True))
            raise Snooze(f"{self._step(name)}: {error}", after=UNKNOWN_KEY) from error
        except (EnvelopeRejected, ArgumentsMisfit) as error:
            home.emitter.emit(SecurityAlert(job.id, job.task, job.queue, f"the result of a step: {error}"))
            raise StepRefused(f"{self._step(name)}: its recorded result does not open: {error}") from error

    # ── what cannot be ────────────────────────────────────────────────────────────────────────

    def _on_loop(self) -> bool:
        if not self._async:
            return False
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return False  # in a thread of the task's own
        return True

    @property
    def _may_block(self) -> bool:
        """Whether a transaction of the task's may be in the way of ours."""
        if not self._home.store.dialect.one_writer:
            return False
        if self._transactional:
            raise ContextError(
                "a step is recorded in a transaction of its own, and on SQLite a transactional task keeps all others "
                'from writing: make it two tasks, or say effects="idempotent"'
            )
        return self._lent is not None and self._lent.in_transaction()

    def _see_way(self, connection: Connection) -> None:
        if self._home.store.held_up_by(connection):
            raise ContextError(
                "a step is recorded in a transaction of its own, and on SQLite the one of the task's session keeps all "
                "others from writing: commit() before the step"
            )
