"""A small shop in a folder of its own, and ``duly`` to be run there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from duly.cli import main
from tests.databases import Database

SHOP = """\
from sqlalchemy.orm import Session

from duly import Backoff, Duly, Tasks, given

jobs = Duly()
mail = Tasks(queue="mail")
jobs.include(mail)


@mail.task(effects="idempotent")
def send_welcome(user_id: int) -> None: ...


@mail.task
async def fetch(url: str) -> None: ...


@jobs.task(effects="transactional", queue="money")
def charge(order_id: int, *, session: Session = given) -> None: ...


@jobs.task(max_attempts=2, retry=Backoff.fixed(0.001))
def breaks(text: str) -> None:
    raise ValueError(f"\\x1b[31mred\\n{text}")
"""


@dataclass(frozen=True)
class Answer:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Shop:
    """A folder with an application, ``shop.tasks:jobs``, on one database."""

    folder: Path
    database: Database
    capsys: pytest.CaptureFixture[str]

    def duly(self, *arguments: str) -> Answer:
        """Run a command in this process."""
        self.capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as left:
            code = int(left.code or 0)
        said = self.capsys.readouterr()
        return Answer(code, said.out, said.err)

    def start(
        self, *arguments: str, stdout: int = subprocess.PIPE, **environment: str
    ) -> subprocess.Popen[str]:
        """Start a command as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "duly", *arguments],
            cwd=self.folder,
            env={**os.environ, "COLUMNS": "80", **environment},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **environment: str) -> Answer:
        """Run a command as a process of its own."""
        with self.start(*arguments, **environment) as process:
            try:
                out, err = process.communicate(timeout=60)
            finally:
                process.kill()
        return Answer(process.returncode, out, err)

    def tasks(self) -> ModuleType:
        """The module of tasks, in this process."""
        from duly.cli.locate import find

        find("shop.tasks:jobs")
        return sys.modules["shop.tasks"]

    def close(self) -> None:
        """Give back what the application holds in this process."""
        if tasks := sys.modules.get("shop.tasks"):
            tasks.jobs.close()

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    @property
    def url(self) -> str:
        return self.database.url


MakeShop = Callable[[Database], Shop]


@pytest.fixture
def make_shop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[MakeShop]:
    """Make the shop on a database, and forget its modules afterwards."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "80")
    known = set(sys.modules)

    def make(database: Database) -> Shop:
        monkeypatch.setenv("DULY_DATABASE_URL", database.url)
        made = Shop(folder, database, capsys)
        made.write("shop/__init__.py", "")
        made.write("shop/tasks.py", SHOP)
        return made

    yield make
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "") or "").startswith(str(folder)):
            del sys.modules[name]


@pytest.fixture
def shop(make_shop: MakeShop, sqlite_database: Database) -> Iterator[Shop]:
    """The shop on SQLite."""
    made = make_shop(sqlite_database)
    yield made
    made.close()


@pytest.fixture
def migrated(make_shop: MakeShop, database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """The shop on each database, with tables, and named by ``DULY_APP``."""
    made = make_shop(database)
    monkeypatch.setenv("DULY_APP", "shop.tasks:jobs")
    assert made.duly("migrate").code == 0
    yield made
    made.close()
