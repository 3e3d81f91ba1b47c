"""A task with options for the calls made from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack

from duly.errors import InvalidOptions
from duly.model.options import CallOptions, Options
from duly.task.call import Call

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session

    from duly.task.handle import JobHandle
    from duly.task.task import Task

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class UsingOptions(CallOptions, total=False):
    """What ``using()`` takes: the options of a call, and whose transaction the job joins (one of the two)."""

    session: Session | AsyncSession
    connection: Connection | AsyncConnection


_ALLOWED = tuple(UsingOptions.__annotations__)


class Using(Generic[P, R_co]):
    """A task with call-level options: has the same verbs as the task. Made by ``task.using(…)``."""

    __slots__ = ("_options", "_preset", "_target", "_task")

    def __init__(
        self,
        task: Task[..., R_co],
        options: Options,
        target: Any = None,
        preset: tuple[Any, ...] = (),
    ) -> None:
        self._task = task
        self._options = options
        self._target = target
        self._preset = preset  # the instance, for a job class; its verbs take no arguments

    def __repr__(self) -> str:
        return f"<{self._task.name} using {self._options}>"

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R_co]:
        """Enqueue a call with these options; see ``Task.enqueue``."""
        return self.call(*args, **kwargs).enqueue()

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R_co]:
        """The async twin of ``enqueue``."""
        return await self.call(*args, **kwargs).aenqueue()

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R_co]:
        """The same as ``enqueue``: the word of delayed_job and Celery."""
        return self.call(*args, **kwargs).enqueue()

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R_co]:
        """The async twin of ``delay``."""
        return await self.call(*args, **kwargs).aenqueue()

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[R_co]:
        """The call with these options, not enqueued."""
        return self._task.bind((*self._preset, *args), kwargs, self._options, self._target)

    def using(self, **options: Unpack[UsingOptions]) -> Using[P, R_co]:
        """The same with more options; where both say something, these win."""
        nearer, target = read_call_options(dict(options), self._task.name)
        if target is None:
            target = self._target
        return Using(self._task, nearer.over(self._options), target, self._preset)


def read_call_options(options: dict[str, Any], task: str) -> tuple[Options, Any]:
    """Check the options of a call to *task*, and split off its session or connection, if there is one."""
    where = f"using() of {task}"
    checked = Options.read(options, allowed=_ALLOWED, where=where, error=InvalidOptions)
    session, connection = options.get("session"), options.get("connection")
    if session is not None and connection is not None:
        raise InvalidOptions(f"{where}: give session= or connection=, not both")
    return checked, connection if session is None else session
