"""How many jobs a second one connection enqueues: one by one, in the caller's transaction, in bulk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy.orm import Session

from benchmarks.bare import Bare
from benchmarks.figures import Figure
from benchmarks.ground import Ground

BULK = 1_000


def enqueues(ground: Ground, jobs: int, rounds: int) -> list[Figure]:
    """Three ways, each beside its bare statement, with a key (its envelope is sealed)."""
    ground.fill(ground.plain, 1)
    with _connection(ground) as bare:
        ways = _ways(ground, bare, jobs)
        ours: list[list[float]] = [[] for _ in ways]
        theirs: list[list[float]] = [[] for _ in ways]
        for _ in range(rounds):
            for place, (_, _, by_duly, by_hand) in enumerate(ways):
                theirs[place].append(by_hand())
                ours[place].append(by_duly())
                ground.clear()
    return [
        Figure(name, "jobs/s", ours[place], beside, theirs[place])
        for place, (name, beside, _, _) in enumerate(ways)
    ]


Way = tuple[str, str, Callable[[], float], Callable[[], float]]


def _ways(ground: Ground, bare: Bare, jobs: int) -> list[Way]:
    bench, template = ground.keyed, bare.template()
    bulks = max(1, jobs // BULK)

    def one_by_one() -> float:
        with _stopwatch(jobs) as rate:
            for number in range(jobs):
                bench.nothing.enqueue(number)
        return rate[0]

    def bare_one_by_one() -> float:
        rows = bare.rows(template, jobs)
        with _stopwatch(jobs) as rate:
            for row in rows:
                bare.begin()
                bare.insert(row)
                bare.commit()
        return rate[0]

    def joined() -> float:
        with _stopwatch(jobs) as rate, Session(ground.engine) as session, session.begin():
            for number in range(jobs):
                bench.nothing.using(session=session).enqueue(number)
        return rate[0]

    def bare_joined() -> float:
        rows = bare.rows(template, jobs)
        with _stopwatch(jobs) as rate:
            bare.begin()
            for row in rows:
                bare.insert(row)
            bare.commit()
        return rate[0]

    def many() -> float:
        with _stopwatch(bulks * BULK) as rate:
            for _ in range(bulks):
                bench.jobs.enqueue_many(bench.nothing.call(number) for number in range(BULK))
        return rate[0]

    def bare_many() -> float:
        batches = [bare.rows(template, BULK) for _ in range(bulks)]
        with _stopwatch(bulks * BULK) as rate:
            for rows in batches:
                bare.begin()
                bare.insert_many(rows)
                bare.commit()
        return rate[0]

    return [
        ("enqueue(), durable", "INSERT + COMMIT", one_by_one, bare_one_by_one),
        ("enqueue() in a session", "INSERT", joined, bare_joined),
        (f"enqueue_many() of {BULK:,}", bare.best_bulk, many, bare_many),
    ]


@contextmanager
def _connection(ground: Ground) -> Iterator[Bare]:
    bare = ground.bare()
    try:
        yield bare
    finally:
        bare.close()


@contextmanager
def _stopwatch(count: int) -> Iterator[list[float]]:
    """A list that holds things a second once the block has ended."""
    rate: list[float] = []
    began = time.perf_counter()
    yield rate
    rate.append(count / (time.perf_counter() - began))
