"""A cell: the process of one isolated job, which it runs as a worker would, and reports to its worker.

1. Hear the order: the job, the worker whose claim it is, and the database's time.
2. Open, find and fit, as everywhere. The database connection is the cell's own.
3. Say that the task begins, set the limits, call it, lift the limits, say that it has returned.
4. Report, and leave without ceremony.

A thread listens for the worker meanwhile: a wish to stop is passed on; when the line is cut, the cell
kills itself and all that it has started.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from duly.model.events import Emitter
from duly.model.report import Report
from duly.task.context import Stop
from duly.worker.alarm import Alarm
from duly.worker.attempt import Attempt
from duly.worker.executor import Executor
from duly.worker.signals import leave_it
from duly.worker.ticket import Ticket
from duly.worker.title import set_title
from duly.worker.watch import Watch
from duly.worker.wire import Began, Garbled, Order, Returned, StopAsked, Wire
from duly.worker.writeturn import WriteTurn

if TYPE_CHECKING:
    from duly.model.isolation import Isolation
    from duly.worker.home import Home

KNOCK = signal.SIGURG
"""Ignored where there is no handler, as in the programs that a task starts; and hardly anybody has one."""

_DATA = 5
"""Where /proc/self/statm tells, in pages, what RLIMIT_DATA limits."""


def be_cell(home: Home, end: socket.socket) -> NoReturn:
    """Right after the fork: run the job that is ordered through *end*, and never return."""
    try:
        Cell(home, Wire(end)).live()
    except BaseException:
        logging.getLogger("duly").exception("the process of an isolated job failed")
        flush()
    finally:
        os._exit(1)


def flush() -> None:
    """Write what was said and is not written yet."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


class Cell:
    """One job's."""

    def __init__(self, home: Home, wire: Wire) -> None:
        self._home = home
        self._wire = wire
        self._executor = CellExecutor(home, wire)
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Task[Report]] | None = None

    def live(self) -> None:
        """From the order to the report."""
        order = self._ordered()
        if order is None:
            return
        set_title(f"job {order.job.id} {order.job.task}")
        self._home.store.clock.learn(order.now)
        task = self._home.find(order.job.task)
        is_async = task is not None and task.signature.is_async
        ticket = Ticket(order.job, order.worker, time.monotonic(), asynchronous=is_async)
        threading.Thread(target=self._listen, args=(ticket,), name="duly-cell", daemon=True).start()
        CellWatch(ticket, self._executor.alarm).start()
        if is_async:
            asyncio.run(self._arun(ticket))
        else:
            self._run(ticket)

    def _ordered(self) -> Order | None:
        while (messages := self._wire.hear()) is not None:
            for message in messages:
                if isinstance(message, Order):
                    return message
        return None

    def _run(self, ticket: Ticket) -> NoReturn:
        try:
            report = self._executor.run(ticket)
        except BaseException as error:  # noqa: BLE001 - a task may leave anything behind
            report = self._executor.failed(ticket, error)
        self._leave(report)

    async def _arun(self, ticket: Ticket) -> NoReturn:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - we are in it
        self._running = asyncio.get_running_loop(), task
        try:
            report = await self._executor.arun(ticket)
        except BaseException as error:  # noqa: BLE001 - as above
            report = self._executor.failed(ticket, error)
        self._leave(report)

    def _leave(self, report: Report) -> NoReturn:
        """The report comes last: who has it needs us no more, and has us killed.

        Not sys.exit, nor the end of the loop: threads and tasks that were left, and the parent's exit
        handlers, must not keep us.
        """
        flush()
        with suppress(Exception):  # a courtesy to the database
            self._home.store.disconnect()
        self._wire.say(report)
        os._exit(0)

    # ── the other thread ──────────────────────────────────────────────────────────────────────

    def _listen(self, ticket: Ticket) -> None:
        with suppress(Garbled):
            while (messages := self._wire.hear()) is not None:
                for message in messages:
                    if isinstance(message, StopAsked):
                        self._stop(ticket, message.reason)
        os.killpg(0, signal.SIGKILL)

    def _stop(self, ticket: Ticket, reason: Stop) -> None:
        if ticket.cancellation.is_set():
            return
        ticket.cancellation.set(reason)
        self._executor.alarm.ring()
        running = self._running
        if running is not None:
            loop, task = running
            with suppress(RuntimeError):  # closed: it was over
                loop.call_soon_threadsafe(task.cancel)


