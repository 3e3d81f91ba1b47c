"""``python -m benchmarks.worker``: default workers on ``DULY_DATABASE_URL``.

``--until-empty`` leaves when nothing is left to do, ``--queues``, ``--processes`` and ``--threads`` are those of
``duly work``, and with ``--count`` each statement that goes to the database is noted in a folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.counting import count_into
from benchmarks.tasks import declared
from duly import Duly


def main() -> int:
    """Work."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker")
    parser.add_argument("--until-empty", action="store_true")
    parser.add_argument("--queues", default="*")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--count", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    if given.count:
        count_into(given.count)
    jobs = declared(Duly()).jobs
    return jobs.supervise(
        queues=given.queues.split(","),
        processes=given.processes,
        threads=given.threads,
        until_empty=given.until_empty,
    )


if __name__ == "__main__":
    raise SystemExit(main())
