"""Tasks out of texts: each module is written to a file and imported from there, as an application's are."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from duly.task.task import Task

Declare = Callable[..., Task[..., Any]]

HEAD = """\
from datetime import UTC, date, datetime
from pathlib import Path
import os, random, smtplib, socket, subprocess, time, urllib.request, uuid

from sqlalchemy import create_engine, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from duly import Context, Job, Tasks, given

jobs = Tasks()
engine = create_engine("sqlite://")
Sessions = sessionmaker(engine)


class Base(DeclarativeBase): ...


class Account(Base):
    __tablename__ = "accounts"
    id: Mapped[int] = mapped_column(primary_key=True)
    cents: Mapped[int]


"""
_numbers = count()


@pytest.fixture
def declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Declare]:
    """Declare the last task of a module's text, below ``HEAD``; *others* are modules beside it in its package."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    known = set(sys.modules)

    def declared(body: str, *, head: str = HEAD, **others: str) -> Task[..., Any]:
        package = tmp_path / f"bank{next(_numbers)}"
        package.mkdir()
        for name, text in {"__init__": "", **others, "tasks": head + body}.items():
            (package / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        module = importlib.import_module(f"{package.name}.tasks")
        *_, last = module.jobs
        return last  # type: ignore[no-any-return]

    yield declared
    for name in set(sys.modules) - known:
        if name.startswith("bank"):
            del sys.modules[name]