class CellWatch(Watch):
    """The watch over one job, whose task runs in the main thread: there a signal ends the wait for whatever it be."""

    def __init__(self, ticket: Ticket, alarm: Alarm) -> None:
        # What it would say of others who could not run is no news here.
        super().__init__(lambda: (ticket,), alarm, Emitter(), on_deaf=bool)
        signal.signal(KNOCK, leave_it)

    def look(self, now: float) -> float:
        """As anywhere; and what was left with the task is raised in a call that waits, since its handler must run."""
        until = super().look(now)
        for ticket in self._running():
            region = ticket.attempt and ticket.attempt.region
            if region and region.open and region.told is not None and not region.interruptible:
                signal.pthread_kill(threading.main_thread().ident or 0, KNOCK)
        return until


class CellExecutor(Executor):
    """An executor whose tasks have limits, and whose worker is told when the task's own code begins and ends."""

    def __init__(self, home: Home, wire: Wire) -> None:
        super().__init__(home, WriteTurn(shared=False))  # the worker has taken the turn where there is one
        self._wire = wire

    def failed(self, ticket: Ticket, error: BaseException) -> Report:
        """What follows from an error that came out of the attempt, and not as a report."""
        if ticket.attempt is None:
            return self.broken(ticket.job, error)
        return self._verdict.ended_by(ticket.attempt, error)

    def _invoke(self, attempt: Attempt, given: dict[str, Any]) -> Any:
        if attempt.task.signature.is_async:
            return self._ainvoke(attempt, given)
        with self._confined(attempt):
            return super()._invoke(attempt, given)

    async def _ainvoke(self, attempt: Attempt, given: dict[str, Any]) -> Any:
        with self._confined(attempt):
            return await super()._invoke(attempt, given)

    @contextmanager
    def _confined(self, attempt: Attempt) -> Iterator[None]:
        self._wire.say(Began(attempt.started_at))
        try:
            with limits(attempt.task.isolation):
                yield
        finally:
            self._wire.say(Returned())


@contextmanager
def limits(isolation: Isolation | None) -> Iterator[None]:
    """Within it this process may take no more memory and processor time than *isolation* says.

    Only the soft limits move, so they can be lifted: what Duly does after the task must not fail for want of them.
    """
    before: dict[int, tuple[int, int]] = {}
    try:
        if isolation is not None and isolation.max_cpu is not None:
            allowed = math.ceil(time.process_time() + isolation.max_cpu.total_seconds())
            _limit(resource.RLIMIT_CPU, allowed, before)
        if isolation is not None and isolation.max_memory is not None and (taken := _data()) is not None:
            _limit(resource.RLIMIT_DATA, taken + isolation.max_memory, before)
        yield
    finally:
        for what, limit in before.items():
            resource.setrlimit(what, limit)


def _limit(what: int, most: int, before: dict[int, tuple[int, int]]) -> None:
    soft, hard = before[what] = resource.getrlimit(what)
    tighter = (most, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY))
    resource.setrlimit(what, (min(tighter), hard))


def _data() -> int | None:
    """The bytes of private memory that this process may write to; None where the system does not tell (not Linux).

    Not RLIMIT_AS: it counts what glibc reserves for each thread's heap and never touches, 64 MiB a thread.
    """
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[_DATA])
        return pages * os.sysconf("SC_PAGESIZE")
    return None
