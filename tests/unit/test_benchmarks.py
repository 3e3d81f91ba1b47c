"""The benchmark runs, in a tiny form; how fast is for ``make bench`` to say, never for a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.figures import Figure, percentile
from tests.databases import Database

TINY = ["--jobs", "300", "--rounds", "1", "--samples", "3", "--watch", "0.2", "--gaps", "0.01", "0.05"]
BESIDE_BARE = {
    "drain": "bare exchange",
    "drain, with a key": "bare exchange",
    "enqueue, durable": "INSERT+COMMIT",
    "enqueue, in session": "INSERT",
}
ALONE = {"wait to start, p50", "wait to start, p99", "idle: statements", "idle: transactions"}


@pytest.fixture
def url(database: Database) -> str:
    """Where to measure: SQLite in a file of the benchmark's own, or a PostgreSQL."""
    return "sqlite" if database.name == "sqlite" else database.url


def measured(arguments: list[str], folder: Path) -> tuple[int, dict[str, Any]]:
    file = folder / "figures.json"
    status = main([*arguments, "--json", str(file)])
    return status, json.loads(file.read_text())


def test_each_figure_is_measured_beside_its_bare_statement(
    url: str, database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, report = measured([*TINY, "--database", url], tmp_path)
    assert (status, report["not_run"]) == (0, [])
    assert {"date", "python", "cores", "load", "load_after", "duly"} <= report["environment"].keys()

    (found,) = report["databases"]
    assert found["name"] == database.name
    assert {"synchronous", "fsync"} & found["settings"].keys()
    figures = {figure["name"]: figure for figure in found["figures"]}
    bulk = {"enqueue_many, 1,000": "COPY" if database.name == "postgresql" else "executemany"}
    assert figures.keys() == BESIDE_BARE.keys() | bulk.keys() | ALONE
    for name, beside in (BESIDE_BARE | bulk).items():
        figure = figures[name]
        assert figure["bare"]["name"] == beside
        assert len(figure["values"]) == len(figure["bare"]["values"]) == 1
        assert 0 < figure["ratio"]["min"] <= figure["ratio"]["median"] <= figure["ratio"]["max"]

    shown = capsys.readouterr().out
    assert all(name in shown for name in [*figures, "ratio"])
    assert max(map(len, shown.splitlines())) <= 80


def test_nothing_of_the_benchmark_is_left_in_the_database(
    postgresql_database: Database, tmp_path: Path
) -> None:
    arguments = ["--only", "enqueue", "--jobs", "20", "--rounds", "1", "--database", postgresql_database.url]
    assert measured(arguments, tmp_path)[0] == 0
    left = postgresql_database.rows(
        "SELECT nspname FROM pg_namespace WHERE starts_with(nspname, 'duly_bench')"
    )
    assert left == []


def test_what_cannot_be_measured_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nobody = "postgresql+psycopg://me:secret@127.0.0.1:1/none"
    status, report = measured(["--database", nobody], tmp_path)
    assert status == 1
    assert report["databases"] == []
    assert len(report["not_run"]) == 1
    shown = capsys.readouterr().out
    assert "NOT RUN" in shown
    assert "secret" not in shown


def test_a_file_that_exists_is_not_measured_in(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.db"
    theirs.write_bytes(b"")
    status, report = measured(["--database", f"sqlite:///{theirs}"], tmp_path)
    assert status == 1
    assert "exists already" in report["not_run"][0]
    assert theirs.read_bytes() == b""


def test_ratios_are_those_of_one_round() -> None:
    figure = Figure("drain", "jobs/s", [10.0, 30.0], "bare", [100.0, 100.0])
    assert figure.ratios == [0.1, 0.3]
    assert figure.plain()["ratio"] == {"min": 0.1, "median": 0.2, "max": 0.3}


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(1, 201)]
    assert percentile(values, 50) == 100.0
    assert percentile(values, 99) == 198.0
    assert percentile([7.0], 99) == 7.0
