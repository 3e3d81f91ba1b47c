"""What a transactional task costs beside a bare transaction of the same statements.

The task reads a purse, raises it and writes an entry, in the session that Duly gives it. One thread runs it, as one
connection runs the others. They are:

- the *bare transaction*: the same three statements, the fence and the ledger row, through the driver alone, after a
  claim of 500 at a time: what is to be written at the least, so that it happens once;
- the statements alone, in a ``Session`` of one's own: what an application does that has no job to record.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import Column, Index, Integer, MetaData, Table, insert, text
from sqlalchemy.orm import Session

from benchmarks.bare import Bare
from benchmarks.figures import Figure, at_least, rate_between
from benchmarks.ground import Ground, Unusable
from benchmarks.tasks import bookkeeping

TARGET = at_least(0.6)
PURSES = 100


def transactionals(ground: Ground, jobs: int, rounds: int) -> list[Figure]:
    """By turns, as with the drain; *jobs* of each."""
    duly: list[float] = []
    bare: list[float] = []
    alone: list[float] = []
    for _ in range(rounds):
        bare.append(_by_hand(ground, jobs))
        duly.append(_by_worker(ground, jobs))
        alone.append(_alone(ground, jobs))
    return [
        Figure("transactional, one thread", "jobs/s", duly, "bare transaction", bare, target=TARGET),
        Figure("  the same", "jobs/s", duly, "without a job, in a Session", alone),
    ]


def _prepare(ground: Ground, jobs: int) -> None:
    """Purses and no entries; *jobs* that book."""
    metadata = MetaData(schema=ground.schema)
    purses = Table("bench_purses", metadata, Column("id", Integer), Column("balance", Integer))
    Index("bench_purses_id", purses.c.id)
    Table(
        "bench_entries",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("purse", Integer),
        Column("amount", Integer),
    )
    metadata.drop_all(ground.engine)
    metadata.create_all(ground.engine)
    with ground.engine.begin() as connection:
        connection.execute(insert(purses), [{"id": number, "balance": 0} for number in range(PURSES)])
    ground.clear()
    ground.plain.jobs.enqueue_many(ground.plain.book.call(number % PURSES) for number in range(jobs))
    ground.tidy()


def _by_hand(ground: Ground, jobs: int) -> float:
    _prepare(ground, jobs)
    statements = bookkeeping(ground.schema)
    bare = ground.bare()
    try:
        return _rate(jobs, lambda: _settle_all(bare, statements))
    finally:
        bare.close()


def _settle_all(bare: Bare, statements: tuple[str, ...]) -> int:
    done = 0
    while held := bare.exchange([]):
        bare.commit()
        for row in held:
            bare.settle([statement.replace(":purse", str(done % PURSES)) for statement in statements], row)
            done += 1
    bare.commit()
    return done


def _by_worker(ground: Ground, jobs: int) -> float:
    _prepare(ground, jobs)
    ground.drain(ground.plain, "--threads", "1")
    start, endings = ground.endings()
    count = sum(recorded for _, recorded in endings)
    if count != jobs:
        raise Unusable(f"{count} of {jobs} jobs stand in the ledger as succeeded")
    return rate_between(start, endings, 0, jobs)


def _alone(ground: Ground, jobs: int) -> float:
    _prepare(ground, jobs)
    statements = [text(statement) for statement in bookkeeping(ground.schema)]

    def book_all() -> int:
        for number in range(jobs):
            with Session(ground.engine) as session, session.begin():
                for statement in statements:
                    session.execute(statement, {"purse": number % PURSES})
        return jobs

    return _rate(jobs, book_all)


def _rate(jobs: int, run: Callable[[], int]) -> float:
    began = time.perf_counter()
    done = run()
    if done != jobs:
        raise Unusable(f"{done} of {jobs} transactions were made")
    return jobs / (time.perf_counter() - began)
