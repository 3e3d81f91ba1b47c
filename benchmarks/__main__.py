"""``python -m benchmarks``: measure, print a table, write JSON.

1. Which databases? Those named by ``--database`` or ``DULY_DATABASE_URL``; else SQLite in a temporary
   folder, and the servers named by ``DULY_BENCH_URL`` (URLs with spaces between them), or else the PostgreSQL
   on the standard port, and with ``--full`` the MySQL or MariaDB on its own.
2. On each: drain, transactional, enqueue, idle, backlog, sharing; in tables of the benchmark's own, which are
   taken away afterwards.
3. A table, with our targets beside the figures, and with ``--json`` a file. What could not be run is said;
   when nothing could, exit 1. A target that was not reached is no error: it is for people to judge.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from benchmarks.backlog import Sizes, backlogs
from benchmarks.databases import STANDARD_MYSQL, STANDARD_POSTGRESQL, prepared
from benchmarks.drain import drains
from benchmarks.enqueue import enqueues
from benchmarks.figures import Figure
from benchmarks.ground import Ground, Unusable
from benchmarks.idle import GAPS, idles
from benchmarks.machine import load, surroundings
from benchmarks.sharing import sharings
from benchmarks.table import show
from benchmarks.transactional import transactionals

CHURN, FULL_CHURN = 300_000, 1_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure."""
    given = _parser().parse_args(arguments)
    given.only = given.only or list(PARTS)
    given.churn = given.churn or (FULL_CHURN if given.full else CHURN)
    console = Console(width=80)
    report: dict[str, Any] = {
        "environment": surroundings(),
        "jobs": given.jobs,
        "rounds": given.rounds,
        "backlog_rounds": _backlog_rounds(given),
        "databases": [],
        "not_run": [],
    }
    urls, left_out = (given.database, []) if given.database else _databases(full=given.full)
    report["not_run"] += left_out
    for url in urls:
        try:
            with prepared(url) as ground:
                report["databases"].append(_measured(ground, given, console))
        except Unusable as reason:
            report["not_run"].append(f"{_shown(url)}: {reason}")
    report["environment"]["load_after"] = load()
    show(report, console)
    if given.json:
        given.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if any(database["figures"] for database in report["databases"]) else 1


def _measured(ground: Ground, given: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Part by part; one that cannot be measured does not cost the others."""
    figures: list[Figure] = []
    not_measured: list[str] = []
    took: dict[str, float] = {}
    for part, measure in PARTS.items():
        if part in given.only:
            console.print(f"{ground.name}: {part} …", style="dim", highlight=False)
            began = time.monotonic()
            try:
                figures += measure(ground, given)
            except Unusable as reason:
                not_measured.append(f"{part}: {reason}")
            took[part] = round(time.monotonic() - began, 1)
    return {
        "name": ground.name,
        "settings": ground.settings,
        "figures": [each.plain() for each in figures],
        "not_measured": not_measured,
        "took": took,
    }


PARTS: dict[str, Callable[[Ground, argparse.Namespace], list[Figure]]] = {
    "drain": lambda ground, given: drains(ground, given.jobs, given.rounds),
    "transactional": lambda ground, given: transactionals(ground, max(1, given.jobs // 10), given.rounds),
    "enqueue": lambda ground, given: enqueues(ground, max(1, given.jobs // 20), given.rounds),
    "idle": lambda ground, given: idles(ground, given.samples, given.rests, given.watch, given.gaps),
    "backlog": lambda ground, given: backlogs(
        ground, Sizes(given.backlog, given.churn), _backlog_rounds(given)
    ),
    "sharing": lambda ground, given: sharings(ground, given.share),
}


def _backlog_rounds(given: argparse.Namespace) -> int:
    return int(given.rounds) if given.full else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])

    def number(name: str, default: int | None, words: str) -> None:
        parser.add_argument(name, type=_positive, default=default, metavar="N", help=words)

    parser.add_argument(
        "--database",
        metavar="URL",
        action="append",
        help="where to measure, may be repeated; 'sqlite' is a file in a temporary folder",
    )
    parser.add_argument(
        "--only", choices=list(PARTS), action="append", help="measure this alone, may be repeated"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--full",
        action="store_true",
        help=f"as many rounds of backlog as of drain, {FULL_CHURN:,} jobs under an old snapshot, and MySQL",
    )
    number("--jobs", 15_000, "jobs to drain (15,000)")
    number("--rounds", 3, "of drain and enqueue (3)")
    number("--samples", 80, "latencies taken (80)")
    number("--rests", 2, "long rests of an idle worker (2)")
    parser.add_argument(
        "--watch", type=float, default=15.0, metavar="S", help="seconds that such a rest lasts (15)"
    )
    parser.add_argument(
        "--gaps",
        type=float,
        nargs=2,
        default=GAPS,
        metavar=("S", "S"),
        help="shortest and longest wait between latencies",
    )
    number("--backlog", 500_000, "jobs of a long backlog (500,000)")
    number("--churn", None, f"jobs that go by under an old snapshot ({CHURN:,})")
    parser.add_argument(
        "--share", type=float, default=1.0, metavar="X", help="so many times the usual jobs to share (1)"
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _databases(*, full: bool) -> tuple[list[str], list[str]]:
    """Where to measure when nobody says where, and what is left to ``--full``."""
    named = os.environ.get("DULY_DATABASE_URL")
    if named:
        return [named], []
    servers = os.environ.get("DULY_BENCH_URL", "").split()
    if servers:
        return ["sqlite", *servers], []
    usual = ["sqlite", STANDARD_POSTGRESQL]
    if full:
        return [*usual, STANDARD_MYSQL], []
    return usual, ["MySQL and MariaDB: to keep this short; --full, or --database mysql+pymysql://…"]


def _shown(url: str) -> str:
    """Without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url.partition(":")[0]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # workers and tables go first
    raise SystemExit(main())
