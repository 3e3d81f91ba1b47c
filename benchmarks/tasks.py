"""The tasks of the benchmark, declared on whichever app is asked."""

from __future__ import annotations

import os
import struct
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from duly import Duly, given
from duly.task.task import Task

STARTED = struct.Struct("=id")
"""What ``stamp`` writes into its pipe: the number it was given, and when it started (monotonic seconds)."""


@dataclass(frozen=True, slots=True)
class Bench:
    """An app with its tasks."""

    jobs: Duly
    nothing: Task[..., Any]
    stamp: Task[..., Any]
    rest: Task[..., Any]
    book: Task[..., Any]


def bookkeeping(schema: str | None) -> tuple[str, ...]:
    """The statements of ``book``: read a purse, raise it, write an entry. They take ``:purse``."""
    where = f"{schema}." if schema else ""
    return (
        f"SELECT balance FROM {where}bench_purses WHERE id = :purse",
        f"UPDATE {where}bench_purses SET balance = balance + 1 WHERE id = :purse",
        f"INSERT INTO {where}bench_entries (purse, amount) VALUES (:purse, 1)",
    )


def declared(jobs: Duly) -> Bench:
    """Declare the tasks on *jobs*."""

    @jobs.task(name="bench.nothing")
    def nothing(number: int) -> None:
        """Do nothing, as fast as it can be done."""

    @jobs.task(name="bench.stamp")
    def stamp(number: int, pipe: int) -> None:
        """Say when it started. The monotonic clock is one for all processes of a machine."""
        os.write(pipe, STARTED.pack(number, time.monotonic()))

    @jobs.task(name="bench.rest")
    def rest(seconds: float) -> None:
        """Take a while, and no processor."""
        time.sleep(seconds)

    statements = [text(statement) for statement in bookkeeping(jobs.settings.schema)]

    @jobs.task(name="bench.book", effects="transactional")
    def book(purse: int, *, session: Session = given) -> None:
        """Read a little, write a little."""
        for statement in statements:
            session.execute(statement, {"purse": purse})

    return Bench(jobs, nothing, stamp, rest, book)
