"""``python -m benchmarks``: measure, print a table, write JSON.

1. Which databases? Those named by ``--database`` or ``DULY_DATABASE_URL``; else SQLite in a temporary
   folder, and the PostgreSQL at ``DULY_BENCH_URL`` or on the standard port.
2. On each: drain, enqueue, idle; in tables of the benchmark's own, which are taken away afterwards.
3. A table, and with ``--json`` a file. What could not be run is said; when nothing could, exit 1.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from benchmarks.drain import drains
from benchmarks.enqueue import enqueues
from benchmarks.ground import STANDARD_POSTGRESQL, Ground, Unusable, prepared
from benchmarks.idle import GAPS, idles
from benchmarks.machine import surroundings
from benchmarks.table import show


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure."""
    given = _parser().parse_args(arguments)
    given.only = given.only or PARTS
    console = Console(width=80)
    report: dict[str, Any] = {
        "environment": surroundings(),
        "jobs": given.jobs,
        "rounds": given.rounds,
        "databases": [],
        "not_run": [],
    }
    for url in given.database or _databases():
        try:
            with prepared(url) as ground:
                report["databases"].append(_measured(ground, given, console))
        except Unusable as reason:
            report["not_run"].append(f"{_shown(url)}: {reason}")
    report["environment"]["load_after"] = [round(load, 2) for load in os.getloadavg()]
    show(report, console)
    if given.json:
        given.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if report["databases"] else 1


def _measured(ground: Ground, given: argparse.Namespace, console: Console) -> dict[str, Any]:
    figures = []
    if "drain" in given.only:
        console.print(f"{ground.name}: draining {given.jobs:,} jobs …", style="dim", highlight=False)
        figures += drains(ground, given.jobs, given.rounds)
    if "enqueue" in given.only:
        console.print(f"{ground.name}: enqueueing …", style="dim")
        figures += enqueues(ground, max(1, given.jobs // 20), given.rounds)
    if "idle" in given.only:
        console.print(f"{ground.name}: an idle worker …", style="dim")
        figures += idles(ground, given.samples, given.watch, given.gaps)
    return {"name": ground.name, "settings": ground.settings, "figures": [each.plain() for each in figures]}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--database",
        metavar="URL",
        action="append",
        help="where to measure, may be repeated; 'sqlite' is a file in a temporary folder",
    )
    parser.add_argument("--jobs", type=_positive, default=40_000, metavar="N", help="jobs to drain (40,000)")
    parser.add_argument("--rounds", type=_positive, default=3, metavar="N", help="of drain and enqueue (3)")
    parser.add_argument("--samples", type=_positive, default=200, metavar="N", help="latencies taken (200)")
    parser.add_argument(
        "--watch", type=float, default=10.0, metavar="S", help="seconds to watch an idle worker (10)"
    )
    parser.add_argument(
        "--gaps",
        type=float,
        nargs=2,
        default=GAPS,
        metavar=("S", "S"),
        help="shortest and longest wait between latencies",
    )
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this alone, may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser


PARTS = ("drain", "enqueue", "idle")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _databases() -> list[str]:
    named = os.environ.get("DULY_DATABASE_URL")
    return [named] if named else ["sqlite", os.environ.get("DULY_BENCH_URL") or STANDARD_POSTGRESQL]


def _shown(url: str) -> str:
    """Without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url.partition(":")[0]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # workers and tables go first
    raise SystemExit(main())
