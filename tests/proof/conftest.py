"""A stage for the prover's runs: an app on an SQLite file, redirected to worlds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text

from duly import Duly
from duly.proof.run import Run, Runs
from duly.proof.world import World, Worlds


class Stage:
    """An app with two tables of its own, and its worlds."""

    def __init__(self, engine: Engine, worlds: Worlds) -> None:
        self.engine = engine
        self.worlds = worlds
        self.jobs = Duly(engine)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE payments (order_id INTEGER)"))
            connection.execute(text("CREATE TABLE mails (order_id INTEGER)"))
        self.jobs.migrate()

    def runs(self, task: Any, **how: Any) -> Runs:
        """Runs of the task with the argument 1."""
        self.jobs.close()
        return Runs(self.jobs, task, {"order_id": 1}, **how)

    def play(self, run: Callable[..., Run], *at: Any) -> tuple[Run, World]:
        """A run in a world of its own, which stays for looking at it."""
        world = self.worlds.fresh()
        return run(world, *at), world

    def count(self, world: World, table: str) -> int:
        """Rows of a table in that world."""
        with world.visit(), self.engine.connect() as connection:
            return connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Worlds() as worlds:
        engine = create_engine(f"sqlite:///{tmp_path}/shop.db")
        yield Stage(engine, worlds)
        engine.dispose()
