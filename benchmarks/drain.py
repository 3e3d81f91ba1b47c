"""How many jobs a second one default worker process runs, records and replaces, from a full queue."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select

from benchmarks.figures import Figure
from benchmarks.ground import Ground, Unusable
from benchmarks.tasks import Bench


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
        Figure("drain, with a key", "jobs/s", keyed, beside, bare),
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
    ledger = ground.plain.jobs.store.tables.executions.c
    with ground.engine.connect() as connection:
        count, first, last = connection.execute(
            select(func.count(), func.min(ledger.started_at), func.max(ledger.ended_at)).where(
                ledger.outcome == "succeeded"
            )
        ).one()
    if count != jobs:
        raise Unusable(f"{count} of {jobs} jobs stand in the ledger as succeeded")
    return jobs / _seconds(first, last)


def _seconds(first: datetime, last: datetime) -> float:
    return max((last - first).total_seconds(), 0.001)
