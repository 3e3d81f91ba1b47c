"""The benchmark runs, in a tiny form; how fast is for ``make bench`` to say, never for a test."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.backlog import Sizes
from benchmarks.counting import counted
from benchmarks.figures import Figure, at_least, at_most, below, percentile, rate_between
from tests.databases import Database
from tests.faults.ground import LONG

TINY = [
    *("--jobs", "300", "--rounds", "1"),
    *("--samples", "3", "--gaps", "0.01", "0.05", "--rests", "1", "--watch", "0.2"),
    *("--backlog", "600", "--churn", "900", "--share", "0.0025"),
]
DRAIN_AND_ENQUEUE = {
    "drain": "bare exchange",
    "drain, with a key": "bare exchange",
    "transactional, one thread": "bare transaction",
    "  the same": "without a job, in a Session",
    "enqueue, durable": "INSERT+COMMIT",
    "enqueue, in session": "INSERT",
}
BACKLOG = {
    "backlog of 600": "backlog of 100",
    "600 in three queues": "100 in three queues",
    "with 240 for next week": "backlog of 100",
    "after 900, old snapshot": "at the start of these",
}
SHARING = {"  seconds that the slow took": "at the least"}
ALONE = {
    "wait to start, p50",
    "  p50 with the enqueue itself",
    "  p99 with the enqueue itself",
    "wait to start, p99",
    "worst of 1, after 0.2 s of rest",
    "idle: statements",
    "idle: but for BEGIN, COMMIT",
    "100 jobs of 1 ms, 4 workers",
    "40 jobs of 10 ms, 4 workers",
    "5 jobs of 100 ms, 4 workers",
    "40 slow ones behind 20 quick",
    "  seconds that all took",
}
BULK = {"sqlite": "executemany", "postgresql": "COPY", "mysql": "multi-row INSERT"}
WITH_TARGETS = {
    "drain, with a key": "≥ 0.35",
    "transactional, one thread": "≥ 0.6",
    "enqueue, durable": "≥ 0.5",
    "wait to start, p50": "< 4",
    "idle: statements": "< 1",
    "backlog of 600": "≥ 0.8",
    "5 jobs of 100 ms, 4 workers": "≤ 1.1",
}


@pytest.fixture
def url(database: Database) -> str:
    """Where to measure: SQLite in a file of the benchmark's own, or a PostgreSQL."""
    return "sqlite" if database.name == "sqlite" else database.url


def measured(arguments: list[str], folder: Path) -> tuple[int, dict[str, Any]]:
    file = folder / "figures.json"
    status = main([*arguments, "--json", str(file)])
    return status, json.loads(file.read_text())


def test_each_figure_is_measured_beside_another_of_its_round(
    url: str, database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not LONG:
        pytest.skip("measures for a minute: DULY_TEST_FAULTS=long")
    status, report = measured([*TINY, "--database", url], tmp_path)
    assert (status, report["not_run"]) == (0, [])
    assert {"date", "python", "cores", "processor", "load", "load_after", "duly"} <= report[
        "environment"
    ].keys()

    (found,) = report["databases"]
    assert (found["name"], found["not_measured"]) == (database.name, [])
    assert {"synchronous", "fsync", "innodb_flush_log_at_trx_commit"} & found["settings"].keys()
    figures = {figure["name"]: figure for figure in found["figures"]}
    bulk = {"enqueue_many, 1,000": BULK[database.name]}
    paired = DRAIN_AND_ENQUEUE | bulk | BACKLOG | SHARING
    assert figures.keys() - {"idle: PRAGMA data_version"} == paired.keys() | ALONE
    for name, beside in paired.items():
        figure = figures[name]
        assert figure["beside"]["name"] == beside
        assert len(figure["values"]) == len(figure["beside"]["values"]) == 1
        assert 0 < figure["ratio"]["min"] <= figure["ratio"]["median"] <= figure["ratio"]["max"]
    assert {name: figures[name]["target"]["bound"] for name in WITH_TARGETS} == WITH_TARGETS
    assert figures["idle: statements"]["median"] >= 0

    shown = capsys.readouterr().out
    assert all(name in shown for name in [*figures, "ratio", "target"])
    assert "…" not in shown.partition("ratio")[2], "a figure is cut off"
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


def test_target_is_held_to_the_median_ratio_or_else_to_the_median() -> None:
    ratio = Figure("drain", "jobs/s", [10.0, 90.0, 40.0], "bare", [100.0] * 3, target=at_least(0.35))
    assert ratio.plain()["target"] == {"bound": "≥ 0.35", "reached": True}
    assert Figure("wait", "ms", [4.0], target=below(4)).plain()["target"] == {
        "bound": "< 4",
        "reached": False,
    }
    assert Figure("uneven", "", [1.1], target=at_most(1.1)).plain()["target"]["reached"] is True
    assert "target" not in Figure("drain", "jobs/s", [1.0]).plain()


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(1, 201)]
    assert percentile(values, 50) == 100.0
    assert percentile(values, 99) == 198.0
    assert percentile([7.0], 99) == 7.0


def test_rate_of_a_window_opens_and_closes_with_a_batch() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    endings = [(start + timedelta(seconds=second), 100) for second in (1, 2, 4, 5, 9)]
    assert rate_between(start, endings, 0, 500) == 500 / 9
    assert rate_between(start, endings, 150, 450) == 200 / 3  # from the second's 200 to the fifth's 400
    assert rate_between(start, endings, 10, 50) == 100  # one batch holds all of it


def test_sizes_follow_from_the_long_backlog() -> None:
    sizes = Sizes(500_000, 300_000)
    assert (sizes.short, sizes.warm, sizes.later, sizes.repeats) == (10_000, 1_000, 200_000, 2)
    tiny = Sizes(600, 900)
    assert (tiny.short, tiny.repeats) == (100, 1)


def test_every_statement_that_was_sent_counts(tmp_path: Path) -> None:
    (tmp_path / "1.statements").write_text(
        "BEGIN IMMEDIATE\nSELECT 1\nPRAGMA main.data_version\nCOMMIT\nselect 'begin'\n"
    )
    (tmp_path / "2.protocol").write_text(
        '2026-01-01 00:00:00.000001\tF\t10\tQuery\t "BEGIN"\n'
        '2026-01-01 00:00:00.000002\tB\t10\tCommandComplete\t "BEGIN"\n'
        'F\t184\tParse\t "" "SELECT\n    \'COMMIT\'\nFROM t" 1 0\n'
        'F\t26\tBind\t "" "" 0 0 1 0\nF\t6\tDescribe\t P ""\nF\t9\tExecute\t "" 0\nF\t4\tSync\n'
        'F\t10\tQuery\t "COMMIT"\nF\t10\tQuery\t "LISTEN x"\n'
    )
    assert counted(tmp_path) == {"statements": 4 + 4, "bounds": 2 + 2, "looks": 1}


def test_sqlite_traces_what_this_test_relies_on() -> None:
    """BEGIN and COMMIT that the driver sends by itself are seen too."""
    seen: list[str] = []
    connection = sqlite3.connect(":memory:")
    connection.set_trace_callback(seen.append)
    connection.execute("CREATE TABLE t (x)")
    connection.execute("INSERT INTO t VALUES (1)")
    connection.commit()
    connection.close()
    assert [words.strip().split()[0] for words in seen] == ["CREATE", "BEGIN", "INSERT", "COMMIT"]
