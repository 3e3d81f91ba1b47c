"""Do several workers share the work? Four processes, idle when it comes in one transaction.

Counted by ``worker`` in the ledger: the most that one of them ran through the least.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from benchmarks.figures import Figure, at_most
from benchmarks.ground import LONGEST, Ground, Unusable

PROCESSES = 4
LENGTHS = ((0.001, 40_000), (0.01, 16_000), (0.1, 2_000))
"""Seconds that a job takes, and how many there are: ten seconds of work for all. In fewer chance weighs more."""
QUICK, SLOW, LENGTH = 8_000, 40, 0.2
"""The burst: jobs that do nothing, then slow ones, and how long these take."""
EVENLY = at_most(1.1)
SETTLE = 0.5
LOOK = 0.02


def sharings(ground: Ground, scale: float) -> list[Figure]:
    """Jobs of three lengths, then a burst; *scale* makes their numbers smaller or greater."""
    figures = []
    for seconds, count in LENGTHS:
        number = max(PROCESSES, int(count * scale))
        _run(ground, [ground.plain.rest.call(seconds) for _ in range(number)])
        name = f"{number:,} jobs of {seconds * 1000:g} ms, 4 workers"
        figures.append(Figure(name, "uneven", [_unevenness(ground, "bench.rest")], target=EVENLY))
    return figures + _burst(ground, max(1, int(QUICK * scale)))


def _burst(ground: Ground, quick: int) -> list[Figure]:
    """The quick ones teach that jobs are short; the slow ones must not be piled up for it."""
    calls = [ground.plain.nothing.call(number) for number in range(quick)]
    _run(ground, calls + [ground.plain.rest.call(LENGTH) for _ in range(SLOW)])
    slots = PROCESSES * ground.plain.jobs.settings.threads
    ideal = -(-SLOW // slots) * LENGTH
    return [
        Figure(f"{SLOW} slow ones behind {quick:,} quick", "uneven", [_unevenness(ground, "bench.rest")]),
        Figure("  seconds that the slow took", "s", [ground.span("bench.rest")], "at the least", [ideal]),
        Figure("  seconds that all took", "s", [ground.span()]),
    ]


def _run(ground: Ground, calls: Iterable[Any]) -> None:
    calls = list(calls)
    ground.clear()
    with ground.worker("--processes", str(PROCESSES), bench=ground.plain):
        _until(lambda: ground.members() == PROCESSES, "the workers did not start")
        time.sleep(SETTLE)
        ground.plain.jobs.enqueue_many(calls)
        _until(lambda: ground.recorded() >= len(calls), "the workers did not run all jobs")


def _until(reached: Any, otherwise: str) -> None:
    end = time.monotonic() + LONGEST
    while not reached():
        if time.monotonic() > end:
            raise Unusable(f"{otherwise} within {LONGEST:g} s")
        time.sleep(LOOK)


def _unevenness(ground: Ground, task: str) -> float:
    """The most through the least. A worker that had none counts as one job."""
    shares = ground.by_worker(task)
    least = min(shares) if len(shares) >= PROCESSES else 1
    return max(shares) / least
