"""One attempt of one job: from its row to a report of how it ended.

1. Too late? Expired, without starting.
2. Open the envelope, *before* the task is looked up. Edited or copied: rejected. Unknown key: put back.
3. Find the task. Unknown here: put back.
4. Fit the arguments to its signature. They do not fit: put back.
5. Call it, in a transaction of ours where it is transactional.
6. Turn what it returned or raised into a report (``verdict.py``).

Nothing here writes to the jobs table, but for a transactional task, whose own transaction records its
success, and for an unrepeatable one, which is marked as started before step 5. ``run`` and ``arun`` differ in
step 5 alone.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack, nullcontext
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from duly.envelope.arguments import SealedOptions
from duly.envelope.trouble import Trouble
from duly.errors import (
    ArgumentsMisfit,
    AttemptStopped,
    DatabaseError,
    EnvelopeRejected,
    TimeLimit,
    UnknownKey,
)
from duly.model.events import JobPutBack, Notice, SecurityAlert
from duly.model.job import ClaimedJob
from duly.model.options import Options
from duly.model.report import Ended, PutBack, Recorded, Report
from duly.model.states import Outcome
from duly.task.context import Cancellation
from duly.task.current import arun_as, run_as
from duly.task.injected import Injected
from duly.worker.alarm import Alarm
from duly.worker.attempt import Attempt, OverLimit, TooLate
from duly.worker.interrupt import Region
from duly.worker.marker import Marker
from duly.worker.ticket import Ticket
from duly.worker.verdict import Verdict, named
from duly.worker.writeturn import WriteTurn

if TYPE_CHECKING:
    from duly.task.task import Task
    from duly.worker.home import Home
    from duly.worker.isolation import Isolation

FIRST_PUT_BACK, LONGEST_PUT_BACK = 5, 300
BROKEN = timedelta(seconds=5)
LONGEST = timedelta(hours=4)


class Executor:
    """Runs attempts for one worker, in whichever thread or loop it is called."""

    def __init__(
        self,
        home: Home,
        turn: WriteTurn,
        on_error: Callable[[BaseException], None] | None = None,
        isolation: Isolation | None = None,
    ) -> None:
        self._home = home
        self._turn = turn
        self._isolation = isolation
        self._verdict = Verdict(home, on_error)
        self._marker = Marker(home, turn)
        self.alarm = Alarm()
        self._options: dict[tuple[str, str, SealedOptions], tuple[Options, float]] = {}

    # ── the two ways to call ──────────────────────────────────────────────────────────────────

    def run(self, ticket: Ticket) -> Report:
        """An attempt of a sync task."""
        attempt = self.prepare(ticket.job, ticket.worker, ticket.cancellation)
        if not isinstance(attempt, Attempt):
            return attempt
        ticket.attempt = attempt
        if self._isolation is not None and attempt.task.isolation is not None:
            report = self._run_apart(self._isolation, attempt)
        else:
            report = self.call(attempt)
        ticket.attempt = None  # what it holds is let go while the ticket waits for its exchange
        return report

    async def arun(self, ticket: Ticket) -> Report:
        """An attempt of an async task, on the running loop."""
        attempt = self.prepare(ticket.job, ticket.worker, ticket.cancellation)
        if not isinstance(attempt, Attempt):
            return attempt
        ticket.attempt = attempt
        report = await self.acall(attempt)
        ticket.attempt = None
        return report

    def apart(self, task: Task[..., Any] | None) -> bool:
        """Whether a task's jobs run in processes of their own. Without a nursery they run here."""
        return self._isolation is not None and task is not None and task.isolation is not None

    def on_loop(self, task: Task[..., Any] | None) -> bool:
        """Whether they run on the event loop."""
        return task is not None and task.signature.is_async and not self.apart(task)

    def _run_apart(self, isolation: Isolation, attempt: Attempt) -> Report:
        """The write turn is taken here, where the pump and other tasks wait for it too."""
        try:
            with self._turn.of_task() if attempt.task.transactional else nullcontext():
                return isolation.run(attempt)
        except (AttemptStopped, OverLimit) as error:
            return self._verdict.ended_by(attempt, error)

    def call(self, attempt: Attempt) -> Report:
        """Call a sync task that was made ready."""
        if attempt.task.transactional:
            with self._turn.of_task():
                return self._call_in_transaction(attempt)
        try:
            if attempt.task.unrepeatable and (refused := self._marker.mark(attempt)):
                return refused
            if attempt.task.signature.injected:
                with ExitStack() as stack:
                    given = self._own(attempt, stack)
                    _begin(attempt, self._home.store.clock.now())
                    result = self._invoke(attempt, given)
                    attempt.returned = True
            else:
                result = self._invoke(attempt, {})
        except BaseException as error:  # noqa: BLE001 - a task may raise anything; the worker goes on
            return self._verdict.ended_by(attempt, error)
        return self._verdict.succeeded(attempt, result)

    async def acall(self, attempt: Attempt) -> Report:
        """Call an async task that was made ready, on the running loop."""
        if attempt.task.transactional:
            async with self._turn.of_async_task():
                return await self._acall_in_transaction(attempt)
        try:
            if attempt.task.unrepeatable and (refused := await self._marker.amark(attempt)):
                return refused
            async with AsyncExitStack() as stack:
                given = await self._aown(attempt, stack)
                if given:
                    _begin(attempt, self._home.store.clock.now())
                result = await self._invoke(attempt, given)
                attempt.returned = True
        except BaseException as error:  # noqa: BLE001 - as above
            return self._verdict.ended_by(attempt, error)
        return self._verdict.succeeded(attempt, result)

    # ── 1 to 4: from row to attempt ───────────────────────────────────────────────────────────

    def prepare(self, job: ClaimedJob, worker: str, cancellation: Cancellation) -> Attempt | Report:
        """Open, find, fit; or the report that says why not."""
        home = self._home
        now = home.store.clock.now()
        if job.expires_at <= now:
            return Ended(job.id, job.claim, Outcome.EXPIRED, "not started before expires_at", counted=False)
        try:
            body = home.sealer.open("arguments", job.binding, job.envelope)
            task = home.find(job.task)
            if task is None:
                return self._put_back(job, f"no task {job.task!r} is known here")
            values, sealed = task.signature.arguments.load(body)
        except EnvelopeRejected as error:
            home.emitter.emit(SecurityAlert(job.id, job.task, job.queue, str(error)))
            return Ended(job.id, job.claim, Outcome.REJECTED, str(error), counted=False)
        except UnknownKey as error:
            return self._put_back(job, str(error))
        except ArgumentsMisfit as error:
            return self._put_back(job, str(error))
        options, run_time = self._merged(task, job.queue, sealed)
        return Attempt(job, task, values, options, worker, cancellation, now, run_time, home)

    def _put_back(self, job: ClaimedJob, cause: str) -> PutBack:
        """Said loudly, without an attempt; 5 s at first, growing to 5 minutes.

        Claims that used no attempt, were not rescued and met no passing fault are those that ended here before.
        """
        before = max(0, min(job.claim - 1 - job.attempt - job.rescues - job.transients, 10))
        wait = timedelta(seconds=min(FIRST_PUT_BACK * 2**before, LONGEST_PUT_BACK))
        self._home.emitter.emit(JobPutBack(job.id, job.task, job.queue, cause, problem=True))
        return PutBack(job.id, job.claim, cause, counted=False, after=wait)

    def broken(self, job: ClaimedJob, error: BaseException) -> PutBack:
        """Something of ours broke around the attempt, not the task: put the job back, and say so."""
        trouble = Trouble.of(error)
        self._home.emitter.emit(
            Notice(
                f"job {job.id} was put back after an internal error: {trouble.type}\n{trouble.traceback}",
                "error",
            )
        )
        return PutBack(job.id, job.claim, f"internal error: {named(error)}", counted=False, after=BROKEN)

    def _merged(self, task: Task[..., Any], queue: str, sealed: SealedOptions) -> tuple[Options, float]:
        """What holds for a job; and its run-time limit in seconds, so that it is worked out once and not for each."""
        key = (task.name, queue, sealed)
        found = self._options.get(key)
        if found is None:
            call = Options(
                max_attempts=sealed.max_attempts,
                retry=sealed.retry,
                max_run_time=sealed.max_run_time,
                keep_result=sealed.keep_result,
            )
            options = call.over(self._home.options_of(task, queue))
            found = options, (options.max_run_time or LONGEST).total_seconds()
            if len(self._options) > 10_000:
                self._options.clear()
            self._options[key] = found
        return found

    # ── 5: the call ───────────────────────────────────────────────────────────────────────────

    def _invoke(self, attempt: Attempt, given: dict[str, Any]) -> Any:
        """The task's own code, and nothing else: from here its time counts, and here alone may it be stopped."""
        signature, function = attempt.task.signature, attempt.task.function
        args, kwargs = signature.apply(attempt.values)
        if signature.injected:
            kwargs = {**kwargs, **given, **{name: attempt.context() for name in signature.contexts}}
        is_async = signature.is_async
        attempt.begun = True
        attempt.region = region = Region(attempt.run_time, 0 if is_async else threading.get_ident())
        if region.due < self.alarm.next:
            self.alarm.ring()
        if is_async:
            return arun_as(attempt, region.arun, function, args, kwargs)
        returned = run_as(attempt, region.run, function, args, kwargs)
        if returned is not None:
            _refuse_unrun(returned)
        return returned

    @staticmethod
    def transactional(ticket: Ticket) -> bool:
        """Whether what runs is in a transaction."""
        return ticket.attempt is not None and ticket.attempt.task.transactional

    def deaf(self, attempt: Attempt) -> Report:
        """How an attempt ends that does not stop."""
        return self._verdict.deaf(attempt)

    def _own(self, attempt: Attempt, stack: ExitStack) -> dict[str, Any]:
        """What a task that is not transactional is given: sessions commit when it returns."""
        given: dict[str, Any] = {}
        store = self._home.store
        for name, kind in attempt.task.signature.injected.items():
            match kind:
                case Injected.SESSION:
                    given[name] = session = stack.enter_context(store.own_session(self._home.session_factory))
                    stack.push(lambda kind, *_, s=session: s.commit() if kind is None else None)
                case Injected.CONNECTION:
                    given[name] = stack.enter_context(store.engine.begin())
        return attempt.lend(given)

    async def _aown(self, attempt: Attempt, stack: AsyncExitStack) -> dict[str, Any]:
        given: dict[str, Any] = {}
        store = self._home.store
        for name, kind in attempt.task.signature.injected.items():
            match kind:
                case Injected.ASYNC_SESSION:
                    session = store.own_async_session(self._home.async_session_factory)
                    given[name] = await stack.enter_async_context(session)
                    stack.push_async_exit(_commit_if_well(session))
                case Injected.ASYNC_CONNECTION if store.async_engine is not None:
                    given[name] = await stack.enter_async_context(store.async_engine.begin())
        return attempt.lend(given)

    def _call_in_transaction(self, attempt: Attempt) -> Report:
        transaction = self._home.store.task_transaction(
            attempt.worker, attempt.job, **self._limits(attempt), session=self._home.session_factory
        )
        ours = True
        try:
            _begin(attempt, transaction.start())
            given = _given(attempt, transaction)
            ours = False
            result = self._verdict.result(attempt, self._invoke(attempt, given))
            ours = True
            transaction.finish(attempt.started_at, result)
        except BaseException as error:  # noqa: BLE001 - a task may raise anything
            try:
                whole = transaction.abandon()
            except DatabaseError:
                whole = True  # the connection is gone, and the transaction with it
            return self._verdict.undone(attempt, error, whole=whole, ours=ours)
        return Recorded(attempt.job.id, attempt.job.claim)

    async def _acall_in_transaction(self, attempt: Attempt) -> Report:
        transaction = self._home.store.async_task_transaction(
            attempt.worker, attempt.job, **self._limits(attempt), session=self._home.async_session_factory
        )
        ours = True
        try:
            _begin(attempt, await transaction.start())
            given = _given(attempt, transaction)
            ours = False
            result = self._verdict.result(attempt, await self._invoke(attempt, given))
            ours = True
            await transaction.finish(attempt.started_at, result)
        except BaseException as error:  # noqa: BLE001 - as above
            try:
                whole = await transaction.abandon(
                    discard=isinstance(error, asyncio.CancelledError | TimeLimit)
                )
            except DatabaseError:
                whole = True
            return self._verdict.undone(attempt, error, whole=whole, ours=ours)
        return Recorded(attempt.job.id, attempt.job.claim)

    def _limits(self, attempt: Attempt) -> dict[str, float]:
        return {"run_time": attempt.run_time, "lease": self._home.settings.lease}


