"""What the attempts of a job write down for one another: durable steps, and what happens once.

A step, in this order:

1. Its name: none that this attempt has used, and not inside another step.
2. The type of its result, by the function's annotation: what could never be stored is refused before anything
   has happened.
3. Recorded already? Then that is its result, and the function is not called.
4. Else the function is called, and what it returned is recorded.
5. The result is what was recorded, read again: the same in the first attempt as in all that come after it.
"""

from __future__ import annotations

import functools
import inspect
import typing
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from duly.clock import Clock
from duly.envelope.codec import Limits
from duly.envelope.values import Value
from duly.errors import ContextError, DeclarationError, InvalidArguments, StepRefused
from duly.model.names import LONGEST_NAME


class Call(NamedTuple):
    """What a step does."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def __call__(self) -> Any:
        """Do it."""
        return self.function(*self.args, **self.kwargs)


_inside: ContextVar[Notebook | None] = ContextVar("duly_step", default=None)


class Notebook(ABC):
    """One attempt's, through which ``Context`` does what outlasts it."""

    task = "this task"
    """How messages name the task."""
    limits = Limits()
    """How large and deep a result may be."""

    def __init__(self) -> None:
        self._named: set[tuple[int, str]] = set()

    # ── what an attempt has ───────────────────────────────────────────────────────────────────

    @abstractmethod
    def now(self) -> datetime:
        """The database's time."""

    @abstractmethod
    def once(self, key: str, keep: timedelta | None) -> bool:
        """Whether nobody has asked for this key, in the task's transaction."""

    @abstractmethod
    async def aonce(self, key: str, keep: timedelta | None) -> bool:
        """The same in an async task's."""

    @abstractmethod
    def find(self, name: str) -> bytes | None:
        """The recorded result of a step; None where there is none. Raises where none could be recorded."""

    @abstractmethod
    def record(self, name: str, body: bytes) -> bytes:
        """Record the result of a step; what stands then."""

    @abstractmethod
    async def afind(self, name: str) -> bytes | None:
        """As ``find``, off the loop."""

    @abstractmethod
    async def arecord(self, name: str, body: bytes) -> bytes:
        """As ``record``, off the loop, and not to be cancelled: the step has been done."""

    # ── the walk of a step ────────────────────────────────────────────────────────────────────

    def step(self, attempt: int, name: str, call: Call) -> Any:
        """The result of a sync function: recorded, or called for and recorded now."""
        if inspect.iscoroutinefunction(_bare(call.function)):
            raise ContextError(f"{self._step(name)} has an async function: {_AWAIT}")
        with self._begun(attempt, name):
            kind = self._stored_as(name, call.function)
            body = self.find(name)
            if body is None:
                with self._in_step():
                    returned = call()
                if inspect.isawaitable(returned):
                    if inspect.iscoroutine(returned):
                        returned.close()
                    raise ContextError(f"{self._step(name)}: its function returned an awaitable: {_AWAIT}")
                body = self.record(name, self._written(name, kind, returned))
            return kind.load(body)

    async def astep(self, attempt: int, name: str, call: Call) -> Any:
        """The same of a function that may be async."""
        with self._begun(attempt, name):
            kind = self._stored_as(name, call.function)
            body = await self.afind(name)
            if body is None:
                with self._in_step():
                    returned = call()
                    if inspect.isawaitable(returned):
                        returned = await returned
                body = await self.arecord(name, self._written(name, kind, returned))
            return kind.load(body)

    @contextmanager
    def _begun(self, attempt: int, name: str) -> Iterator[None]:
        """The name is taken; given back when the step came to nothing, so that the task may try it again."""
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
            raise ContextError(
                f"the name of a step is text of 1 to {LONGEST_NAME} printable characters, not {str(name)[:80]!r}"
            )
        if _inside.get() is self:
            raise ContextError(
                f"{self._step(name)} stands inside another step: a step is done or not, and has no parts; "
                "call them one after the other, or call the function itself"
            )
        if (attempt, name) in self._named:
            raise ContextError(
                f"{self._step(name)} was there already in this attempt: give each step a name of its own, in a loop "
                'for instance f"charge {order_id}"'
            )
        self._named.add((attempt, name))
        try:
            yield
        except BaseException:
            self._named.discard((attempt, name))
            raise

    @contextmanager
    def _in_step(self) -> Iterator[None]:
        before = _inside.get()
        _inside.set(self)
        try:
            yield
        finally:
            _inside.set(before)

    def _stored_as(self, name: str, function: Callable[..., Any]) -> Value:
        """How the result is stored; ``DeclarationError`` where it cannot be."""
        try:
            hint = _returned_by(function)
            return _kind_of(hint) if isinstance(hint, Hashable) else Value(_STEP, hint)
        except DeclarationError as error:
            said = str(error).removeprefix(_STEP)
        raise DeclarationError(f"{self._step(name)}{said}")

    def _written(self, name: str, kind: Value, returned: Any) -> bytes:
        try:
            return kind.dump(returned, self.limits)
        except InvalidArguments as error:
            said = str(error).removeprefix(_STEP)
        raise StepRefused(f"{self._step(name)}{said}")

    def _step(self, name: object) -> str:
        return f"step {str(name)[:80]!r} of {self.task}"


