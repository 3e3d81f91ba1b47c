"""Runs of async tasks, of steps, of unrepeatable tasks; and on PostgreSQL."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from duly import Context, Duly, given
from duly.proof.points import Moment, Stop
from duly.proof.world import Worlds
from tests.databases import Database
from tests.proof.conftest import Stage

PAY = text("INSERT INTO payments VALUES (:id)")


def test_async_transactional_task_pays_once_wherever_it_is_killed(stage: Stage, tmp_path: Path) -> None:
    stage.jobs = Duly(
        stage.engine, async_engine=create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/shop.db")
    )

    @stage.jobs.task(name="acharge", effects="transactional")
    async def acharge(order_id: int, *, session: AsyncSession = given) -> None:
        await session.execute(PAY, {"id": order_id})

    runs = stage.runs(acharge)
    clean, _ = stage.play(runs.clean)
    assert clean.notes == ()
    assert [point.kind for point in clean.points] == [
        "statement",
        "returned",
        "statement",
        "statement",
        "commit",
    ]
    assert "test_worlds_apart.py:" in clean.points[0].where
    assert all(point.held for point in clean.points)
    for number in (2, 5):
        run, world = stage.play(runs.crashed, Stop(number, Moment.AFTER))
        assert (run.outcome, run.notes, stage.count(world, "payments")) == ("succeeded", (), 1), number


def test_step_is_a_point_and_is_not_done_again_behind_it(stage: Stage) -> None:
    @stage.jobs.task(name="stepping", effects="idempotent")
    def stepping(order_id: int, *, ctx: Context = given) -> None:
        ctx.step("program", _start)

    runs = stage.runs(stepping)
    clean, _ = stage.play(runs.clean)
    kinds = [point.kind for point in clean.points]
    assert [kind for kind in kinds if kind != "statement"] == ["process", "step", "commit", "returned"]
    run, _ = stage.play(runs.crashed, Stop(kinds.index("step") + 1, Moment.AFTER))
    assert run.effects == clean.effects * 2  # started, and not recorded yet
    run, _ = stage.play(runs.crashed, Stop(kinds.index("returned") + 1, Moment.BEFORE))
    assert run.effects == clean.effects


def _start() -> int:
    return subprocess.run(["true"], check=True).returncode


def test_unrepeatable_task_is_not_done_again_and_ends_uncertain(stage: Stage) -> None:
    @stage.jobs.task(name="launch", effects="unrepeatable")
    def launch(order_id: int) -> None:
        _start()

    runs = stage.runs(launch)
    clean, _ = stage.play(runs.clean)
    assert clean.outcome == "succeeded"
    process = next(point.number for point in clean.points if point.kind == "process")
    run, _ = stage.play(runs.crashed, Stop(process, Moment.AFTER))
    assert (run.outcome, run.effects) == ("uncertain", clean.effects)
    run, _ = stage.play(runs.crashed, Stop(1, Moment.BEFORE))
    assert (run.outcome, run.effects) == ("succeeded", clean.effects)


def test_postgresql(postgresql_database: Database) -> None:
    with Worlds() as worlds:
        engine = create_engine(postgresql_database.url)
        stage = Stage(engine, worlds)

        @stage.jobs.task(name="charge")
        def charge(order_id: int) -> None:
            with engine.begin() as connection:
                connection.execute(PAY, {"id": order_id})

        runs = stage.runs(charge)
        clean, _ = stage.play(runs.clean)
        assert [(point.kind, point.held) for point in clean.points] == [
            ("statement", False), ("commit", False), ("returned", False),
        ]  # fmt: skip
        run, world = stage.play(runs.crashed, Stop(2, Moment.BEFORE))
        assert (run.outcome, run.notes, stage.count(world, "payments")) == ("succeeded", (), 1)
        run, world = stage.play(runs.frozen, Stop(2, Moment.BEFORE))
        assert (run.outcome, run.notes, stage.count(world, "payments")) == ("succeeded", (), 2)


def test_frozen_child_dies_with_the_prover(stage: Stage) -> None:
    task: Any

    @stage.jobs.task(name="sleeper")
    def task(order_id: int) -> None:
        _start()

    runs = stage.runs(task)
    stage.play(runs.clean)
    world = stage.worlds.fresh()
    ours, theirs = os.pipe()
    prover = os.fork()
    if prover == 0:
        import duly.proof.run as module

        def tell(_: Any, kid: Any) -> None:
            os.write(theirs, str(kid.pid).encode())
            os.kill(os.getpid(), signal.SIGKILL)

        module.Kin.wake = tell  # type: ignore[method-assign]
        runs.frozen(world, Stop(1, Moment.BEFORE))
        os._exit(1)
    os.close(theirs)
    sleeper = os.read(ours, 20)
    os.close(ours)
    os.waitpid(prover, 0)
    _await_end(int(sleeper))


def _await_end(pid: int) -> None:
    """Init buries it in a moment."""
    while True:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state in "ZX":
            return
