"""An idle worker: how soon it starts what is enqueued, and what it asks of the database meanwhile."""

from __future__ import annotations

import os
import random
import select
import tempfile
import time
from pathlib import Path

from benchmarks.figures import Figure, percentile
from benchmarks.ground import Ground, Unusable
from benchmarks.tasks import STARTED
from benchmarks.worker import COUNTERS, read_counters

SETTLE = 1.5
PATIENCE = 30.0
GAPS = (0.2, 0.8)


def idles(ground: Ground, samples: int, watch: float, gaps: tuple[float, float] = GAPS) -> list[Figure]:
    """One default worker; *samples* jobs at irregular *gaps* (seconds), then *watch* seconds of nothing."""
    ground.clear()
    reader, writer = os.pipe()
    try:
        with tempfile.TemporaryDirectory() as folder:
            counters = Path(folder) / "counters"
            counters.write_bytes(bytes(COUNTERS.size))
            with ground.worker("--count", str(counters), bench=ground.plain, keep=[writer]):
                _start(ground, reader, writer, -1)
                time.sleep(min(SETTLE, watch))
                waits = _waits(ground, reader, writer, samples, gaps)
                time.sleep(min(SETTLE, watch))
                statements, commits = _watch(counters, watch)
    finally:
        os.close(reader)
        os.close(writer)
    return [
        Figure("wait to start, p50", "ms", [percentile(waits, 50)]),
        Figure("wait to start, p99", "ms", [percentile(waits, 99)]),
        Figure("idle: statements", "per s", [statements / watch]),
        Figure("idle: transactions", "per s", [commits / watch]),
    ]


def _waits(ground: Ground, reader: int, writer: int, samples: int, gaps: tuple[float, float]) -> list[float]:
    """Milliseconds from the call of ``enqueue`` to the first line of the task."""
    chance = random.Random(20)  # the same gaps in each run
    waits = []
    for number in range(samples):
        time.sleep(chance.uniform(*gaps))
        waits.append(_start(ground, reader, writer, number) * 1000)
    return waits


def _start(ground: Ground, reader: int, writer: int, number: int) -> float:
    called = time.monotonic()
    ground.plain.stamp.enqueue(number, writer)
    ready, _, _ = select.select([reader], [], [], PATIENCE)
    if not ready:
        raise Unusable(f"no worker started a job within {PATIENCE:g} s")
    told, started = STARTED.unpack(os.read(reader, STARTED.size))
    if told != number:
        raise Unusable(f"job {told} started where {number} was due")
    return float(started) - called


def _watch(counters: Path, seconds: float) -> tuple[int, int]:
    before = read_counters(counters)
    time.sleep(seconds)
    after = read_counters(counters)
    return after[0] - before[0], after[1] - before[1]
