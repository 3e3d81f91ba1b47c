"""Enqueue: validate, seal, insert — in the caller's transaction or one of our own.

1. Merge the options (call over task over queue over app) and settle the times.
2. Turn the arguments into bytes; what would not come back as it went is refused here.
3. Seal the bytes to the columns of the row.
4. Insert: a new id plainly, one the caller gave (or a repetition) behind a look at the ledger, one that takes
   keys (``unique=``, ``idempotency_key=``) with a look at who holds them.

Nothing is written before everything has been checked.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from uuid import UUID

from duly.envelope.arguments import Limits, SealedOptions
from duly.envelope.seal import Sealer
from duly.errors import DatabaseBusy, DatabaseError, DatabaseUnavailable, IdTaken, InvalidOptions, UnknownKey
from duly.model.ids import new_id
from duly.model.job import JobStatus, NewJob
from duly.model.options import NOTHING, Options
from duly.model.states import State
from duly.model.times import settle
from duly.model.unique import Caller, Key
from duly.task.current import current
from duly.task.handle import JobHandle
from duly.task.keying import given_id, keys_of, stored_unique, unique_key

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from duly.store import Store
    from duly.task.call import Call
    from duly.task.context import Context
    from duly.task.handle import Desk
    from duly.task.task import Task

R = TypeVar("R")

Answers = Mapping[UUID, UUID]
"""Jobs that were not made, each with the job that is there in its place."""

Insert = Callable[..., Answers]

TRIES = 3
"""How often an enqueue of our own is sent when its reply was lost or it met a deadlock. The id makes it one job."""


class Home(Protocol):
    """What the client needs of its app."""

    sealer: Sealer
    limits: Limits

    @property
    def store(self) -> Store:
        """The opened store."""
        ...

    @property
    def desk(self) -> Desk:
        """Where handles ask."""
        ...

    def options_of(self, task: Task[..., Any], queue: str | None) -> Options:
        """Task over queue over app over defaults."""
        ...

    def after_enqueue(self, jobs: Sequence[UUID], *, joined: bool) -> None:
        """Told of every enqueue; *joined*: the caller's transaction has yet to commit."""
        ...


