"""How many jobs a second one default worker process runs, records and replaces, from a full queue."""

from __future__ import annotations

from benchmarks.figures import Figure, at_least, rate_between
from benchmarks.ground import Ground, Unusable
from benchmarks.tasks import Bench

TARGET = at_least(0.35)


def drains(ground: Ground, jobs: int, rounds: int) -> list[Figure]:
    """Bare, plain and with a key by turns, so that a machine that changes its mind does so to all alike."""
    bare, plain, keyed = [], [], []
    for _ in range(rounds):
        bare.append(_by_hand(ground, jobs))
        plain.append(_by_worker(ground, ground.plain, jobs))
        keyed.append(_by_worker(ground, ground.keyed, jobs))
    beside = "bare exchange"
    return [
        Figure("drain", "jobs/s", plain, beside, bare),
        Figure("drain, with a key", "jobs/s", keyed, beside, bare, target=TARGET),
    ]


def _by_hand(ground: Ground, jobs: int) -> float:
    ground.fill(ground.plain, jobs)
    bare = ground.bare()
    try:
        return bare.drain()
    finally:
        bare.close()


def _by_worker(ground: Ground, bench: Bench, jobs: int) -> float:
    """By the ledger, from the first start to the last record: a worker's own start is not counted."""
    ground.fill(bench, jobs)
    ground.drain(bench)
    start, endings = ground.endings()
    count = sum(recorded for _, recorded in endings)
    if count != jobs:
        raise Unusable(f"{count} of {jobs} jobs stand in the ledger as succeeded")
    return rate_between(start, endings, 0, jobs)
