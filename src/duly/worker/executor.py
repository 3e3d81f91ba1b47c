"""One attempt of one job: from its row to a report of how it ended.

1. Too late? Expired, without starting.
2. Open the envelope, *before* the task is looked up. Edited or copied: rejected. Unknown key: put back.
3. Find the task. Unknown here: put back.
4. Fit the arguments to its signature. They do not fit: put back.
5. Call it, in a transaction of ours where it is transactional.
6. Turn what it returned or raised into a report.

Nothing here writes to the jobs table, but for a transactional task, whose own transaction records its
success. ``run`` and ``arun`` differ in step 5 alone.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from duly.envelope.arguments import SealedOptions
from duly.envelope.trouble import Trouble
from duly.errors import (
    ArgumentsMisfit,
    Cancel,
    DatabaseError,
    EnvelopeRejected,
    InvalidArguments,
    LeaseLost,
    Retry,
    Snooze,
    TransactionEnded,
    UnknownKey,
)
from duly.model.events import JobPutBack, Notice, SecurityAlert
from duly.model.job import ClaimedJob
from duly.model.options import DEFAULTS, Options
from duly.model.report import SNOOZED, Ended, Lost, PutBack, Recorded, Released, Report, Succeeded
from duly.model.states import Outcome
from duly.task.context import Cancellation
from duly.task.injected import Injected
from duly.worker.attempt import Attempt, ResultRefused, TooLate
from duly.worker.writeturn import WriteTurn

if TYPE_CHECKING:
    from duly.task.task import Task
    from duly.worker.home import Home

SNOOZE = timedelta(seconds=60)
FIRST_PUT_BACK, LONGEST_PUT_BACK = 5, 300
BUSY = timedelta(milliseconds=200)
BROKEN = timedelta(seconds=5)


class Executor:
    """Runs attempts for one worker, in whichever thread or loop it is called."""

    def __init__(
        self, home: Home, turn: WriteTurn, on_error: Callable[[BaseException], None] | None = None
    ) -> None:
        self._home = home
        self._turn = turn
        self._on_error = on_error
        self._options: dict[tuple[str, str, SealedOptions], Options] = {}

    # ── the two ways to call ──────────────────────────────────────────────────────────────────

    def run(self, job: ClaimedJob, worker: str, cancellation: Cancellation) -> Report:
        """An attempt of a sync task."""
        attempt = self.prepare(job, worker, cancellation)
        if not isinstance(attempt, Attempt):
            return attempt
        return self.call(attempt)

    def call(self, attempt: Attempt) -> Report:
        """Call a sync task that was made ready."""
        if attempt.task.transactional:
            with self._turn.of_task():
                return self._call_in_transaction(attempt)
        try:
            with ExitStack() as stack:
                given = self._own(attempt, stack)
                if given:
                    _begin(attempt, self._home.store.clock.now())
                result = self._invoke(attempt, given)
        except BaseException as error:  # noqa: BLE001 - a task may raise anything; the worker goes on
            return self._ended_by(attempt, error)
        return self._succeeded(attempt, result)

    async def acall(self, attempt: Attempt) -> Report:
        """Call an async task that was made ready, on the running loop."""
        if attempt.task.transactional:
            async with self._turn.of_async_task():
                return await self._acall_in_transaction(attempt)
        try:
            async with AsyncExitStack() as stack, asyncio.timeout(attempt.run_time):
                given = await self._aown(attempt, stack)
                if given:
                    _begin(attempt, self._home.store.clock.now())
                result = await self._invoke(attempt, given)
        except BaseException as error:  # noqa: BLE001 - as above
            return self._ended_by(attempt, error)
        return self._succeeded(attempt, result)

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
        return Attempt(job, task, values, self._merged(task, job.queue, sealed), worker, cancellation, now)

    def _put_back(self, job: ClaimedJob, cause: str) -> PutBack:
        """Said loudly, without an attempt; 5 s at first, growing to 5 minutes.

        Claims that used no attempt and were not rescued are those that ended here before.
        """
        before = max(0, min(job.claim - 1 - job.attempt - job.rescues, 10))
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
        return PutBack(job.id, job.claim, f"internal error: {_name(error)}", counted=False, after=BROKEN)

    def _merged(self, task: Task[..., Any], queue: str, sealed: SealedOptions) -> Options:
        key = (task.name, queue, sealed)
        found = self._options.get(key)
        if found is None:
            call = Options(
                max_attempts=sealed.max_attempts,
                retry=sealed.retry,
                max_run_time=sealed.max_run_time,
                keep_result=sealed.keep_result,
            )
            found = call.over(self._home.options_of(task, queue))
            if len(self._options) > 10_000:
                self._options.clear()
            self._options[key] = found
        return found

    # ── 5: the call ───────────────────────────────────────────────────────────────────────────

    def _invoke(self, attempt: Attempt, given: dict[str, Any]) -> Any:
        signature = attempt.task.signature
        args, kwargs = signature.apply(attempt.values)
        returned = attempt.task.function(*args, **kwargs, **given)
        if returned is not None and not signature.is_async:
            _refuse_unrun(returned)
        return returned

    def _own(self, attempt: Attempt, stack: ExitStack) -> dict[str, Any]:
        """What a task that is not transactional is given: sessions commit when it returns."""
        given: dict[str, Any] = {}
        store = self._home.store
        for name, kind in attempt.task.signature.injected.items():
            match kind:
                case Injected.CONTEXT:
                    given[name] = attempt.context()
                case Injected.SESSION:
                    given[name] = session = stack.enter_context(store.own_session(self._home.session_factory))
                    stack.push(lambda kind, *_, s=session: s.commit() if kind is None else None)
                case Injected.CONNECTION:
                    given[name] = stack.enter_context(store.engine.begin())
        return given

    async def _aown(self, attempt: Attempt, stack: AsyncExitStack) -> dict[str, Any]:
        given: dict[str, Any] = {}
        store = self._home.store
        for name, kind in attempt.task.signature.injected.items():
            match kind:
                case Injected.CONTEXT:
                    given[name] = attempt.context()
                case Injected.ASYNC_SESSION:
                    session = store.own_async_session(self._home.async_session_factory)
                    given[name] = await stack.enter_async_context(session)
                    stack.push_async_exit(_commit_if_well(session))
                case Injected.ASYNC_CONNECTION if store.async_engine is not None:
                    given[name] = await stack.enter_async_context(store.async_engine.begin())
        return given

    def _call_in_transaction(self, attempt: Attempt) -> Report:
        transaction = self._home.store.task_transaction(
            attempt.worker, attempt.job, **self._limits(attempt), session=self._home.session_factory
        )
        ours = True
        try:
            _begin(attempt, transaction.start())
            given = _given(attempt, transaction)
            ours = False
            result = self._result(attempt, self._invoke(attempt, given))
            ours = True
            transaction.finish(attempt.started_at, result)
        except BaseException as error:  # noqa: BLE001 - a task may raise anything
            try:
                whole = transaction.abandon()
            except DatabaseError:
                whole = True  # the connection is gone, and the transaction with it
            return self._undone(attempt, error, whole=whole, ours=ours)
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
            async with asyncio.timeout(attempt.run_time):
                result = self._result(attempt, await self._invoke(attempt, given))
            ours = True
            await transaction.finish(attempt.started_at, result)
        except BaseException as error:  # noqa: BLE001 - as above
            try:
                whole = await transaction.abandon(discard=isinstance(error, asyncio.CancelledError))
            except DatabaseError:
                whole = True
            return self._undone(attempt, error, whole=whole, ours=ours)
        return Recorded(attempt.job.id, attempt.job.claim)

    def _limits(self, attempt: Attempt) -> dict[str, float]:
        return {"run_time": attempt.run_time, "lease": self._home.settings.lease}

    # ── 6: what became of it ──────────────────────────────────────────────────────────────────

    def _result(self, attempt: Attempt, returned: Any) -> bytes | None:
        if not attempt.options.keep_result:
            return None
        try:
            body = attempt.task.signature.result.dump(returned, self._home.limits)
        except InvalidArguments as error:
            raise ResultRefused(str(error)) from error
        return self._home.sealer.seal("result", attempt.job.binding, body)

    def _succeeded(self, attempt: Attempt, returned: Any) -> Report:
        job = attempt.job
        try:
            return Succeeded(job.id, job.claim, attempt.started_at, self._result(attempt, returned))
        except ResultRefused as error:
            # Its effects stand, so running it again would not help.
            return self._failed(attempt, error, "its result cannot be kept")

    def _undone(self, attempt: Attempt, error: BaseException, *, whole: bool, ours: bool) -> Report:
        """A transaction that did not commit, or whose COMMIT was not answered: the fence will tell.

        *ours*: it was in Duly's part of it, before or after the task's own code.
        """
        job = attempt.job
        if isinstance(error, TransactionEnded) or not whole:
            cause = "its transaction was ended from outside, so its writes may stand"
            trouble = self._trouble(attempt, error)
            return Ended(job.id, job.claim, Outcome.UNCERTAIN, cause, True, attempt.started_at, trouble)
        if isinstance(error, LeaseLost):
            if job.expires_at <= self._home.store.clock.now():
                cause = "expired while it ran; rolled back"
                return Ended(job.id, job.claim, Outcome.EXPIRED, cause, True, attempt.started_at)
            return Lost(job.id, job.claim)
        if ours and isinstance(error, DatabaseError):
            return PutBack(job.id, job.claim, str(error), counted=False, after=BUSY, unheard=True)
        return self._ended_by(attempt, error)

    def _ended_by(self, attempt: Attempt, error: BaseException) -> Report:
        """What the task said, or that it failed."""
        job = attempt.job
        match error:
            case TooLate():
                return Ended(
                    job.id, job.claim, Outcome.EXPIRED, "not started before expires_at", counted=False
                )
            case Cancel():
                cause = "cancelled by the task"
                return Ended(job.id, job.claim, Outcome.CANCELLED, cause, True, attempt.started_at)
            case Snooze():
                after = None if error.at else error.after or SNOOZE
                return PutBack(job.id, job.claim, SNOOZED, counted=False, after=after, at=error.at)
            case asyncio.CancelledError() if attempt.cancellation.is_set():
                return Released(job.id, job.claim)
            case ResultRefused():
                return self._failed(attempt, error, "its result cannot be kept; rolled back")
        return self._failed_once(attempt, error)

    def _failed_once(self, attempt: Attempt, error: BaseException) -> Report:
        """A failed attempt: another one follows, unless it was the last."""
        job = attempt.job
        if attempt.number >= (attempt.options.max_attempts or 1):
            return self._failed(attempt, error, f"{_name(error)} in attempt {attempt.number}, the last")
        after, at = self._wait(attempt, error)
        trouble = self._trouble(attempt, error)
        return PutBack(job.id, job.claim, _name(error), True, after, at, trouble, attempt.started_at)

    def _wait(self, attempt: Attempt, error: BaseException) -> tuple[timedelta | None, datetime | None]:
        if isinstance(error, Retry) and error.at is not None:
            return None, error.at
        if isinstance(error, Retry) and error.after is not None:
            return error.after, None
        return (attempt.options.retry or DEFAULTS.retry).delay(attempt.number), None  # type: ignore[union-attr]

    def _failed(self, attempt: Attempt, error: BaseException, cause: str) -> Ended:
        job = attempt.job
        trouble = self._trouble(attempt, error)
        return Ended(job.id, job.claim, Outcome.FAILED, cause, True, attempt.started_at, trouble)

    def _trouble(self, attempt: Attempt, error: BaseException) -> bytes:
        if self._on_error is not None:
            self._on_error(error)
        body = Trouble.of(error).dump()
        return self._home.sealer.seal("error", attempt.job.binding, body)


def _begin(attempt: Attempt, now: datetime) -> None:
    """The attempt starts now: the wait for a connection or the write lock may have lasted past its time."""
    if attempt.job.expires_at <= now:
        raise TooLate
    attempt.started_at = now


def _given(attempt: Attempt, transaction: Any) -> dict[str, Any]:
    return {
        name: _joined(kind, attempt, transaction) for name, kind in attempt.task.signature.injected.items()
    }


def _refuse_unrun(returned: Any) -> None:
    """A sync task that returns a coroutine or generator has done nothing yet: a decorator hid the async def."""
    if inspect.isawaitable(returned) or inspect.isgenerator(returned) or inspect.isasyncgen(returned):
        if inspect.iscoroutine(returned) or inspect.isgenerator(returned):
            returned.close()
        kind = type(returned).__name__
        raise TypeError(
            f"the task returned a {kind}, which nobody runs: declare it as async def, or use up the generator"
        )


def _joined(kind: Injected, attempt: Attempt, transaction: Any) -> Any:
    """What a transactional task is given: all of it in the one transaction."""
    match kind:
        case Injected.CONTEXT:
            return attempt.context()
        case Injected.SESSION | Injected.ASYNC_SESSION:
            return transaction.session()
        case _:
            return transaction.connection


def _commit_if_well(session: Any) -> Any:
    async def leave(kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            await session.commit()

    return leave


def _name(error: BaseException) -> str:
    """The exception's class: messages may hold secrets, and stay in the sealed error text."""
    return type(error).__qualname__[:100]
