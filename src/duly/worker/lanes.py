"""The lanes of a worker: sync jobs on threads, async jobs on one event loop, and a watch over both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from duly.model.events import Emitter
from duly.task.context import Stop
from duly.worker.blackbox import BlackBox
from duly.worker.executor import Executor
from duly.worker.pool import Loop, Threads
from duly.worker.ticket import Done, Ticket
from duly.worker.watch import Watch


class Lanes:
    """Both, as the pump sees them."""

    def __init__(
        self,
        executor: Executor,
        done: SimpleQueue[Done | None],
        *,
        threads: int,
        coroutines: int,
        blackbox: BlackBox | None = None,
        emitter: Emitter | None = None,
        on_deaf: Callable[[], object] = bool,
    ) -> None:
        self._executor = executor
        blackbox = blackbox or BlackBox(threads + coroutines)
        self._threads = Threads(executor, done, threads, blackbox)
        self._loop = Loop(executor, done, coroutines, blackbox, first=threads)
        self._watch = Watch(self._running, executor.alarm, emitter or Emitter(), on_deaf)

    def start(self) -> None:
        """Start the threads and the watch; the loop starts with its first job."""
        self._threads.start()
        self._watch.start()

    def hand_over(self, sync: Sequence[Ticket], asynchronous: Sequence[Ticket]) -> None:
        """Each to its lane."""
        self._threads.hand_over(sync)
        if asynchronous:
            self._loop.hand_over(asynchronous)

    def cancel(self, ticket: Ticket, reason: Stop) -> None:
        """Tell a running attempt to stop, once: what it does to tidy up is not disturbed."""
        if ticket.cancellation.is_set():
            return
        ticket.cancellation.set(reason)
        if ticket.asynchronous:
            self._loop.cancel([ticket])
        self._executor.alarm.ring()

    @property
    def deaf(self) -> list[Ticket]:
        """Attempts that were told to stop, and do not."""
        return self._watch.deaf

    def given_up(self) -> list[Done]:
        """How those attempts end that do not stop. Nothing of theirs may run for long after that is recorded."""
        return [
            Done(ticket, self._executor.deaf(attempt), time.monotonic() - attempt.region.began)
            for ticket in self._watch.deaf
            if (attempt := ticket.attempt) is not None and attempt.region is not None
        ]

    def stop(self) -> bool:
        """End all; False when something still runs."""
        ended = all([self._loop.stop(1.0), self._threads.stop(0.2)])
        self._watch.stop()
        return ended

    def _running(self) -> list[Ticket]:
        return [*filter(None, self._threads.running), *self._loop.running]
