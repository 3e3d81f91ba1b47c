"""How many jobs a second one connection enqueues: one by one, in the caller's transaction, in bulk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy.orm import Session

from benchmarks.bare import Bare, Row
from benchmarks.figures import Figure, at_least
from benchmarks.ground import Ground
from benchmarks.tasks import Bench

BULK = 1_000
DURABLE = at_least(0.5)

Duly = Callable[[Bench, int], float]
ByHand = Callable[[Bare, Row, int], float]


def enqueues(ground: Ground, jobs: int, rounds: int) -> list[Figure]:
    """Three ways, each beside its bare statement; with a key, so envelopes are sealed."""
    ground.fill(ground.plain, 1)
    bare = ground.bare()
    try:
        template = bare.template()
        ways: list[tuple[str, str, Duly, ByHand]] = [
            ("enqueue, durable", "INSERT+COMMIT", _one_by_one, _bare_one_by_one),
            ("enqueue, in session", "INSERT", _in_session, _bare_in_transaction),
            (f"enqueue_many, {BULK:,}", bare.best_bulk, _many, _bare_many),
        ]
        ours: list[list[float]] = [[] for _ in ways]
        theirs: list[list[float]] = [[] for _ in ways]
        for _ in range(rounds):
            for place, (_, _, by_duly, by_hand) in enumerate(ways):
                theirs[place].append(by_hand(bare, template, jobs))
                ours[place].append(by_duly(ground.keyed, jobs))
                ground.clear()
    finally:
        bare.close()
    return [
        Figure(name, "jobs/s", ours[place], beside, theirs[place], target=None if place else DURABLE)
        for place, (name, beside, _, _) in enumerate(ways)
    ]


# ── by Duly ───────────────────────────────────────────────────────────────────────────────────


def _one_by_one(bench: Bench, jobs: int) -> float:
    with _stopwatch(jobs) as rate:
        for number in range(jobs):
            bench.nothing.enqueue(number)
    return rate[0]


def _in_session(bench: Bench, jobs: int) -> float:
    with _stopwatch(jobs) as rate, Session(bench.jobs.store.engine) as session, session.begin():
        for number in range(jobs):
            bench.nothing.using(session=session).enqueue(number)
    return rate[0]


def _many(bench: Bench, jobs: int) -> float:
    bulks = _bulks(jobs)
    with _stopwatch(bulks * BULK) as rate:
        for _ in range(bulks):
            bench.jobs.enqueue_many(bench.nothing.call(number) for number in range(BULK))
    return rate[0]


# ── by hand ───────────────────────────────────────────────────────────────────────────────────


def _bare_one_by_one(bare: Bare, template: Row, jobs: int) -> float:
    rows = bare.rows(template, jobs)
    with _stopwatch(jobs) as rate:
        for row in rows:
            bare.begin()
            bare.insert(row)
            bare.commit()
    return rate[0]


def _bare_in_transaction(bare: Bare, template: Row, jobs: int) -> float:
    rows = bare.rows(template, jobs)
    with _stopwatch(jobs) as rate:
        bare.begin()
        for row in rows:
            bare.insert(row)
        bare.commit()
    return rate[0]


def _bare_many(bare: Bare, template: Row, jobs: int) -> float:
    batches = [bare.rows(template, BULK) for _ in range(_bulks(jobs))]
    with _stopwatch(len(batches) * BULK) as rate:
        for rows in batches:
            bare.begin()
            bare.insert_many(rows)
            bare.commit()
    return rate[0]


def _bulks(jobs: int) -> int:
    return max(1, jobs * 5 // BULK)


@contextmanager
def _stopwatch(count: int) -> Iterator[list[float]]:
    """A list that holds things a second once the block has ended."""
    rate: list[float] = []
    began = time.perf_counter()
    yield rate
    rate.append(count / (time.perf_counter() - began))
