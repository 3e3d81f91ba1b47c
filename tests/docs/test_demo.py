"""`make demo` on both databases, what it leaves behind, and that a wrong figure makes it fail."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from examples.shop.report import Delivery, Due, Ledger, World, compare, show
from examples.shop.sink import Receipt
from tests.postgresql import wait_gone

ROOT = Path(__file__).parents[2]


def demo_python() -> Path:
    """The interpreter that has what the demo needs: ours, else the one that ``make demo`` set up."""
    made = ROOT / ".venv-demo" / "bin" / "python"
    try:
        for package in ("airportsdata", "pillow", "scikit-image"):
            distribution(package)
    except PackageNotFoundError as missing:
        if made.exists():
            return made
        pytest.skip(f"the demo needs {missing.name}, and there is no .venv-demo: run `make demo` once")
    return Path(sys.executable)


@contextmanager
def demo(folder: Path, url: str | None = None) -> Iterator[subprocess.Popen[str]]:
    """The demo, played in *folder*; killed if it is still there at the end of the block."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}
    environment.pop("DULY_DATABASE_URL", None)
    if url:
        environment["DULY_DATABASE_URL"] = url
    process = subprocess.Popen(
        [demo_python(), "-m", "examples.shop"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def play(folder: Path, url: str | None = None) -> str:
    """What the demo says. It must end well, and within two minutes on the slowest machine."""
    with demo(folder, url) as process:
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


def assert_a_good_day(said: str) -> None:
    """The lines that a visitor came for."""
    assert "All figures agree." in said
    assert "is killed with SIGKILL" in said
    assert re.search(r"customer-\d+@\S+, from processes \d+ \(killed\), \d+\n +<\S+@shop.example>", said)
    assert "✗" not in said


def workers_named_in(said: str) -> list[int]:
    """The process ids that the demo printed."""
    found = re.search(r"They are processes (\d+) and (\d+)", said)
    assert found, said
    return [int(pid) for pid in found.groups()]


def all_gone(processes: list[int]) -> bool:
    """Whether none of the processes is there any more."""
    return all(wait_gone(process, timeout=2) for process in processes)


class TestTheDay:
    def test_is_played_on_sqlite(self, tmp_path: Path) -> None:
        said = play(tmp_path)
        assert_a_good_day(said)
        assert (tmp_path / ".demo" / "workers.log").stat().st_size
        assert len(list((tmp_path / ".demo" / "thumbnails").glob("*.jpg"))) == 50
        assert all_gone(workers_named_in(said))

    def test_is_played_on_postgresql_and_leaves_nothing_there(
        self, tmp_path: Path, postgresql_database: Any
    ) -> None:
        from sqlalchemy import create_engine, inspect

        said = play(tmp_path, postgresql_database.url)
        assert_a_good_day(said)
        engine = create_engine(postgresql_database.url)
        try:
            assert "duly_shop_demo" not in inspect(engine).get_schema_names()
        finally:
            engine.dispose()

    def test_interrupted_leaves_no_process(self, tmp_path: Path) -> None:
        with demo(tmp_path) as process:
            assert process.stdout
            said = ""
            for line in process.stdout:
                said += line
                if "They are processes" in line:
                    break
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=30)
        assert process.returncode == 130, said + rest
        assert all_gone(workers_named_in(said))

    def test_refuses_a_file_that_holds_tables(self, tmp_path: Path) -> None:
        import sqlite3

        file = tmp_path / "precious.db"
        connection = sqlite3.connect(file)
        connection.execute("create table precious (id integer)")
        connection.close()
        before = file.read_bytes()
        with demo(tmp_path, f"sqlite:///{file}") as process:
            said, _ = process.communicate(timeout=30)
        assert process.returncode == 2
        assert "holds tables already" in said
        assert file.read_bytes() == before


NEWS = "News"
ADA, BOB = Delivery("ada@mail.example", NEWS), Delivery("bob@mail.example", NEWS)
SALE, ORDER = Delivery("ada@mail.example", "Sale"), Delivery("ada@mail.example", "Order")
DUE = Due(jobs=4, mails=frozenset({ADA, BOB}), late=SALE, unsold=ORDER, rows=10, thumbnails=1)
LEDGER = Ledger(
    enqueued=4, unfinished=0, outcomes={"succeeded": 3, "expired": 1}, retried=1, rescued=1, unsold=False
)
MAILS = (
    Receipt("<1@shop.example>", *ADA, process=11),
    Receipt("<1@shop.example>", *ADA, process=12),
    Receipt("<2@shop.example>", *BOB, process=12),
)
WORLD = World(mails=MAILS, refused=1, rows=10, different_rows=10, thumbnails=1, killed=11, exit_code=0)


def verdict(ledger: Ledger, world: World) -> tuple[bool, str]:
    """Whether the demo would be content, and what it would print."""
    page = io.StringIO()
    content = show(Console(file=page, width=160), DUE, ledger, world)
    return content, page.getvalue()


class TestTheReport:
    def test_of_a_good_day_agrees_and_names_the_mail_that_came_twice(self) -> None:
        content, page = verdict(LEDGER, WORLD)
        assert content
        assert "ada@mail.example, from processes 11 (killed), 12\n   <1@shop.example>" in page

    @pytest.mark.parametrize(
        ("change", "figure"),
        [
            ({"enqueued": 5}, "jobs enqueued"),
            ({"unfinished": 1}, "not ended"),
            ({"outcomes": {"succeeded": 2, "expired": 1}}, "succeeded"),
            ({"outcomes": {"succeeded": 4}}, "expired"),
            ({"outcomes": {"succeeded": 3, "expired": 1, "failed": 1}}, "any other way"),
            ({"retried": 0, "rescued": 0}, "rescued"),
            ({"retried": 3}, "retried"),
            ({"unsold": True}, "rolled back"),
        ],
    )
    def test_tells_a_ledger_that_is_wrong(self, change: dict[str, Any], figure: str) -> None:
        content, page = verdict(replace(LEDGER, **change), WORLD)
        assert not content
        assert re.search(rf"✗ .*{figure}", page)

    @pytest.mark.parametrize(
        ("change", "figure"),
        [
            ({"mails": MAILS[:2]}, "mails received"),
            ({"mails": MAILS[1:]}, "because of the kill"),
            (
                {"mails": (*MAILS, Receipt("<3@shop.example>", *BOB, process=12))},
                "those that were due, each once",
            ),
            (
                {"mails": (*MAILS, Receipt("<3@shop.example>", "eve@mail.example", NEWS, 12))},
                "mails received",
            ),
            ({"mails": (*MAILS, Receipt("<3@shop.example>", *SALE, process=12))}, "flash sale"),
            ({"mails": (*MAILS, Receipt("<3@shop.example>", *ORDER, process=12))}, "rolled back"),
            ({"mails": (*MAILS, MAILS[2])}, "for no reason"),
            ({"rows": 9}, "rows imported"),
            ({"rows": 11}, "rows imported"),
            ({"different_rows": 9}, "differ from one another"),
            ({"thumbnails": 0}, "thumbnails"),
            ({"killed": None}, "because of the kill"),
            ({"killed": 12}, "for no reason"),
            ({"exit_code": 1}, "exit code"),
        ],
    )
    def test_tells_a_world_that_is_wrong(self, change: dict[str, Any], figure: str) -> None:
        content, page = verdict(LEDGER, replace(WORLD, **change))
        assert not content
        assert re.search(rf"✗ .*{figure}", page)

    def test_agrees_on_every_line_of_a_good_day(self) -> None:
        assert all(line.agrees for lines in compare(DUE, LEDGER, WORLD) for line in lines)