def _begin(attempt: Attempt, now: datetime) -> None:
    """The attempt starts now: the wait for a connection or the write lock may have lasted past its time."""
    if attempt.job.expires_at <= now:
        raise TooLate
    attempt.started_at = now


def _given(attempt: Attempt, transaction: Any) -> dict[str, Any]:
    """What a transactional task is given: all of it in the one transaction."""
    given: dict[str, Any] = {}
    for name, kind in attempt.task.signature.injected.items():
        match kind:
            case Injected.SESSION | Injected.ASYNC_SESSION:
                given[name] = transaction.session()
            case Injected.CONNECTION | Injected.ASYNC_CONNECTION:
                given[name] = transaction.connection
    return attempt.lend(given)


def _refuse_unrun(returned: Any) -> None:
    """A sync task that returns a coroutine or generator has done nothing yet: a decorator hid the async def."""
    if inspect.isawaitable(returned) or inspect.isgenerator(returned) or inspect.isasyncgen(returned):
        if inspect.iscoroutine(returned) or inspect.isgenerator(returned):
            returned.close()
        kind = type(returned).__name__
        raise TypeError(
            f"the task returned a {kind}, which nobody runs: declare it as async def, or use up the generator"
        )


def _commit_if_well(session: Any) -> Any:
    async def leave(kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            await session.commit()

    return leave
