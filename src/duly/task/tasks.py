"""Routers: what tasks are declared on, and how they reach an app."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack, cast, get_args, overload

from duly.errors import DeclarationError
from duly.model.faults import Faults
from duly.model.isolation import Isolation
from duly.model.names import check_name
from duly.model.options import Effects, Options, QueueOptions, UniqueOptions, hint
from duly.task.hints import declaring_frame, hints_of
from duly.task.job_class import Job, check_job_class
from duly.task.signature import Signature
from duly.task.task import AsyncTask, SyncTask, Task

if TYPE_CHECKING:
    from types import FrameType

P = ParamSpec("P")
R = TypeVar("R")
J = TypeVar("J", bound=Job)


class RouterOptions(QueueOptions, total=False):
    """What a router takes: defaults for the tasks declared on it."""

    queue: str


class TaskOptions(RouterOptions, UniqueOptions, total=False):
    """What ``@jobs.task(…)`` takes beside them."""

    name: str
    aliases: Sequence[str]
    effects: Effects
    retry_on: Sequence[type[Exception]]
    give_up_on: Sequence[type[Exception]]
    isolated: bool
    max_memory: int
    max_cpu: timedelta | float


_ROUTER_OPTIONS = (*QueueOptions.__annotations__, "queue")
_TASK_OPTIONS = tuple(TaskOptions.__annotations__)


class Tasks:
    """A router: tasks are declared on it, and an app includes it. For libraries and app factories.

    ``Tasks(queue="mail", max_attempts=3)`` gives options that hold for the tasks declared on this
    router, not for those of routers that it includes; the task's own option wins. Routers may be
    included before or after their tasks are declared, and in several apps: then the app that was
    last to include it takes the jobs.
    """

    def __init__(self, **options: Unpack[RouterOptions]) -> None:
        self.options = Options.read(
            dict(options), allowed=_ROUTER_OPTIONS, where=type(self).__name__, error=DeclarationError
        )
        """Defaults for the tasks declared here."""
        self._tasks: list[Task[..., Any]] = []
        self._by_name: dict[str, Task[..., Any]] = {}
        self._including: list[Tasks] = []

    # ── declaring ────────────────────────────────────────────────────────────────────────────────

    # A class and a coroutine function are callables too, so the overloads overlap: their order decides.
    @overload
    def task(self, declared: type[J], /) -> type[J]: ...  # type: ignore[overload-overlap] # pyright: ignore[reportOverlappingOverload]
    @overload
    def task(self, declared: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def task(self, declared: Callable[P, R], /) -> SyncTask[P, R]: ...
    @overload
    def task(self, /, **options: Unpack[TaskOptions]) -> Declaration: ...
    def task(self, declared: Any = None, /, **options: Unpack[TaskOptions]) -> Any:
        """Declare a function or a ``Job`` class as a task: ``@jobs.task`` or ``@jobs.task(queue="mail")``.

        The name is ``module.qualname`` unless ``name=`` says otherwise; that of a function defined
        inside another leaves out ``<locals>``. Raises ``DeclarationError`` for whatever is wrong, at
        import.
        """
        declaration = Declaration(self, options)
        return declaration if declared is None else declaration(declared)

    # ── joining ──────────────────────────────────────────────────────────────────────────────────

    def include(self, other: Tasks) -> None:
        """Take in the tasks of *other*, those declared already and those yet to come."""
        if not isinstance(other, Tasks):
            raise DeclarationError(f"include: {other!r} is no Tasks router")
        if other is self:
            raise DeclarationError("include: a router cannot include itself")
        for task in other:
            self._refuse(task)
        if self not in other._including:
            other._including.append(self)
        for task in other:
            self.admit(task)

    def admit(self, task: Task[..., Any]) -> None:
        """Take in one task here and in whatever includes this router; nothing where it is refused by any."""
        self._refuse(task)
        for router in self._outwards():
            router._take(task)  # noqa: SLF001 - a router too

    def joined(self, task: Task[..., Any]) -> None:
        """For subclasses: *task* was declared here or came in with a router. An app sets its client."""

    def check(self, task: Task[..., Any]) -> None:
        """For subclasses: raise ``DeclarationError`` for a task that they do not take."""

    def _take(self, task: Task[..., Any]) -> None:
        if self.find(task.name) is task:
            return
        self._tasks.append(task)
        self._by_name.update(dict.fromkeys((task.name, *task.aliases), task))
        self.joined(task)

    def _refuse(self, task: Task[..., Any]) -> None:
        for router in self._outwards():
            router.check(task)
            for name in (task.name, *task.aliases):
                other = router.find(name)
                if other is not None and other is not task:
                    raise DeclarationError(
                        f"two tasks are called {name!r}: the one declared at {other.where} and the one declared "
                        f"at {task.where}; give one of them another name="
                    )

    def _outwards(self) -> list[Tasks]:
        """The router itself and all that include it, directly or not; each once."""
        found: list[Tasks] = []
        left: list[Tasks] = [self]
        while left:
            router = left.pop()
            if router not in found:
                found.append(router)
                left += router._including  # noqa: SLF001 - a router too
        return found

    # ── looking ──────────────────────────────────────────────────────────────────────────────────

    @property
    def tasks(self) -> tuple[Task[..., Any], ...]:
        """All tasks, in the order in which they came."""
        return tuple(self._tasks)

    def find(self, name: str) -> Task[..., Any] | None:
        """The task with this name or alias; None where there is none."""
        return self._by_name.get(name)

    def __iter__(self) -> Iterator[Task[..., Any]]:
        return iter(self.tasks)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} with {len(self._tasks)} tasks>"


class Declaration:
    """``jobs.task(queue="mail")``: decorates any number of functions and job classes with these options."""

    def __init__(self, router: Tasks, options: TaskOptions) -> None:
        where = "task()"
        own = Options.read(dict(options), allowed=_TASK_OPTIONS, where=where, error=DeclarationError)
        self._router = router
        self._options = own.over(router.options)
        name = options.get("name")
        self._name = None if name is None else _checked("name", name)
        self._aliases = _checked_aliases(options.get("aliases", ()))
        self._effects: Effects | None = _checked_effects(options.get("effects"))
        self._isolation = _checked_isolation(options)
        self._faults = _checked_faults(options)

    # The order decides here as well.
    @overload
    def __call__(self, declared: type[J], /) -> type[J]: ...  # type: ignore[overload-overlap] # pyright: ignore[reportOverlappingOverload]
    @overload
    def __call__(self, declared: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, declared: Callable[P, R], /) -> SyncTask[P, R]: ...
    def __call__(self, declared: Any, /) -> Any:
        """Declare a function, which becomes a task, or a job class, which stays what it is."""
        if isinstance(declared, type) and issubclass(declared, Job):
            return self._declare_job_class(declared)
        _check_function(declared)
        return self._declare_function(declared)

    def _declare_function(self, function: Callable[..., Any]) -> Task[..., Any]:
        name = self._name or _name_of(function)
        hints = hints_of(function, name, declaring_frame())
        signature = Signature.of(function, hints, name)
        code = getattr(inspect.unwrap(function), "__code__", function.__code__)
        return self._admit(function, name, signature, f"{code.co_filename}:{code.co_firstlineno}")

    def _declare_job_class(self, job_class: type[J]) -> type[J]:
        check_job_class(job_class)
        name, perform, frame = self._name or _name_of(job_class), _perform_of(job_class), declaring_frame()
        signature = Signature.of_job(job_class, perform, hints_of(perform, name, frame), name)
        job_class.__duly_task__ = self._admit(perform, name, signature, _line(frame), job_class)
        return job_class

    def _admit(
        self,
        function: Callable[..., Any],
        name: str,
        signature: Signature,
        where: str,
        job_class: type[Job] | None = None,
    ) -> Task[..., Any]:
        if self._options.keep_result:
            _ = signature.result  # a result that will be kept must be one that can be: say so at import
        kind = AsyncTask if signature.is_async else SyncTask
        task: Task[..., Any] = kind(
            function,
            name=name,
            aliases=self._aliases,
            signature=signature,
            options=self._options,
            effects=self._effects,
            isolation=self._isolation,
            faults=self._faults,
            where=where,
            job_class=job_class,
        )
        self._router.admit(task)
        return task


def _check_function(declared: Any) -> None:
    """``DeclarationError`` unless *declared* is a function that can be found, and called without an owner."""
    if isinstance(declared, Task):
        raise DeclarationError(
            f"{declared.name} ({declared.where}) is a task already; include the router that it is declared on"
        )
    if not inspect.isfunction(declared):
        raise DeclarationError(
            f"{declared!r} cannot be a task: declare a function (def or async def) "
            "or a class derived from duly.Job"
        )
    if declared.__name__ == "<lambda>":
        raise DeclarationError("a lambda cannot be a task: it has no name and no type hints; write a def")
    owner, _, _ = declared.__qualname__.rpartition(".")
    first = next(iter(inspect.signature(declared).parameters), None)
    if owner and not owner.endswith("<locals>") and first in {"self", "cls"}:
        raise DeclarationError(
            f"{declared.__qualname__} is a method, and a worker has no {first} to call it on; "
            "declare a function that finds the object by its key, or a class derived from duly.Job"
        )


def _perform_of(job_class: type[Job]) -> Callable[..., Any]:
    return cast("Callable[..., Any]", job_class.perform)  # type: ignore[attr-defined] # check_job_class saw it


def _name_of(declared: Any) -> str:
    """``module.qualname``. What is defined inside a function (as in tests) is named without ``<locals>``."""
    qualname = declared.__qualname__.replace(".<locals>", "")
    try:
        return check_name("task", f"{declared.__module__}.{qualname}")
    except ValueError as fault:
        raise DeclarationError(f"{fault}; give it a name=") from None


def _checked(option: str, name: object) -> str:
    try:
        return check_name(f"{option}=", name)
    except (TypeError, ValueError) as fault:
        raise DeclarationError(f"task(): {fault}") from None


def _checked_aliases(aliases: object) -> tuple[str, ...]:
    if isinstance(aliases, str) or not isinstance(aliases, Sequence):
        raise DeclarationError(f"task(): aliases= must be a list of names, not {aliases!r}")
    return tuple(_checked("aliases", alias) for alias in aliases)


def _checked_effects(effects: object) -> Effects | None:
    known = get_args(Effects)
    if effects is not None and effects not in known:
        raise DeclarationError(f"task(): effects={effects!r} is unknown{hint(str(effects), known)}")
    return cast("Effects | None", effects)


def _checked_isolation(options: Mapping[str, Any]) -> Isolation | None:
    try:
        return Isolation.read(options)
    except (TypeError, ValueError) as fault:
        raise DeclarationError(f"task(): {fault}") from None


def _checked_faults(options: Mapping[str, Any]) -> Faults:
    try:
        return Faults.read(options)
    except (TypeError, ValueError) as fault:
        raise DeclarationError(f"task(): {fault}") from None


def _line(frame: FrameType | None) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "?"
