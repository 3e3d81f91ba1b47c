"""The object that names a job in Python: ask it how the job stands, wait for it, take its result."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, Self, TypeVar, cast

from duly.clock import Clock
from duly.errors import (
    EnvelopeError,
    JobDidNotSucceed,
    JobNotEnded,
    JobNotFound,
    JoinTimeout,
    ResultNotKept,
)
from duly.model.job import JobStatus
from duly.model.states import Outcome, State

if TYPE_CHECKING:
    from uuid import UUID

P = ParamSpec("P")
T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)

_SHORTEST_WAIT, _LONGEST_WAIT, _GROWTH = 0.005, 0.25, 1.5


class Trouble(Protocol):
    """What went wrong in an attempt."""

    @property
    def type(self) -> str:
        """The exception's class."""
        ...

    @property
    def message(self) -> str:
        """Its message."""
        ...


class Desk(Protocol):
    """Where a handle asks. The app has one; its verbs are sync, and ``run`` takes them off the event loop."""

    def look(self, job: UUID, /) -> JobStatus | None:
        """The job as it stands, None when there is none."""
        ...

    def cancel(self, job: UUID, /) -> bool:
        """Cancel the job, or ask its worker to stop it; False when it has ended, or there is none."""
        ...

    def result_of(self, status: JobStatus, /) -> Any:
        """The opened result of a job that succeeded."""
        ...

    def trouble_of(self, status: JobStatus, /) -> Trouble | None:
        """What went wrong last, None when nothing did."""
        ...

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a sync verb from async code."""
        ...


class JobHandle(Generic[R_co]):
    """Names one job. Two handles of the same job are equal.

    ``state``, ``outcome``, ``attempts`` and ``error`` are as of the last look, which is taken when
    there was none; ``refresh()`` looks again. Each verb that asks the database has an async twin,
    and raises ``DatabaseError`` when it does not answer.
    """

    __slots__ = ("_asleep", "_clock", "_desk", "_sleep", "_snapshot", "id")

    def __init__(
        self,
        id: UUID,  # noqa: A002 - it is called so everywhere
        desk: Desk,
        snapshot: JobStatus | None = None,
        *,
        clock: Clock | None = None,
        sleep: Callable[[float], None] = time.sleep,
        asleep: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        self.id = id
        """The job's id."""
        self._desk = desk
        self._snapshot = snapshot
        self._clock = clock or Clock()
        self._sleep = sleep
        self._asleep = asleep or _sleep_on_loop

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JobHandle) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        known = self._snapshot and (self._snapshot.outcome or self._snapshot.state)
        return f"<JobHandle {self.id} {known or 'not looked at'}>"

    # ── as of the last look ──────────────────────────────────────────────────────────────────────

    @property
    def state(self) -> State | None:
        """Where the job stands; None once it has an outcome."""
        return self._known().state

    @property
    def outcome(self) -> Outcome | None:
        """How the job ended; None until then."""
        return self._known().outcome

    @property
    def attempts(self) -> int:
        """How many attempts were started and have ended."""
        return self._known().attempts

    @property
    def error(self) -> str | None:
        """What went wrong in the last attempt, as ``Type: message``; None when nothing did."""
        return _told(self._desk.trouble_of(self._known()))

    # ── verbs ────────────────────────────────────────────────────────────────────────────────────

    def refresh(self) -> Self:
        """Look at the job again. Raises ``JobNotFound``: not committed yet, rolled back, or pruned."""
        return self._learn(self._desk.look(self.id))

    async def arefresh(self) -> Self:
        """The async twin of ``refresh``."""
        return self._learn(await self._desk.run(self._desk.look, self.id))

    def cancel(self) -> bool:
        """Cancel the job: at once if it waits; if it runs, its worker is asked to stop it.

        True in both cases: ``outcome`` and ``state``, looked at anew, tell them apart. A running job
        stays so until its task has noticed, and may still succeed. False when it has ended already, or
        cannot be found.
        """
        cancelled = self._desk.cancel(self.id)
        self._snapshot = self._desk.look(self.id) or self._snapshot
        return cancelled

    async def acancel(self) -> bool:
        """The async twin of ``cancel``."""
        return await self._desk.run(self.cancel)

    def join(self, timeout: float | None = None) -> Outcome:
        """Wait until the job has ended, at most *timeout* seconds (None: for ever); return how.

        Raises ``JoinTimeout``, and ``JobNotFound`` as ``refresh`` does.
        """
        waits = self._waits(timeout)
        while (outcome := self._ended() or self.refresh()._ended()) is None:  # noqa: SLF001 - self
            self._sleep(next(waits))
        return outcome

    async def ajoin(self, timeout: float | None = None) -> Outcome:  # noqa: ASYNC109 - the twin of join()
        """The async twin of ``join``."""
        waits = self._waits(timeout)
        while (outcome := self._ended() or (await self.arefresh())._ended()) is None:  # noqa: SLF001 - self
            await self._asleep(next(waits))
        return outcome

    def result(self, timeout: float | None = 0) -> R_co:
        """What the task returned. Waits at most *timeout* seconds for the end: by default not at all.

        Raises ``JobNotEnded`` (``JoinTimeout`` after a wait), ``JobDidNotSucceed`` when it ended with
        another outcome, ``ResultNotKept`` where ``keep_result=True`` was not said, and ``JobNotFound``.
        """
        if timeout != 0:
            self.join(timeout)
        elif not self._ended():
            self.refresh()
        return self._opened_result()

    async def aresult(self, timeout: float | None = 0) -> R_co:  # noqa: ASYNC109 - the twin of result()
        """The async twin of ``result``."""
        if timeout != 0:
            await self.ajoin(timeout)
        elif not self._ended():
            await self.arefresh()
        return self._opened_result()

    # ── how ──────────────────────────────────────────────────────────────────────────────────────

    def _known(self) -> JobStatus:
        if self._snapshot is None:
            self.refresh()
        return cast("JobStatus", self._snapshot)

    def _learn(self, status: JobStatus | None) -> Self:
        if status is None:
            raise JobNotFound(
                f"no job {self.id}: its transaction has not committed or was rolled back, or it was pruned"
            )
        self._snapshot = status
        return self

    def _ended(self) -> Outcome | None:
        """The outcome, if the last look saw one; what has ended never changes."""
        return self._snapshot.outcome if self._snapshot else None

    def _waits(self, timeout: float | None) -> Iterator[float]:
        """The waits between looks, growing; ``JoinTimeout`` when the time is up."""
        end = float("inf") if timeout is None else self._clock.monotonic() + timeout
        wait = _SHORTEST_WAIT
        while (left := end - self._clock.monotonic()) > 0:
            yield min(wait, left)
            wait = min(wait * _GROWTH, _LONGEST_WAIT)
        raise JoinTimeout(f"job {self.id} has not ended within {timeout} s (it is {self._known().state})")

    def _opened_result(self) -> R_co:
        status = self._known()
        if status.outcome is None:
            raise JobNotEnded(f"job {self.id} has not ended (it is {status.state}); join() waits for it")
        if status.outcome is not Outcome.SUCCEEDED:
            raise JobDidNotSucceed(f"job {self.id} ended {status.outcome}{self._reason(status)}")
        if status.result is None:
            raise ResultNotKept(f"job {self.id} succeeded, but its result was not kept: say keep_result=True")
        return cast("R_co", self._desk.result_of(status))

    def _reason(self, status: JobStatus) -> str:
        """The tail of a message about a job that did not succeed."""
        try:
            trouble = _told(self._desk.trouble_of(status))
        except EnvelopeError:  # it did not succeed, whether or not what went wrong can be read here
            trouble = None
        reasons = [reason for reason in (status.cause, trouble) if reason]
        return f" ({'; '.join(reasons)})" if reasons else ""


def _told(trouble: Trouble | None) -> str | None:
    if trouble is None:
        return None
    return f"{trouble.type}: {trouble.message}" if trouble.message else trouble.type


async def _sleep_on_loop(seconds: float) -> None:
    # Who awaits has asyncio loaded already; who only declares and enqueues is spared its 45 ms.
    import asyncio

    await asyncio.sleep(seconds)
