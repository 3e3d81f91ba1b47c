"""Does the drain rate hold? With a long backlog, several queues, much that is scheduled, an old snapshot.

A window of the drain is measured, by the ledger, and it is the same one everywhere: the short backlog without
its first tenth. So what a worker loses while it learns how long jobs take is lost on both sides. Rows are copies
of one that Duly has written, with ids of their own; they are plain, since a sealed one opens under its own id
alone. The job at the end of the window says when it starts, and the worker is stopped.

A round:

1. A short backlog, in one queue and in three.
2. A long one: the window at its head.
3. What is left of it, with jobs for next week beside it: the window again.
4. What is left of that, made longer where need be, while somebody holds an old snapshot: a tenth of these jobs
   near the start, and the last tenth.
5. A long backlog in three queues: the window at its head.

Each window is drained several times, by a new worker and from what is left; the median counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice
from statistics import median
from typing import Any

from benchmarks.bare import Bare, Row
from benchmarks.figures import Figure, at_least, rate_between
from benchmarks.ground import LONGEST, Ground
from benchmarks.pipe import Pipe

TARGET = at_least(0.8)
REPEATS, ENOUGH = 2, 5_000
"""Windows of each kind in a round; one where they are too small to tell anything in any case."""
EVERY = ("*",)
THREE = ("bench-a", "bench-b", "bench-c")
NEXT_WEEK = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many jobs; all follow from the long backlog, but for those that go by under an old snapshot."""

    long: int
    churn: int

    @property
    def short(self) -> int:
        """The backlog to compare with (10,000 beside 500,000)."""
        return max(self.long // 50, min(100, self.long))

    @property
    def later(self) -> int:
        """Jobs for next week (200,000 beside 500,000)."""
        return self.long * 2 // 5

    @property
    def repeats(self) -> int:
        """Windows of each kind."""
        return REPEATS if self.short >= ENOUGH else 1

    @property
    def warm(self) -> int:
        """Jobs before the window."""
        return self.short // 10


def backlogs(ground: Ground, sizes: Sizes, rounds: int) -> list[Figure]:
    """Each beside the short backlog of its own round."""
    found: dict[str, list[float]] = {}
    bare = ground.bare()
    try:
        scene = Scene(ground, bare, sizes)
        for _ in range(rounds):
            for name, rate in scene.round():
                found.setdefault(name, []).append(rate)
    finally:
        bare.close()
    short, short_three = f"backlog of {sizes.short:,}", f"{sizes.short:,} in three queues"
    pairs = [
        (f"backlog of {sizes.long:,}", "long", short, "short"),
        (f"{sizes.long:,} in three queues", "long three", short_three, "short three"),
        (f"with {sizes.later:,} for next week", "later", short, "short"),
        (f"after {sizes.churn:,}, old snapshot", "churned", "at the start of these", "fresh"),
    ]
    return [
        Figure(name, "jobs/s", found[key], beside, found[other], target=TARGET)
        for name, key, beside, other in pairs
    ]


class Scene:
    """Rows to fill the tables with, and the windows."""

    def __init__(self, ground: Ground, bare: Bare, sizes: Sizes) -> None:
        self._ground = ground
        self._bare = bare
        self._sizes = sizes
        self._nothing = self._template()
        self._in_three = [self._template(queue=queue) for queue in THREE]
        self._next_week = self._template(run_at=datetime.now(UTC) + NEXT_WEEK)

    def round(self) -> Iterator[tuple[str, float]]:
        """Rates, by name."""
        sizes, one, three = self._sizes, [self._nothing], self._in_three
        yield "short", self._short(one, EVERY)
        yield "short three", self._short(three, THREE)
        self._ground.load(self._bare, self._rows(one, sizes.long))
        yield "long", self._windows(EVERY)
        self._ground.add(self._bare, self._rows([self._next_week], sizes.later))
        yield "later", self._windows(EVERY)
        yield from zip(("fresh", "churned"), self._churned(), strict=True)
        self._ground.load(self._bare, self._rows(three, sizes.long))
        yield "long three", self._windows(THREE)

    def _template(self, **options: Any) -> Row:
        self._ground.clear()
        self._ground.plain.nothing.using(**options).enqueue(0)
        return self._bare.template()

    def _rows(self, templates: list[Row], count: int) -> Iterator[Row]:
        """All due at the same moment, so that the ids decide."""
        at = self._bare.place("run_at")
        moment = templates[0][at]
        alike = [(*template[:at], moment, *template[at + 1 :]) for template in templates]
        return map(self._bare.row, islice(cycle(alike), count))

    def _short(self, templates: list[Row], queues: Sequence[str]) -> float:
        """Jobs a second where the window is all there is."""
        rates = []
        for _ in range(self._sizes.repeats):
            self._ground.load(self._bare, self._rows(templates, self._sizes.short))
            rates.append(self._window(queues))
        return median(rates)

    def _windows(self, queues: Sequence[str]) -> float:
        """Jobs a second at the head of what is there."""
        return median(self._window(queues) for _ in range(self._sizes.repeats))

    def _window(self, queues: Sequence[str]) -> float:
        self._run(self._sizes.short, queues)
        return rate_between(*self._ground.endings(), self._sizes.warm, self._sizes.short)

    def _run(self, count: int, queues: Sequence[str] = EVERY) -> None:
        """A worker, until it starts the job at place *count*."""
        ground = self._ground
        ground.forget()
        with Pipe() as pipe:
            ground.make_stamp(count, pipe.writer)
            ground.tidy()
            with ground.worker("--queues", ",".join(queues), bench=ground.plain, keep=[pipe.writer]):
                pipe.started(count, LONGEST)

    def _churned(self) -> tuple[float, float]:
        """Jobs a second at the start and at the end of many, while somebody holds an old snapshot."""
        ground, sizes = self._ground, self._sizes
        missing = sizes.churn - ground.available()
        ground.add(self._bare, self._rows([self._nothing], max(0, missing)))
        with ground.old_snapshot():
            self._run(sizes.churn)
        endings, count = ground.endings(), sizes.churn
        return (
            rate_between(*endings, count // 20, count * 3 // 20),
            rate_between(*endings, count * 9 // 10, count),
        )
