"""``python -m benchmarks.worker [--until-empty] [--count FILE]``: a default worker on ``DULY_DATABASE_URL``.

With ``--count`` each statement and each COMMIT adds one to a counter in FILE, shared by mmap.
"""

from __future__ import annotations

import argparse
import mmap
import struct
from pathlib import Path

from sqlalchemy import event

from benchmarks.tasks import declared
from duly import Duly

COUNTERS = struct.Struct("=QQ")
"""Statements, commits."""


def read_counters(file: Path) -> tuple[int, int]:
    """Statements and commits so far."""
    statements, commits = COUNTERS.unpack(file.read_bytes())
    return statements, commits


def count(jobs: Duly, file: Path) -> None:
    """Count what goes to the database; the worker's process is forked from this one and shares the pages."""
    with file.open("r+b") as handle:
        shared = mmap.mmap(handle.fileno(), COUNTERS.size)

    def add(statements: int, commits: int) -> None:
        before = COUNTERS.unpack_from(shared)
        COUNTERS.pack_into(shared, 0, before[0] + statements, before[1] + commits)

    event.listen(jobs.store.engine, "before_cursor_execute", lambda *_: add(1, 0))
    event.listen(jobs.store.engine, "commit", lambda *_: add(0, 1))


def main() -> int:
    """Work."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker")
    parser.add_argument("--until-empty", action="store_true")
    parser.add_argument("--count", type=Path, metavar="FILE")
    given = parser.parse_args()
    jobs = declared(Duly()).jobs
    if given.count:
        count(jobs, given.count)
    return jobs.supervise(until_empty=given.until_empty)


if __name__ == "__main__":
    raise SystemExit(main())
