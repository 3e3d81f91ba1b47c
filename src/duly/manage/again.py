"""What a person decides about a job that has ended: it is tried again, or it is said how it really ended."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from duly.envelope.arguments import unique_in
from duly.errors import EnvelopeError, JobNotResolvable, JobNotRetryable, UniqueConflict
from duly.manage.home import Home
from duly.model.ids import derived_id
from duly.model.job import JobStatus, NewJob
from duly.model.resolution import Resolution, Verdict
from duly.model.states import KEEPS_ENVELOPE, Outcome, State
from duly.task.keying import unique_again

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from duly.task.task import Task


class Again:
    """Retries by hand, and resolutions."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def retry(self, status: JobStatus, actor: str) -> UUID:
        """The id of the job's retry, made now or before."""
        if status.outcome is Outcome.UNCERTAIN and status.resolution is None:
            resolution = self.resolve(status, Verdict.AGAIN, None, actor)
            assert resolution.again is not None  # noqa: S101 - that verdict has one
            return resolution.again
        if status.resolution is not None and status.resolution.again is not None:
            return status.resolution.again  # which stays when the ledger's row of that job is pruned
        fresh, store = self._retry_of(status), self._home.store
        if self._home.desk.look(fresh.id) is None:
            with store.tending() as connection:
                self._insert(connection, fresh)  # two clicks at once still make one job
                store.audit.note(connection, actor, "retried", [status.id], f"as {fresh.id}")
        return fresh.id

    def resolve(self, status: JobStatus, verdict: Verdict, reason: str | None, actor: str) -> Resolution:
        """The resolution that stands, made now or before; ``JobNotResolvable`` where it is another."""
        if status.outcome is not Outcome.UNCERTAIN:
            stands = f"is {status.state}" if status.outcome is None else f"ended {status.outcome}"
            raise JobNotResolvable(f"job {status.id} {stands}: there is nothing uncertain about it")
        standing = status.resolution or self._add(status, verdict, reason, actor)
        if standing.verdict is not verdict:
            raise JobNotResolvable(
                f"job {status.id} was resolved as {standing.verdict} by {standing.actor}, which stands"
            )
        return standing

    def _add(self, status: JobStatus, verdict: Verdict, reason: str | None, actor: str) -> Resolution:
        fresh = self._retry_of(status) if verdict is Verdict.AGAIN else None
        again, job, store = None if fresh is None else fresh.id, status.id, self._home.store
        with store.tending() as connection:
            standing = store.resolutions.standing(connection, job)
            if standing is not None:
                return standing
            if fresh is not None:
                self._insert(connection, fresh)
            details = str(verdict) if again is None else f"{verdict}, as {again}"
            store.audit.note(connection, actor, "resolved", [job], details)
            return store.resolutions.add(connection, job, verdict, actor=actor, reason=reason, again=again)

    def _insert(self, connection: Connection, fresh: NewJob) -> None:
        """What was done for the origin is kept for its retry."""
        store = self._home.store
        try:
            self._home.client.insert_again(connection, fresh)
        except UniqueConflict as error:
            raise JobNotRetryable(f"job {error.job} has its unique key: it does the same already") from None
        store.steps.extend(connection, fresh, timedelta(days=self._home.settings.keep_failed))

    def _retry_of(self, status: JobStatus) -> NewJob:
        if status.outcome is None:
            raise JobNotRetryable(f"job {status.id} has not ended ({status.state}); it is retried by itself")
        if status.outcome is Outcome.SUCCEEDED:
            raise JobNotRetryable(f"job {status.id} succeeded; enqueue a new job instead")
        if status.resolution is not None and status.resolution.verdict is Verdict.SUCCEEDED:
            who = status.resolution.actor
            raise JobNotRetryable(
                f"job {status.id} was resolved as succeeded by {who}; enqueue a new job instead"
            )
        if status.envelope is None:
            pruned = status.outcome in KEEPS_ENVELOPE
            why = "and its arguments were pruned" if pruned else "after which no arguments are kept"
            raise JobNotRetryable(f"job {status.id} ended {status.outcome}, {why}; enqueue it anew")
        try:
            body = self._home.sealer.open("arguments", status.binding, status.envelope)
        except EnvelopeError as error:
            raise JobNotRetryable(f"job {status.id} cannot be opened here: {error}") from error
        now = self._home.store.clock.now()
        return self._home.client.row(
            body=body,
            identity=derived_id(status.id, "retry"),
            origin=status.origin,
            task=status.task,
            fingerprint=self._fingerprint(status),
            queue=status.queue,
            priority=status.priority,
            state=State.AVAILABLE,
            run_at=now,
            enqueued_at=now,
            expires_at=now + (status.expires_at - status.enqueued_at),
            principal=status.principal,
            keys=unique_again(unique_in(body)),
        )

    def _fingerprint(self, status: JobStatus) -> str:
        task: Task[..., Any] | None = self._home.find(status.task)
        return "" if task is None else task.signature.arguments.fingerprint
