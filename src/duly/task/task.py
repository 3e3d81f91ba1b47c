"""A declared function or job class, and the verbs that make jobs of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack, cast

from duly.errors import DeclarationError
from duly.model.faults import Faults
from duly.model.options import NOTHING, Effects, Options
from duly.task.call import Call
from duly.task.using import Using, UsingOptions, read_call_options

if TYPE_CHECKING:
    from duly.model.isolation import Isolation
    from duly.task.client import Client
    from duly.task.handle import JobHandle
    from duly.task.job_class import Job
    from duly.task.signature import Signature

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)

_RUN_AS_SCRIPT = ("__main__.", "__mp_main__.")


class Task(Generic[P, R_co]):
    """A declared task. ``@jobs.task`` makes a ``SyncTask`` or an ``AsyncTask``, which can also be called.

    ``enqueue``, ``delay`` and ``call`` take the arguments of the function, without those that Duly
    gives, and check them: a wrong call is ``InvalidArguments``, before any SQL.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str,
        signature: Signature,
        options: Options,
        where: str,
        aliases: tuple[str, ...] = (),
        effects: Effects | None = None,
        isolation: Isolation | None = None,
        faults: Faults = Faults(),  # noqa: B008 - it never changes
        job_class: type[Job] | None = None,
    ) -> None:
        # Its name, docstring and signature are the function's; what the function carries in its
        # __dict__ is not taken over, since it could hide what a task is made of.
        functools.update_wrapper(cast("Callable[..., Any]", self), job_class or function, updated=())
        self.function = function
        """What a worker calls: the function, or ``perform`` of the job class, unbound."""
        self.name = name
        """The name in rows and logs."""
        self.aliases = aliases
        """Former names, under which jobs may still wait."""
        self.signature = signature
        """Which parameters callers give and which Duly gives."""
        self.options = options
        """What the decorator and its router said; app, queue and call say the rest."""
        self.effects = effects
        """What the task states of its effects; None where it states nothing."""
        self.isolation = isolation
        """The limits of the process that each of its jobs gets; None where jobs run in the worker's own."""
        self.faults = faults
        """What it says of the exceptions that it may raise."""
        self.job_class = job_class
        """The job class that it was made of; None for a function."""
        self.where = where
        """Where it is declared, as ``file:line``."""
        self.client: Client | None = None
        """The app's; set when the router that it is declared on is joined to an app."""
        self._named_by_script = name.startswith(_RUN_AS_SCRIPT)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    @property
    def transactional(self) -> bool:
        """Whether what it writes commits together with its outcome."""
        return self.effects == "transactional"

    @property
    def unrepeatable(self) -> bool:
        """Whether a job of it that was started must not be started again."""
        return self.effects == "unrepeatable"

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R_co]:
        """Enqueue a call in a transaction of its own and return the job's handle; it is committed then.

        Raises ``EnqueueError`` for what the caller did wrong (``InvalidArguments`` above all), and
        ``DatabaseError`` when the database did not take it.
        """
        return self.bind(args, kwargs).enqueue()

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R_co]:
        """The async twin of ``enqueue``."""
        return await self.bind(args, kwargs).aenqueue()

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R_co]:
        """The same as ``enqueue``: the word of delayed_job and Celery."""
        return self.bind(args, kwargs).enqueue()

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R_co]:
        """The async twin of ``delay``."""
        return await self.bind(args, kwargs).aenqueue()

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[R_co]:
        """The call, not enqueued; for ``enqueue_many``."""
        return self.bind(args, kwargs)

    def using(self, **options: Unpack[UsingOptions]) -> Using[P, R_co]:
        """The task with options for the calls made from it: ``task.using(priority=-10).enqueue(…)``.

        ``session=`` or ``connection=`` put the job into the caller's transaction. Raises
        ``InvalidOptions`` for an option that does not exist or is out of bounds.
        """
        checked, target = read_call_options(dict(options), self.name)
        return Using(self, checked, target)

    def bind(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: Options = NOTHING,
        target: Any = None,
    ) -> Call[R_co]:
        """The call with these arguments: what all verbs go through."""
        if self._named_by_script:
            self._refuse_script()
        return Call(self, self.signature.bind(args, kwargs), options, target)

    def reach(self) -> Client:
        """The client of the task's app; ``DeclarationError`` while it has none."""
        if self.client is None:
            raise DeclarationError(
                f"{self.name} ({self.where}) belongs to no app yet: put its router in Duly(include=[…]), "
                "or call jobs.load() on the app that includes its module"
            )
        return self.client

    def _refuse_script(self) -> None:
        """A worker imports modules; what it would find as ``__main__`` is itself."""
        raise DeclarationError(
            f"{self.name} ({self.where}) is declared in the program that was started, where no worker can "
            "find it by this name: give the task a name=, or move it to a module"
        )


class SyncTask(Task[P, R_co]):
    """A task made of a plain function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function, here and now, without Duly; pass what Duly would give."""
        return cast("R_co", self.function(*args, **kwargs))


class AsyncTask(Task[P, R_co]):
    """A task made of a coroutine function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """Call the function, here and now, without Duly; pass what Duly would give."""
        return cast("Coroutine[Any, Any, R_co]", self.function(*args, **kwargs))
