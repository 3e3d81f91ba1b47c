"""Stopping what runs: an exception raised in a thread from outside, and only in the task's own code.

``PyThreadState_SetAsyncExc`` leaves an exception with a thread, which raises it between two bytecodes of
its own choice: later, and wherever it is by then. So it is only ever left inside a *region*:

1. The runner opens the region within a ``try`` that holds the task's call and the closing.
2. Whoever is first to enter its name in ``_end`` decides: the runner closes the region, and nothing can be
   left any more; or another thread interrupts it, once.
3. A runner that finds itself interrupted waits until the exception *was* left, then takes it back. If it was
   raised by then, then inside that ``try``: in the task; or in the closing, which is simply done again, since
   there was only one.

No lock is held at any of these steps: one that an exception left locked would never be opened again.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import Callable
from typing import Any

from duly.errors import TimeLimit

_leave_exception = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.py_object)(
    (
        "PyThreadState_SetAsyncExc",
        ctypes.pythonapi,
    )  # a prototype of our own: others may have given it another
)
_NOTHING: Any = object()
_CLOSED = "closed"
_SOON = 0.0002
_forks = 0


def _count_fork() -> None:
    global _forks  # noqa: PLW0603 - of this process
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


class _TakenBack(BaseException):
    """Raised in our own code, and caught there."""


class Region:
    """The time in which a task's own code runs. One for each attempt."""

    open = False
    """Whether the task's own code runs."""
    told: float | None = None
    """When it was told to stop; kept by who tells."""
    _left = False

    def __init__(self, run_time: float, thread: int = 0) -> None:
        self.began = time.monotonic()
        self.due = self.began + run_time
        """When its time is up."""
        self._thread = thread
        self._end: dict[str, object] = {}

    # ── in the thread, or on the loop ─────────────────────────────────────────────────────────

    def run(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call a sync function: what it returns or raises, or the exception that was raised in it from outside."""
        forks = _forks
        result = failure = _NOTHING
        try:
            try:
                self.open = True  # no sooner: between two ``try`` there is a bytecode that belongs to neither
                result = function(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - raised again below
                failure = error
            if self._end.setdefault("by", _CLOSED) is not _CLOSED:
                self._close(forks)
        except BaseException as late:  # noqa: BLE001 - raised again below, unless the task was over
            self._close(forks)
            if result is _NOTHING and failure is _NOTHING:
                failure = late
        self.open = False
        if forks != _forks:
            _leave_fork(failure)
        if failure is _NOTHING:
            return result
        try:
            raise failure
        finally:
            del failure  # it holds this frame, and this frame it

    async def arun(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Await an async function: ``TimeLimit`` when our time was up, not when one of the task's own was."""
        forks = _forks
        failure: BaseException | None = None
        try:
            self.open = True
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + self.due - self.began):
                try:
                    return await function(*args, **kwargs)
                except BaseException as error:
                    failure = error
                    raise
        except TimeoutError as error:
            if error is failure:
                raise
            raise TimeLimit from error
        finally:
            self.open = False
            if forks != _forks:
                _leave_fork(failure or _NOTHING)
            del failure

    def _close(self, forks: int) -> None:
        """From here on nothing is left with this thread; what was left and not raised is taken back."""
        if self._end.setdefault("by", _CLOSED) is not _CLOSED:
            while not self._left and forks == _forks:  # in a fork there is nobody to wait for
                time.sleep(_SOON)
            self._take_back()

    def _take_back(self) -> None:
        """Put another exception in the place of the one that was left, and wait for it: it is raised at once.

        To leave none instead (NULL) would take it back as well; but up to 3.12 the interpreter would then look
        for an exception at every call and loop, for good, and under a tracer never get on.
        """
        try:
            _leave_exception(self._thread, _TakenBack)
            while True:
                pass
        except _TakenBack:
            return

    # ── from another thread ───────────────────────────────────────────────────────────────────

    @property
    def on_thread(self) -> bool:
        """Whether it runs on a thread, and not on a loop."""
        return self._thread != 0

    @property
    def interruptible(self) -> bool:
        """Whether an exception can be raised in it: it runs on a thread, and none was before."""
        return self.on_thread and not self._end

    def interrupt(self, error: type[BaseException]) -> bool:
        """Raise *error* in the task, once; False where it has not begun, is over, or was interrupted before."""
        me = object()
        if not self._thread or not self.open or self._end.setdefault("by", me) is not me:
            return False
        try:
            _leave_exception(self._thread, error)
        finally:
            self._left = True
        return True


def _leave_fork(failure: Any) -> None:
    """A task has forked, and this is the child coming out of it: the attempt is its parent's to report.

    Here it would commit on the parent's connection, and wait for jobs that nobody brings.
    """
    code = failure.code if isinstance(failure, SystemExit) else failure is not _NOTHING
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)
