"""How many jobs to claim: as many as can start at once, and ahead of that a fortieth of a second of work.

Ahead is bounded by *time*, task by task: what was claimed is weighed by the measured run time of each
task, and what would wait for longer goes back at once. A task that was not measured yet counts as slow,
so a fresh worker takes no more than its threads. An unrepeatable one always does. Claiming too much hurts
others (jobs wait here while another worker idles), claiming too little hurts us (a round trip a job).
"""

from __future__ import annotations

from collections.abc import Iterable

AHEAD = 0.025
SLOW = 60.0
BATCH = 500
FORGET = 0.1


class Pace:
    """Measured run times, and the room that follows from them."""

    def __init__(self, threads: int, coroutines: int, *, async_share: float) -> None:
        self._threads = threads
        self._coroutines = coroutines
        self._seconds: dict[str, float] = {}
        self._always_slow: set[str] = set()
        self._typical = SLOW
        self._async_share = async_share
        self._mixed = 0 < async_share < 1

    def keep_slow(self, task: str) -> None:
        """From now on jobs of *task* are kept only where one can start at once, however quick they are."""
        self._always_slow.add(task)
        self._seconds.pop(task, None)

    def learn(self, task: str, seconds: float) -> None:
        """A job of *task* took so long."""
        if task in self._always_slow:
            return
        known = self._seconds.get(task)
        self._seconds[task] = seconds if known is None else known + FORGET * (seconds - known)

    def saw(self, tasks: list[tuple[str, bool]]) -> None:
        """These tasks were claimed (name, async?): the next ones are taken to be like them."""
        costs = [self._seconds.get(name, SLOW) for name, asynchronous in tasks if not asynchronous]
        if costs:
            self._typical = max(sum(costs) / len(costs), 1e-6)
        if self._mixed and tasks:
            share = sum(asynchronous for _, asynchronous in tasks) / len(tasks)
            self._async_share += 0.2 * (share - self._async_share)
            self._async_share = min(max(self._async_share, 0.05), 0.95)

    def fit(self, tasks: list[str], held: int) -> int:
        """How many of these sync jobs, in their order, to keep beside *held* others; the rest would wait too long."""
        free = max(self._threads - held, 0)
        budget = self._threads * AHEAD - max(held - self._threads, 0) * self._typical
        for place, task in enumerate(tasks[free:]):
            budget -= self._seconds.get(task, SLOW)
            if budget < 0:
                return free + place
        return len(tasks)

    def over(self, tasks: list[str], held: int) -> set[int]:
        """Which of these async jobs not to keep beside *held* others: the always slow ones that would have to wait."""
        free = max(self._coroutines - held, 0)
        return {place for place, task in enumerate(tasks) if place >= free and task in self._always_slow}

    def stall(self) -> None:
        """Jobs that were claimed ahead have waited for too long: whatever was measured, claim no more ahead.

        Else what is given back would be taken again at once, and an idle worker beside us never got it.
        """
        self._typical = SLOW

    def room(self, held_sync: int, held_async: int) -> int:
        """How many jobs to claim now, with so many held in each lane.

        What is held ahead is filled up when half of it is gone: else each job that ends would be worth a claim.
        """
        ahead = int(self._threads * AHEAD / self._typical)
        missing = ahead - max(0, held_sync - self._threads)
        sync = max(self._threads - held_sync, missing if missing * 2 >= ahead else 0, 0)
        loop = max(self._coroutines - held_async, 0)
        share = self._async_share
        if share <= 0:
            return min(sync, BATCH)
        if share >= 1:
            return min(loop, BATCH)
        return min(int(sync / (1 - share)), int(loop / share), BATCH)


def share_of_async(kinds: Iterable[bool]) -> float:
    """Before anything was seen: none, all, or half of the jobs are async, as the tasks are."""
    found = set(kinds)
    return 0.5 if len(found) == 2 else float(True in found)
