"""``duly prove``, and ``prove`` in a test: a real task, crashed at every step."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from duly.errors import DeclarationError
from duly.proof.verdict import Word
from duly.task.tasks import Tasks
from duly.testing import prove
from tests.cli.conftest import MakeShop, Shop
from tests.databases import Database

TASKS = """\
from datetime import date

from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from duly import Duly, given

engine = create_engine("sqlite:///real.db")
with engine.begin() as connection:
    connection.execute(text("CREATE TABLE IF NOT EXISTS payments (order_id INTEGER)"))
    connection.execute(text("INSERT INTO payments VALUES (0)"))
jobs = Duly(engine)
PAY = text("INSERT INTO payments VALUES (:id)")


@jobs.task(effects="idempotent")
def wrong(order_id: int) -> None:
    with engine.begin() as connection:
        connection.execute(PAY, {"id": order_id})


@jobs.task(effects="transactional")
def mended(order_id: int, *, session: Session = given) -> None:
    session.execute(PAY, {"id": order_id})


@jobs.task(effects="idempotent")
def on(day: date) -> None: ...
"""
PAST = """\
import sqlite3

from duly import Duly

jobs = Duly("sqlite:///jobs.db")
sqlite3.connect("real.db").execute("CREATE TABLE made (x)")


@jobs.task
def never() -> None: ...
"""


@pytest.fixture
def shop(make_shop: MakeShop, sqlite_database: Database) -> Iterator[Shop]:
    made = make_shop(sqlite_database)
    made.write("money/__init__.py", "")
    made.write("money/tasks.py", TASKS)
    made.write("money/past.py", PAST)
    made.write("real.db", "")
    yield made
    if tasks := sys.modules.get("money.tasks"):
        tasks.engine.dispose()


def files(folder: Path) -> dict[str, str]:
    """All that lies in the folder, by digest; but for the byte code."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def test_wrong_task_diverges_and_no_file_is_touched(shop: Shop) -> None:
    before = files(shop.folder)
    answer = shop.duly("prove", "money.tasks:wrong", "--args", '{"order_id": 1}')
    assert answer.code == 1, answer
    assert "DIVERGES  money.tasks.wrong(order_id=1)" in answer.out
    assert "right after point 2 of 3, the commit\n  money/tasks.py:18\n" in answer.out
    assert "payments in real.db: a row once too often\n    + order_id=1\n" in answer.out
    assert "This verdict was not recorded" in answer.out
    assert files(shop.folder) == before


def test_mended_task_is_proved_and_recorded_where_asked(shop: Shop) -> None:
    answer = shop.duly("prove", "money.tasks:mended", "--args", '{"order_id": 1}', "--json", "--record")
    assert answer.code == 0, answer
    assert (answer.json["verdict"], answer.json["effects"]) == ("proved", "transactional")
    store = sys.modules["money.tasks"].jobs.store
    with store.reading() as connection:
        proof = store.proofs.last(connection)["money.tasks.mended"]
    assert (proof.verdict, proof.points) == ("proved", len(answer.json["points"]))
    assert len(proof.source) == 64
    sys.modules["money.tasks"].jobs.close()


def test_connection_past_sqlalchemy_at_import_cannot_be_told(shop: Shop) -> None:
    before = files(shop.folder)
    answer = shop.duly("prove", "money.past:never")
    assert answer.code == 3, answer
    assert "CANNOT TELL  money.past:never()" in answer.out
    assert "real.db was opened by sqlite3, past SQLAlchemy (at money/past.py:6)" in answer.out
    assert files(shop.folder) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["money.tasks"], "'money.tasks' is not of the form module:task"),
        (["money.tasks:wrogn"], "did you mean money.tasks:wrong?"),
        (["money.tasks:wrong", "--args", "{"], "--args is no JSON"),
        (["money.tasks:wrong", "--args", "[1]"], "--args takes a JSON object"),
        (["money.tasks:wrong", "--args", '{"order": 1}'], "--args does not fit"),
        (["money.tasks:on", "--args", '{"day": "yesterday"}'], "--args does not fit"),
        (["money.nothing:wrong"], "there is no module"),
    ],
)
def test_wrong_usage_says_what_to_write(shop: Shop, arguments: list[str], words: str) -> None:
    answer = shop.duly("prove", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert words in answer.err
    assert (shop.folder / "real.db").read_bytes() == b""


def test_prove_in_a_test_passes_and_fails(shop: Shop) -> None:
    sys.path.insert(0, str(shop.folder))
    from money import tasks  # type: ignore[import-not-found]

    before = files(shop.folder)
    verdict = prove(tasks.on, date(2026, 1, 1))
    assert (verdict.word, [point.kind for point in verdict.points]) == (Word.PROVED, ["returned"])
    with pytest.raises(AssertionError, match="DIVERGES") as failed:
        prove(tasks.wrong, 7)
    assert "order_id=7" in str(failed.value)
    assert files(shop.folder) == before


def test_prove_wants_a_task_of_an_app() -> None:
    router = Tasks()

    @router.task
    def alone() -> None: ...

    with pytest.raises(DeclarationError, match="belongs to no app"):
        prove(alone)
