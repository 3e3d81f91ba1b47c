"""Job classes: delayed_job's custom job, as a typed model whose fields are the arguments."""

from __future__ import annotations

import inspect
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, Unpack, cast, overload

from pydantic import BaseModel, ConfigDict, ValidationError

from duly.errors import DeclarationError, InvalidArguments
from duly.task.using import Using, UsingOptions, read_call_options

if TYPE_CHECKING:
    from duly.task.call import Call
    from duly.task.handle import JobHandle
    from duly.task.task import Task

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

VERBS = ("enqueue", "aenqueue", "delay", "adelay", "call", "using")
HOOKS = ("before_enqueue", "before", "success", "error", "failure", "after")


class Performs(Protocol[R_co]):
    """A job class with a ``perform`` that returns *R*; this is where the verbs' handles get their type."""

    def perform(self, *args: Any, **kwargs: Any) -> R_co:
        """Do the job."""
        ...


class InvalidFields(InvalidArguments, ValueError):
    """The fields of a job do not fit. A ``ValueError`` too, for jobs with an ``__init__`` of their own.

    pydantic calls such an ``__init__`` when it loads the job in a worker, and takes a ``ValueError``
    for a misfit like any other.
    """


class Job(BaseModel):
    """Base of job classes: the fields are the arguments, ``perform`` does it. ``@jobs.task`` declares one.

    ``perform(self)`` may be sync or async and may ask, keyword-only, for what Duly gives. Wrong
    fields are ``InvalidArguments`` when the job is made; a field that does not exist is one of them.
    """

    # A misspelt field must not be dropped in silence; and errors end up in logs, where values do not belong.
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    __duly_task__: ClassVar[Task[..., Any]]

    if not TYPE_CHECKING:  # type checkers make __init__ of the fields (dataclass_transform)

        def __init__(self, /, **fields: Any) -> None:
            try:
                super().__init__(**fields)
            except ValidationError as fault:
                raise InvalidFields(_told(type(self), fault)) from fault

        # pydantic's own mark for an __init__ that adds nothing to validation. With it a worker that
        # loads a job is told by ValidationError, as for every other type.
        __init__.__pydantic_base_init__ = True

    def __init_subclass__(cls, **config: Any) -> None:
        super().__init_subclass__(**config)
        # The names alone: to evaluate hints here would be too early.
        _refuse_shadowing(cls, cls.__dict__.get("__annotations__", {}))  # noqa: RUF063

    @classmethod
    def __pydantic_init_subclass__(cls, **config: Any) -> None:
        """The same once more with the fields that pydantic found (annotations may be lazy)."""
        super().__pydantic_init_subclass__(**config)
        _refuse_shadowing(cls, cls.__pydantic_fields__)

    @overload
    def enqueue(self: Performs[Coroutine[Any, Any, R]]) -> JobHandle[R]: ...
    @overload
    def enqueue(self: Performs[R]) -> JobHandle[R]: ...
    def enqueue(self) -> JobHandle[Any]:
        """Enqueue this job in a transaction of its own; see ``Task.enqueue``."""
        return task_of(self).bind((self,), {}).enqueue()

    @overload
    async def aenqueue(self: Performs[Coroutine[Any, Any, R]]) -> JobHandle[R]: ...
    @overload
    async def aenqueue(self: Performs[R]) -> JobHandle[R]: ...
    async def aenqueue(self) -> JobHandle[Any]:
        """The async twin of ``enqueue``."""
        return await task_of(self).bind((self,), {}).aenqueue()

    @overload
    def delay(self: Performs[Coroutine[Any, Any, R]]) -> JobHandle[R]: ...
    @overload
    def delay(self: Performs[R]) -> JobHandle[R]: ...
    def delay(self) -> JobHandle[Any]:
        """The same as ``enqueue``: the word of delayed_job and Celery."""
        return task_of(self).bind((self,), {}).enqueue()

    @overload
    async def adelay(self: Performs[Coroutine[Any, Any, R]]) -> JobHandle[R]: ...
    @overload
    async def adelay(self: Performs[R]) -> JobHandle[R]: ...
    async def adelay(self) -> JobHandle[Any]:
        """The async twin of ``delay``."""
        return await task_of(self).bind((self,), {}).aenqueue()

    @overload
    def call(self: Performs[Coroutine[Any, Any, R]]) -> Call[R]: ...
    @overload
    def call(self: Performs[R]) -> Call[R]: ...
    def call(self) -> Call[Any]:
        """The call, not enqueued; for ``enqueue_many``."""
        return task_of(self).bind((self,), {})

    @overload
    def using(self: Performs[Coroutine[Any, Any, R]], **options: Unpack[UsingOptions]) -> Using[[], R]: ...
    @overload
    def using(self: Performs[R], **options: Unpack[UsingOptions]) -> Using[[], R]: ...
    def using(self, **options: Unpack[UsingOptions]) -> Using[[], Any]:
        """The job with options for its call; see ``Task.using``."""
        task = task_of(self)
        checked, target = read_call_options(dict(options), task.name)
        return Using(task, checked, target, preset=(self,))


def task_of(job: object) -> Task[..., Any]:
    """The task that the class of *job* is; a subclass of a task is one only if it is decorated itself."""
    task = vars(type(job)).get("__duly_task__")
    if task is None:
        raise DeclarationError(f"{type(job).__qualname__} is no task yet: decorate the class with @jobs.task")
    return cast("Task[..., Any]", task)


def check_job_class(job_class: type[Job]) -> None:
    """``DeclarationError`` unless *job_class* can be a task: it has ``perform``, and no hooks yet."""
    name = job_class.__qualname__
    if not inspect.isfunction(getattr(job_class, "perform", None)):
        raise DeclarationError(f"{name} has no method perform(self), which does the job")
    for hook in HOOKS:
        if callable(getattr(job_class, hook, None)):
            raise DeclarationError(
                f"{name} defines {hook}(): hooks come with a later release; until then do this in perform(), "
                "and call the method something else"
            )
    if not job_class.__pydantic_complete__ and job_class.model_rebuild(raise_errors=False) is not True:
        raise DeclarationError(
            f"{name}: a type hint of its fields is not there at run time; import it outside of "
            "`if TYPE_CHECKING:`, and define it above the class"
        )


def _refuse_shadowing(job_class: type[Job], fields: Any) -> None:
    for verb in VERBS:
        if verb in fields or inspect.getattr_static(job_class, verb) is not vars(Job)[verb]:
            raise DeclarationError(
                f"{job_class.__qualname__} defines {verb!r}, which is a verb of every job; "
                "call it something else"
            )


def _told(job_class: type[Job], fault: ValidationError) -> str:
    """Which fields are wrong and why, without the values, which may be secret."""
    faults = fault.errors(include_url=False, include_context=False, include_input=False)
    told = (f"{'.'.join(map(str, f['loc'])) or 'the job'}: {f['msg']}" for f in faults)
    return f"{job_class.__qualname__}: {'; '.join(told)}"