class Client:
    """Makes jobs of calls."""

    def __init__(self, home: Home) -> None:
        self._home = home

    @property
    def home(self) -> Home:
        """The app."""
        return self._home

    # ── one call ──────────────────────────────────────────────────────────────────────────────

    def enqueue(self, call: Call[R]) -> JobHandle[R]:
        """Enqueue one call; in the caller's transaction where it has a target."""
        jobs, insert, target = self._batch([call], call.target)
        return self._handles(jobs, self._send(insert, target), target)[0]

    async def aenqueue(self, call: Call[R]) -> JobHandle[R]:
        """The same for async callers."""
        return (await self.aenqueue_many([call], target=call.target))[0]

    # ── many calls, all or nothing ────────────────────────────────────────────────────────────

    def enqueue_many(self, calls: Sequence[Call[Any]], *, target: Any = None) -> list[JobHandle[Any]]:
        """Enqueue many calls in one transaction and one round trip, in their order; all or none."""
        jobs, insert, target = self._batch(calls, target)
        return self._handles(jobs, self._send(insert, target) if jobs else {}, target)

    async def aenqueue_many(self, calls: Sequence[Call[Any]], *, target: Any = None) -> list[JobHandle[Any]]:
        """The same for async callers."""
        desk = self._home.desk
        jobs, insert, target = await desk.run(self._batch, calls, target)
        answers = await self._asend(insert, target) if jobs else {}
        return await desk.run(self._handles, jobs, answers, target)

    def _batch(self, calls: Sequence[Call[Any]], target: Any) -> tuple[list[NewJob], Insert, Any]:
        targets = {id(call.target): call.target for call in calls if call.target is not None}
        if target is not None:
            targets[id(target)] = target
        if len(targets) > 1:
            raise InvalidOptions(
                "enqueue_many: all calls of a batch go in one transaction; give session= once, here"
            )
        parent = current()
        jobs = [self._job(call, parent) for call in calls]
        if len({job.id for job in jobs}) < len(jobs):
            raise InvalidOptions("enqueue_many: two calls of this batch have the same id= or child=")
        again = any(call.options.id is not None or call.options.child is not None for call in calls)
        caller = None
        if any(job.keys for job in jobs):
            running = None if parent is None else parent.job_id
            caller = Caller(self._compare, joined=bool(targets), again=again, running=running)
        insert = functools.partial(self._insert, jobs=jobs, again=again, caller=caller)
        return jobs, insert, next(iter(targets.values()), None)

    def insert_again(self, connection: Connection, job: NewJob) -> None:
        """Insert the retry by hand of an ended job, which may be there already, in *connection*'s transaction.

        It takes the unique key of the job that it repeats, or raises ``UniqueConflict``; the idempotency key of its
        origin stands until this one expires.
        """
        caller = Caller(self._compare, again=True) if job.keys else None
        self._insert(connection, jobs=[job], again=True, caller=caller)
        self._home.store.jobs.keys.extend(connection, job.origin, job.expires_at)

    # ── from call to row ──────────────────────────────────────────────────────────────────────

    def _job(self, call: Call[Any], parent: Context | None) -> NewJob:
        """The row: times settled, arguments checked and sealed."""
        home, task, given = self._home, call.task, call.options
        home.store.tell_time()
        now = home.store.clock.now()
        now = now.replace(microsecond=now.microsecond // 1000 * 1000)  # milliseconds, as SQLite's clock has
        options = given.over(home.options_of(task, given.queue))
        queue, priority = options.queue, options.priority
        assert queue is not None and priority is not None  # noqa: S101, PT018 - defaults say both
        deadline = parent.expires_at if parent is not None and given.expires is None else None
        run_at, expires_at = settle(options, now, task.name, deadline)
        sealed = SealedOptions(
            max_attempts=given.max_attempts,
            retry=given.retry,
            max_run_time=given.max_run_time,
            keep_result=given.keep_result,
        )
        arguments = task.signature.arguments
        keys: tuple[Key, ...] = ()
        if given is not NOTHING or options.unique is not None:
            bare = functools.partial(arguments.dump, call.arguments, SealedOptions(), home.limits)
            unique = unique_key(task, given, options, bare)
            keys = keys_of(task.name, options, unique, enqueued_at=now, expires_at=expires_at)
            sealed = sealed._replace(unique=stored_unique(unique, options))
        body = arguments.dump(call.arguments, sealed, home.limits)
        return self.row(
            task=task.name,
            fingerprint=arguments.fingerprint,
            queue=queue,
            priority=priority,
            state=State.SCHEDULED if run_at > now else State.AVAILABLE,
            run_at=run_at,
            expires_at=expires_at,
            enqueued_at=now,
            body=body,
            identity=given_id(task.name, given),
            keys=keys,
        )

    def row(
        self,
        *,
        body: bytes,
        identity: UUID | None = None,
        origin: UUID | None = None,
        keys: tuple[Key, ...] = (),
        **columns: Any,
    ) -> NewJob:
        """Seal *body* to its columns; the digest covers what runs, so that a repetition can be told from a clash."""
        identity = identity or new_id()
        sealer = self._home.sealer
        principal = columns.setdefault("principal", None)
        holds = functools.reduce(operator.or_, (key.holds for key in keys)) if keys else 0
        draft = NewJob(
            id=identity, origin=origin or identity, digest=b"", key_id=sealer.key_id, envelope=body,
            holds=holds, keys=keys, **columns,
        )  # fmt: skip
        content = _content(draft.task, draft.queue, principal, body)
        return _replaced(
            draft,
            digest=sealer.digest(content, sealer.key_id),
            envelope=sealer.seal("arguments", draft.binding, body),
        )

    # ── to the database ───────────────────────────────────────────────────────────────────────

    def _insert(
        self,
        connection: Connection,
        *,
        jobs: list[NewJob],
        again: bool,
        caller: Caller | None,
        repeated: bool = False,
    ) -> Answers:
        """Write the rows. *again*: the ids may be known; *repeated*: an earlier try may have landed."""
        store = self._home.store
        if caller is not None:  # some take keys
            return store.jobs.insert_keyed(connection, jobs, caller.repeating() if repeated else caller)
        if not (again or repeated):
            if len(jobs) == 1:
                store.jobs.insert(connection, jobs[0])
                return {}
            if store.jobs.insert_many(connection, jobs):
                return {}
        with connection.begin_nested():
            stored = store.jobs.insert_again(connection, jobs)
            for job in jobs:
                self._compare(job, stored.get(job.id))
        return {}

    def _compare(self, job: NewJob, stored: tuple[bytes, str | None] | None) -> None:
        """The job under this id must be this one."""
        if stored is None:
            return
        digest, key_id = stored
        if digest == job.digest and key_id == job.key_id:
            return
        if key_id != job.key_id and self._same_under(job, digest, key_id):
            return
        raise IdTaken(
            f"a job with id {job.id} exists, with another task, queue, options or arguments; use a new id"
        )

    def _same_under(self, job: NewJob, digest: bytes, key_id: str | None) -> bool:
        sealer = self._home.sealer
        try:
            body = sealer.open("arguments", job.binding, job.envelope)
            return sealer.digest(_content(job.task, job.queue, job.principal, body), key_id) == digest
        except UnknownKey:
            return False

    def _send(self, insert: Insert, target: Any) -> Answers:
        """Run *insert* in the caller's transaction, or in our own, which is repeated when its reply is lost."""
        store = self._home.store
        if target is not None:
            with store.joined(_connection_of(target)) as connection:
                return insert(connection)
        n = 0
        while True:
            n += 1
            try:
                with store.writing() as connection:
                    answers = insert(connection, repeated=n > 1)
            except DatabaseError as error:
                if n == TRIES or not _worth_repeating(error):
                    raise
            else:
                return answers

    async def _asend(self, insert: Insert, target: Any) -> Answers:
        store, desk = self._home.store, self._home.desk
        if target is None and store.async_engine is None:
            return await desk.run(self._send, insert, None)
        if target is None:
            return await self._asend_own(insert)
        if _is_async(target):
            connection = target if hasattr(target, "sync_connection") else await target.connection()
            answers: Answers = await connection.run_sync(self._insert_joined, insert)
            return answers
        return self._send(insert, target)

    async def _asend_own(self, insert: Insert) -> Answers:
        store = self._home.store
        n = 0
        while True:
            n += 1
            try:
                async with store.writing_async() as connection:
                    answers = await connection.run_sync(functools.partial(insert, repeated=n > 1))
            except DatabaseError as error:
                if n == TRIES or not _worth_repeating(error):
                    raise
            else:
                return answers

    def _insert_joined(self, connection: Connection, insert: Insert) -> Answers:
        with self._home.store.joined(connection) as joined:
            return insert(joined)

    def _handles(self, jobs: Sequence[NewJob], answers: Answers, target: Any) -> list[JobHandle[Any]]:
        """Of each job, or of the one that was there in its place."""
        desk = self._home.desk
        handles: list[JobHandle[Any]] = [
            JobHandle(answers[job.id], desk)
            if job.id in answers
            else JobHandle(job.id, desk, _first_status(job))
            for job in jobs
        ]
        made = [job.id for job in jobs if job.id not in answers]
        self._home.after_enqueue(made, joined=target is not None)
        return handles


def _worth_repeating(error: DatabaseError) -> bool:
    """A lost reply, or a deadlock that was resolved at our cost; a lock that was waited for in vain is neither."""
    return isinstance(error, DatabaseUnavailable) or (isinstance(error, DatabaseBusy) and error.repeat)


def _content(task: str, queue: str, principal: str | None, body: bytes) -> bytes:
    parts = [task.encode(), queue.encode(), b"" if principal is None else b"=" + principal.encode(), body]
    return b"".join(len(part).to_bytes(8) + part for part in parts)


def _replaced(job: NewJob, *, digest: bytes, envelope: bytes) -> NewJob:
    return NewJob(
        job.id, job.origin, job.task, job.fingerprint, job.queue, job.priority, job.state, job.run_at,
        job.expires_at, job.enqueued_at, job.principal, digest, job.key_id, envelope, job.trace, job.holds, job.keys,
    )  # fmt: skip


def _first_status(job: NewJob) -> JobStatus:
    return JobStatus(
        id=job.id, origin=job.origin, task=job.task, queue=job.queue, priority=job.priority, state=job.state,
        outcome=None, cause=None, attempts=0, rescues=0, claim=0, worker=None, run_at=job.run_at,
        enqueued_at=job.enqueued_at, expires_at=job.expires_at, ended_at=None, principal=job.principal,
        key_id=job.key_id,
    )  # fmt: skip


def _is_async(target: Any) -> bool:
    return hasattr(target, "run_sync")


def _connection_of(target: Any) -> Connection:
    """The SQLAlchemy connection of a session, or the connection itself."""
    if _is_async(target):
        raise InvalidOptions(
            "an async session or connection needs the async verb: await task.using(…).aenqueue(…)"
        )
    if hasattr(target, "flush"):  # a Session, or a scoped one
        connection: Connection = target.connection()
        return connection
    if hasattr(target, "in_nested_transaction"):
        return target  # type: ignore[no-any-return] # a Connection, by its looks
    raise InvalidOptions(f"session= takes a SQLAlchemy Session or AsyncSession, not {type(target).__name__}")
