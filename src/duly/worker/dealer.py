"""Dealing claimed jobs out to the lanes: a ticket for each, and which of them to give back at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from duly.model.job import ClaimedJob
from duly.worker.executor import Executor
from duly.worker.hand import Hand
from duly.worker.pace import Pace
from duly.worker.ticket import Ticket

if TYPE_CHECKING:
    from duly.worker.home import Home


class Dealt(NamedTuple):
    """Tickets for the lane of sync jobs, for that of async ones, and those that would wait there for too long."""

    sync: list[Ticket]
    loop: list[Ticket]
    back: list[Ticket]


class Dealer:
    """Puts claimed jobs into the hand."""

    def __init__(self, home: Home, executor: Executor, pace: Pace, hand: Hand) -> None:
        self._home = home
        self._executor = executor
        self._pace = pace
        self._hand = hand

    def deal(self, jobs: Sequence[ClaimedJob], worker: str, now: float) -> Dealt:
        """A ticket for each of *jobs*, which *worker* has claimed just *now*."""
        held, held_async = self._hand.sync, self._hand.asynchronous
        ways: dict[str, tuple[bool, bool]] = {}
        sync: list[Ticket] = []
        loop: list[Ticket] = []
        for job in jobs:
            if job.task not in ways:
                ways[job.task] = self._way(job.task)
            on_loop, apart = ways[job.task]
            ticket = Ticket(job, worker, now, asynchronous=on_loop, apart=apart)
            self._hand.hold(ticket)
            (loop if on_loop else sync).append(ticket)
        kept = self._pace.fit([ticket.job.task for ticket in sync], held)
        waiting = self._pace.over([ticket.job.task for ticket in loop], held_async)
        self._pace.saw([(ticket.job.task, ticket.asynchronous) for ticket in (*sync, *loop)])
        back = [*sync[kept:], *(loop[place] for place in waiting)]
        return Dealt(sync[:kept], [ticket for n, ticket in enumerate(loop) if n not in waiting], back)

    def _way(self, name: str) -> tuple[bool, bool]:
        """Whether jobs of this task run on the loop, and whether in processes of their own."""
        task = self._home.find(name)
        if task is not None and task.unrepeatable:
            self._pace.keep_slow(name)
        return self._executor.on_loop(task), self._executor.apart(task)
