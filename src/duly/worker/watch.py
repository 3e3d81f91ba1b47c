"""The watch over what runs: time limits, those who do not stop, and those who let nobody else run.

One thread for a worker. It sleeps until the next deadline, half a second at most while something runs. A look:

1. An attempt whose time is up is told so; one on a thread gets ``TimeLimit`` raised in it at once. (On the
   loop the attempt's own timer cancels it.)
2. One that was told to stop for another reason may ask its context for a second; then ``AttemptStopped`` is
   raised in it.
3. One that still runs five seconds after that is *deaf*: it hangs where no exception reaches it, or swallows
   all. Nothing in this process can end it, so the worker leaves and another takes its place.
4. A look that comes late, in a process that was busy all the time, says that something held the interpreter.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from duly.clock import Clock
from duly.errors import AttemptStopped, TimeLimit
from duly.model.events import Emitter, Notice
from duly.task.context import Stop
from duly.worker.alarm import Alarm
from duly.worker.interrupt import Region
from duly.worker.ticket import Ticket

PATIENCE = 1.0
"""Seconds in which a cancelled sync task may find out by asking its context."""

DEAF = 5.0
"""Seconds after which an attempt that was told to stop, and runs on, is given up."""

HOG = 1.0
"""Seconds by which a look must come late before somebody is said to have held the interpreter."""

TICK, IDLE_TICK, SHORTEST_TICK = 0.5, 1.0, 0.02
SAID_AGAIN_AFTER = 300.0
MOST_NAMED = 5
BUSY_SHARE = 0.2


class Watch:
    """Looks after the tickets that *running* names; calls *on_deaf* when the first of them is given up."""

    def __init__(
        self,
        running: Callable[[], Iterable[Ticket]],
        alarm: Alarm,
        emitter: Emitter,
        on_deaf: Callable[[], object],
        clock: Clock | None = None,
    ) -> None:
        self._running = running
        self._alarm = alarm
        self._emitter = emitter
        self._on_deaf = on_deaf
        self._clock = clock or Clock()
        self._deaf: list[Ticket] = []
        self._said: dict[str, float] = {}
        self._stopping = False
        self._thread: threading.Thread | None = None

    # ── life ──────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Watch from now on."""
        self._thread = threading.Thread(target=self._serve, name="duly-limits", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._stopping = True
        self._alarm.ring()
        if self._thread is not None:
            self._thread.join()
        self._alarm.off()

    @property
    def deaf(self) -> list[Ticket]:
        """Those that were given up, and still run."""
        return [ticket for ticket in self._deaf if (region := _region(ticket)) is not None and region.open]

    def _serve(self) -> None:
        until = self._clock.monotonic()
        busy = time.process_time()
        while True:
            now, cpu = self._clock.monotonic(), time.process_time()
            self.notice_hogs(late=now - until, busy=cpu - busy)
            self._alarm.awake(now + IDLE_TICK)
            if self._stopping:
                return
            until, busy = self.look(now), cpu
            self._alarm.rest(self._clock.monotonic(), until)
            time.sleep(max(0.0, now + SHORTEST_TICK - self._clock.monotonic()))  # however many ring

    # ── limits ────────────────────────────────────────────────────────────────────────────────

    def look(self, now: float) -> float:
        """Tell whose time has come; when to look again."""
        until = now + IDLE_TICK
        for ticket in self._running():
            region = _region(ticket)
            if region is None or not region.open:
                continue
            until = min(until, now + TICK, self._see_to(ticket, region, now))
        return max(until, now + SHORTEST_TICK)

    def _see_to(self, ticket: Ticket, region: Region, now: float) -> float:
        """What is next for one attempt, and when to see to it again."""
        told = ticket.cancellation
        if not told.is_set():
            if now < region.due:
                return region.due
            told.set(Stop.TIME)
        if region.told is None:
            region.told = now
        patience = PATIENCE if told.reason is not Stop.TIME and region.on_thread else 0.0
        if region.interruptible:
            if now < region.told + patience:
                return region.told + patience
            region.interrupt(TimeLimit if told.reason is Stop.TIME else AttemptStopped)
        if now < region.told + patience + DEAF:
            return region.told + patience + DEAF
        self._give_up(ticket, now - region.told)
        return now + TICK

    def _give_up(self, ticket: Ticket, after: float) -> None:
        if ticket in self._deaf:
            return
        self._deaf.append(ticket)
        job, reason = ticket.job, ticket.cancellation.reason
        why = {Stop.TIME: "its time was up", Stop.CANCELLED: "it was cancelled"}
        self._emitter.emit(
            Notice(
                f"job {job.id} ({job.task}) still runs {after:.1f} s after "
                f"{why.get(reason or Stop.LOST, 'it was lost')}: the worker lets its neighbours finish and leaves",
                "error",
            )
        )
        self._on_deaf()

    # ── hogs ──────────────────────────────────────────────────────────────────────────────────

    def notice_hogs(self, *, late: float, busy: float) -> None:
        """Name the tasks that ran all the time in which this thread could not.

        A process that was frozen, or starved by others, is late as well: but then it was not busy.
        """
        if late < HOG or busy < BUSY_SHARE * late:
            return
        now = self._clock.monotonic()
        ran = {
            ticket.job.task
            for ticket in self._running()
            if (region := _region(ticket)) is not None and region.open and region.began < now - late
        }
        names = sorted(name for name in ran if now >= self._said.get(name, 0.0))
        if not names:
            return
        self._said |= dict.fromkeys(names, now + SAID_AGAIN_AFTER)
        who = "task " + names[0] if len(names) == 1 else "one of the tasks " + ", ".join(names[:MOST_NAMED])
        self._emitter.emit(
            Notice(
                f"{who} held the interpreter for {late:.1f} s: no other job of this process ran, and no limit "
                "was kept; run it isolated"
            )
        )


def _region(ticket: Ticket) -> Region | None:
    return None if ticket.attempt is None else ticket.attempt.region
