"""An idle worker: how soon it starts what is enqueued, and what it asks of the database meanwhile."""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.counting import counted
from benchmarks.figures import Figure, below, percentile
from benchmarks.ground import Ground
from benchmarks.pipe import Pipe

SETTLE = 3.0
PATIENCE = 30.0
GAPS = (0.1, 0.5)


def idles(
    ground: Ground, samples: int, rests: int, watch: float, gaps: tuple[float, float] = GAPS
) -> list[Figure]:
    """*samples* jobs at irregular *gaps* (seconds); then, *rests* times, a job after *watch* seconds of nothing.

    The two have a worker each, since only the one that is watched has its statements counted.
    """
    waits = _waits(ground, samples, gaps)
    late, asked = _rests(ground, rests, watch)
    seconds = rests * watch
    figures = [
        Figure("wait to start, p50", "ms", [percentile(waits.enqueued, 50)], target=below(4)),
        Figure("  p50 with the enqueue itself", "ms", [percentile(waits.called, 50)]),
        Figure("wait to start, p99", "ms", [percentile(waits.enqueued, 99)], target=below(20)),
        Figure("  p99 with the enqueue itself", "ms", [percentile(waits.called, 99)]),
        Figure(f"worst of {rests}, after {watch:g} s of rest", "ms", [max(late.called)], target=below(20)),
        Figure("idle: statements", "per s", [asked["statements"] / seconds], target=below(1)),
        Figure("idle: but for BEGIN, COMMIT", "per s", [(asked["statements"] - asked["bounds"]) / seconds]),
    ]
    if asked["looks"]:
        figures.append(Figure("idle: PRAGMA data_version", "per s", [asked["looks"] / seconds]))
    return figures


@dataclass
class Waits:
    """Milliseconds to the first line of the task, for each job."""

    called: list[float] = field(default_factory=list)
    """Since ``enqueue`` was called."""
    enqueued: list[float] = field(default_factory=list)
    """Since it returned. It may start sooner than that: then its wait is nothing."""

    def start(self, ground: Ground, pipe: Pipe, number: int) -> None:
        """Enqueue a job, and see when it starts."""
        called = time.monotonic()
        ground.plain.stamp.enqueue(number, pipe.writer)
        enqueued = time.monotonic()
        started = pipe.started(number, PATIENCE)
        self.called.append((started - called) * 1000)
        self.enqueued.append(max(0.0, started - enqueued) * 1000)


def _waits(ground: Ground, samples: int, gaps: tuple[float, float]) -> Waits:
    ground.clear()
    chance = random.Random(20)  # the same gaps in each run
    waits = Waits()
    with Pipe() as pipe, ground.worker(bench=ground.plain, keep=[pipe.writer]):
        Waits().start(ground, pipe, -1)
        time.sleep(min(SETTLE, 10 * gaps[1]))
        for number in range(samples):
            time.sleep(chance.uniform(*gaps))
            waits.start(ground, pipe, number)
    return waits


def _rests(ground: Ground, rests: int, watch: float) -> tuple[Waits, Counter[str]]:
    """The waits after a long rest, and what was asked while nothing was there to do."""
    ground.clear()
    waits, asked = Waits(), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="duly-bench-") as name, Pipe() as pipe:
        folder = Path(name)
        with ground.worker("--count", name, bench=ground.plain, keep=[pipe.writer]):
            Waits().start(ground, pipe, -1)
            for number in range(rests):
                time.sleep(min(SETTLE, watch))
                before = counted(folder)
                time.sleep(watch)
                asked += counted(folder) - before
                waits.start(ground, pipe, number)
    return waits, asked
