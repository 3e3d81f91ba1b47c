"""The job whose code runs here: known to what that code calls, though nobody hands it a ``Context``.

The executor sets it around the task's own code and nothing else. What asks pays: an attempt makes its
``Context`` when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Protocol

from duly.task.context import Context


class Running(Protocol):
    """An attempt, as much of it as is known here."""

    def context(self) -> Context:
        """What the task may ask of its job; the same object each time."""
        ...


_running: ContextVar[Running | None] = ContextVar("duly_running", default=None)


def current() -> Context | None:
    """The context of the job whose code calls this; None outside of jobs.

    Async code passes it on to its asyncio tasks and to ``asyncio.to_thread``. A thread that a task starts itself
    is outside.
    """
    running = _running.get()
    return None if running is None else running.context()


def run_as(running: Running, call: Callable[..., Any], *args: Any) -> Any:
    """Call a task's own code as that of an attempt."""
    token = _running.set(running)
    try:
        return call(*args)
    finally:
        _running.reset(token)


async def arun_as(running: Running, call: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """The same for an async task's.

    Not by a token: a coroutine that its loop left behind is closed in another context than it began in.
    """
    before = _running.get()
    _running.set(running)
    try:
        return await call(*args)
    finally:
        _running.set(before)
