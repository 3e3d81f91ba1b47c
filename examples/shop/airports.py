"""The world's airports: the CSV file of some 28,000 rows that the package airportsdata ships."""

import csv
from importlib.metadata import distribution
from itertools import islice
from pathlib import Path

COLUMNS = ("icao", "name", "city", "country")


def read(start: int = 0, rows: int | None = None) -> list[dict[str, str]]:
    """The given number of rows from row *start* on (counted from 0, without the heading); all by default."""
    with _file().open(encoding="utf-8", newline="") as file:
        stop = None if rows is None else start + rows
        return [{name: row[name] for name in COLUMNS} for row in islice(csv.DictReader(file), start, stop)]


def _file() -> Path:
    return Path(str(distribution("airportsdata").locate_file("airportsdata/airports.csv")))