class OwnNotebook(Notebook):
    """Of a ``Context`` that was made by hand, in a test: it remembers what was done with it, and with its copies."""

    def __init__(self) -> None:
        super().__init__()
        self._done: dict[str, bytes] = {}
        self._asked: set[str] = set()

    def now(self) -> datetime:
        """The machine's time."""
        return Clock().wall()

    def once(self, key: str, keep: timedelta | None) -> bool:  # noqa: ARG002 - tests are over by then
        """True the first time."""
        fresh = key not in self._asked
        self._asked.add(key)
        return fresh

    async def aonce(self, key: str, keep: timedelta | None) -> bool:
        """True the first time."""
        return self.once(key, keep)

    def find(self, name: str) -> bytes | None:
        """What ``record`` was told."""
        return self._done.get(name)

    def record(self, name: str, body: bytes) -> bytes:
        """Remember it."""
        return self._done.setdefault(name, body)

    async def afind(self, name: str) -> bytes | None:
        """As ``find``."""
        return self.find(name)

    async def arecord(self, name: str, body: bytes) -> bytes:
        """As ``record``."""
        return self.record(name, body)


_STEP = "step"
_AWAIT = "await ctx.astep(…), in an async task"
_ABSENT: Any = inspect.Parameter.empty
_AWAITABLE = (Awaitable, Coroutine)


@functools.lru_cache(256)
def _kind_of(hint: Any) -> Value:
    return Value(_STEP, hint)


def _returned_by(function: Callable[..., Any]) -> Any:
    """The annotation of what *function* returns, or of what awaiting it gives."""
    function = _bare(function)
    if isinstance(function, type):
        return function
    try:
        written = getattr(function, "__annotations__", {}).get("return", _ABSENT)
        if isinstance(written, str):
            names = getattr(inspect.unwrap(function), "__globals__", {})
            written = typing.get_type_hints(_holder(written), names, include_extras=True)["return"]
    except Exception as fault:
        raise DeclarationError(
            f"{_STEP}: the type that its function returns cannot be read ({fault}), and its result is stored by it: "
            "the names in it must be there at run time, outside of `if TYPE_CHECKING:`"
        ) from fault
    return typing.get_args(written)[-1] if typing.get_origin(written) in _AWAITABLE else written


def _holder(hint: str) -> Callable[[], None]:
    """Something to read this one hint from: those of the function's parameters need not be there."""

    def holder() -> None: ...

    holder.__annotations__ = {"return": hint}
    return holder


def _bare(function: Any) -> Any:
    """The function within ``functools.partial`` and bound methods."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__func__", function)
