"""Where jobs run: sync tasks on threads of our own, async tasks on one event loop.

Own threads on a SimpleQueue hand over ten times as many jobs a second as an executor from the
standard library does; and a thread that hangs must not keep the process from leaving.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import SimpleQueue

from duly.model.report import Released, Report
from duly.worker.blackbox import BlackBox
from duly.worker.executor import Executor
from duly.worker.ticket import Done, Ticket


class Threads:
    """The lane of sync tasks."""

    def __init__(
        self, executor: Executor, done: SimpleQueue[Done | None], count: int, blackbox: BlackBox
    ) -> None:
        self._executor = executor
        self._done = done
        self._blackbox = blackbox
        self._queue: SimpleQueue[Ticket | None] = SimpleQueue()
        self.running: list[Ticket | None] = [None] * count
        """What each thread runs now."""
        self._threads = [
            threading.Thread(target=self._serve, args=(n,), name=f"duly-run-{n + 1}", daemon=True)
            for n in range(count)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def hand_over(self, tickets: Sequence[Ticket]) -> None:
        """Queue jobs for whichever thread is free next."""
        for ticket in tickets:
            self._queue.put(ticket)

    def stop(self, timeout: float) -> bool:
        """Ask all threads to end once the queue is empty; whether they did in time."""
        for _ in self._threads:
            self._queue.put(None)
        until = time.monotonic() + timeout
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _serve(self, slot: int) -> None:
        running, blackbox, done = self.running, self._blackbox, self._done
        while (ticket := self._queue.get()) is not None:
            if ticket.take():
                began = time.monotonic()
                running[slot] = ticket
                if not ticket.apart:
                    blackbox.enter(slot, ticket.job)
                report = self._run(ticket)
                blackbox.leave(slot)
                running[slot] = None
                done.put(Done(ticket, report, time.monotonic() - began))

    def _run(self, ticket: Ticket) -> Report:
        try:
            return self._executor.run(ticket)
        except BaseException as error:  # noqa: BLE001 - a fault of ours must not cost the thread, and the job with it
            return self._executor.broken(ticket.job, error)


class Loop:
    """The lane of async tasks: one event loop in a thread of its own, started with the first job."""

    def __init__(
        self, executor: Executor, done: SimpleQueue[Done | None], count: int, blackbox: BlackBox, first: int
    ) -> None:
        self._executor = executor
        self._done = done
        self._count = count
        self._blackbox = blackbox
        self._free = list(range(first, first + count))
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots: asyncio.Semaphore | None = None
        self._running: dict[Ticket, asyncio.Task[None]] = {}
        self._stopping = False

    def hand_over(self, tickets: Sequence[Ticket]) -> None:
        """Start jobs on the loop; those over its number of slots wait there."""
        if self._thread is None:
            self._start()
        assert self._loop is not None  # noqa: S101 - just started
        self._loop.call_soon_threadsafe(self._begin, tickets)

    def cancel(self, tickets: Sequence[Ticket]) -> None:
        """Cancel running attempts; they are reported as released."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._cancel, tickets)

    @property
    def running(self) -> list[Ticket]:
        """What runs or waits for a slot."""
        return list(self._running)

    def stop(self, timeout: float) -> bool:
        """Cancel what runs and end the loop; whether it ended in time (a task may swallow its cancellation)."""
        if self._loop is None or self._thread is None:
            return True
        with suppress(RuntimeError):  # closed: it has ended since an earlier stop gave up on it
            self._loop.call_soon_threadsafe(self._cancel, list(self._running))
        until = time.monotonic() + timeout
        while self._running and time.monotonic() < until:
            self._thread.join(0.01)
        self._stopping = True
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(max(0.1, until - time.monotonic()))
        return not self._thread.is_alive() and not self._running

    def _start(self) -> None:
        ready = threading.Event()

        def serve() -> None:
            with asyncio.Runner() as runner:
                self._loop = runner.get_loop()
                self._slots = asyncio.Semaphore(self._count)
                ready.set()
                asyncio.set_event_loop(self._loop)
                while not self._stopping:
                    # Until *we* say so: SystemExit in a task's own sub-task, or its loop.stop(), comes out here.
                    with suppress(SystemExit, KeyboardInterrupt):
                        self._loop.run_forever()

        self._thread = threading.Thread(target=serve, name="duly-loop", daemon=True)
        self._thread.start()
        ready.wait()

    def _begin(self, tickets: Sequence[Ticket]) -> None:
        assert self._loop is not None  # noqa: S101 - runs on it
        for ticket in tickets:
            self._running[ticket] = task = self._loop.create_task(self._serve(ticket))
            # Not in _serve: of a coroutine that is cancelled before its first step no line runs.
            task.add_done_callback(functools.partial(self._forget, ticket))

    def _forget(self, ticket: Ticket, _: asyncio.Task[None]) -> None:
        self._running.pop(ticket, None)

    async def _serve(self, ticket: Ticket) -> None:
        assert self._slots is not None  # noqa: S101 - runs on the loop
        began, taken = time.monotonic(), False
        try:
            async with self._slots:
                taken = ticket.take()
                if not taken:
                    return
                began = time.monotonic()
                with self._noted(ticket):
                    report = await self._executor.arun(ticket)
                self._done.put(Done(ticket, report, time.monotonic() - began))
        except asyncio.CancelledError:
            if taken or ticket.take():
                released = Released(ticket.job.id, ticket.job.claim)
                self._done.put(Done(ticket, released, time.monotonic() - began))
        except BaseException as error:  # noqa: BLE001 - as above
            self._done.put(Done(ticket, self._executor.broken(ticket.job, error), time.monotonic() - began))

    @contextmanager
    def _noted(self, ticket: Ticket) -> Iterator[None]:
        slot = self._free.pop()
        self._blackbox.enter(slot, ticket.job)
        try:
            yield
        finally:
            self._blackbox.leave(slot)
            self._free.append(slot)

    def _cancel(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            task = self._running.get(ticket)
            if task is not None:
                ticket.cancellation.set()  # tells our cancellation from one of the task's own
                task.cancel()
