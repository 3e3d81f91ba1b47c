"""Runs of a task in throw-away worlds: undisturbed, killed at each point, frozen, delivered twice."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from duly import Context, Job, given
from duly.proof.points import Moment, Stop
from duly.proof.run import Runs
from tests.proof.conftest import Stage

PAY = text("INSERT INTO payments VALUES (:id)")
MAIL = text("INSERT INTO mails VALUES (:id)")


def charge(stage: Stage) -> Any:
    """Once, whatever happens."""

    @stage.jobs.task(name="charge", effects="transactional")
    def charge(order_id: int, *, session: Session = given) -> None:
        session.execute(PAY, {"id": order_id})

    return charge


def careless(stage: Stage) -> Any:
    """An effect and its flag in two transactions."""

    @stage.jobs.task(name="careless")
    def careless(order_id: int) -> None:
        with stage.engine.begin() as connection:
            connection.execute(PAY, {"id": order_id})
        with stage.engine.begin() as connection:
            connection.execute(MAIL, {"id": order_id})

    return careless


def line_of(needle: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if needle in line)


def test_clean_run_shows_each_statement_and_commit_with_its_line(stage: Stage) -> None:
    run, world = stage.play(stage.runs(careless(stage)).clean)
    assert [point.kind for point in run.points] == ["statement", "commit", "statement", "commit", "returned"]
    assert run.points[0].what == "INSERT INTO payments VALUES (?)"
    assert run.points[0].where.endswith(f"test_run.py:{line_of('connection.execute(PAY')}")
    assert [point.held for point in run.points] == [False, True, False, True, False]
    assert [point.number for point in run.points] == [1, 2, 3, 4, 5]
    assert (run.outcome, run.attempts, run.notes, run.effects) == ("succeeded", 1, (), ())
    assert stage.count(world, "payments") == 1


def test_transactional_task_is_killed_behind_every_point_and_pays_once(stage: Stage) -> None:
    runs = stage.runs(charge(stage))
    clean, _ = stage.play(runs.clean)
    assert [point.kind for point in clean.points] == [
        "statement",
        "returned",
        "statement",
        "statement",
        "commit",
    ]
    for point in clean.points:
        run, world = stage.play(runs.crashed, Stop(point.number, Moment.AFTER))
        assert (run.outcome, run.notes, stage.count(world, "payments")) == ("succeeded", (), 1), point


def test_careless_task_pays_twice_exactly_between_its_first_commit_and_its_record(stage: Stage) -> None:
    runs = stage.runs(careless(stage))
    stage.play(runs.clean)
    stops = [Stop(1, Moment.AFTER), Stop(2, Moment.BEFORE), Stop(2, Moment.AFTER), Stop(5, Moment.AFTER)]
    paid = [stage.count(stage.play(runs.crashed, stop)[1], "payments") for stop in stops]
    assert paid == [1, 1, 2, 2]


def test_killed_run_ends_at_its_point(stage: Stage) -> None:
    runs = stage.runs(careless(stage))
    stage.play(runs.clean)
    run, _ = stage.play(runs.crashed, Stop(2, Moment.BEFORE))
    assert [point.number for point in run.points] == [1, 2]


def test_frozen_worker_wakes_up_after_another_has_done_its_job(stage: Stage) -> None:
    runs = stage.runs(careless(stage))
    stage.play(runs.clean)
    run, world = stage.play(runs.frozen, Stop(1, Moment.BEFORE))
    assert (run.outcome, run.notes) == ("succeeded", ())
    assert stage.count(world, "payments") == 2


def test_two_deliveries_at_once_are_two_payments_for_the_careless_and_one_for_the_transactional(
    stage: Stage,
) -> None:
    for task, payments in ((careless(stage), 2), (charge(stage), 1)):
        runs = stage.runs(task)
        stage.play(runs.clean)
        run, world = stage.play(runs.doubled)
        assert (run.outcome, run.notes, stage.count(world, "payments")) == ("succeeded", (), payments)


def test_the_real_database_is_not_touched(stage: Stage, tmp_path: Path) -> None:
    before = (tmp_path / "shop.db").read_bytes() if (tmp_path / "shop.db").exists() else b""
    runs = stage.runs(careless(stage))
    stage.play(runs.clean)
    stage.play(runs.crashed, Stop(3, Moment.AFTER))
    assert ((tmp_path / "shop.db").read_bytes() if (tmp_path / "shop.db").exists() else b"") == before


def test_idempotency_key_is_the_same_in_every_run_and_attempt(stage: Stage, tmp_path: Path) -> None:
    seen = tmp_path / "keys"
    seen.touch()
    writer = os.open(seen, os.O_WRONLY | os.O_APPEND)

    @stage.jobs.task(name="keyed", effects="idempotent")
    def keyed(order_id: int, *, ctx: Context = given) -> None:
        os.write(writer, ctx.idempotency_key.encode() + b"\n")

    runs = stage.runs(keyed)
    clean, world = stage.play(runs.clean)
    stage.play(runs.crashed, Stop(len(clean.points), Moment.AFTER))
    os.close(writer)
    assert seen.read_text().split() == [str(world.job)] * 3


def test_retries_are_not_waited_for(stage: Stage) -> None:
    @stage.jobs.task(name="second_time", max_attempts=3)
    def second_time(order_id: int, *, ctx: Context = given) -> None:
        with stage.engine.begin() as connection:
            connection.execute(PAY, {"id": order_id})
        if ctx.attempt < 3:
            raise ValueError

    began = time.monotonic()
    run, world = stage.play(stage.runs(second_time).clean)
    assert (run.outcome, run.attempts, stage.count(world, "payments")) == ("succeeded", 3, 3)
    assert time.monotonic() - began < 10  # its waits are 5 and 20 s


def test_jobs_that_the_task_enqueues_are_effects_and_do_not_run(stage: Stage) -> None:
    child = careless(stage)

    @stage.jobs.task(name="parent")
    def parent(order_id: int) -> None:
        child.enqueue(order_id)

    runs = stage.runs(parent)
    clean, world = stage.play(runs.clean)
    assert [(effect.kind, effect.target) for effect in clean.effects] == [("job", "careless")]
    assert stage.count(world, "payments") == 0
    run, world = stage.play(runs.crashed, Stop(len(clean.points), Moment.BEFORE))
    assert run.effects == clean.effects * 2
    run, world = stage.play(runs.frozen, Stop(len(clean.points), Moment.BEFORE))
    assert run.effects == clean.effects * 2
    assert stage.count(world, "payments") == 0


def test_other_jobs_that_wait_in_the_copy_are_not_run(stage: Stage) -> None:
    task = careless(stage)
    task.enqueue(7)
    run, world = stage.play(stage.runs(task).clean)
    assert (run.effects, stage.count(world, "payments")) == ((), 1)


def test_task_of_another_course_each_time_cannot_be_told(stage: Stage) -> None:
    mood: list[str] = []

    @stage.jobs.task(name="moody")
    def moody(order_id: int) -> None:
        with stage.engine.begin() as connection:
            if not mood:
                connection.execute(MAIL, {"id": order_id})
            connection.execute(PAY, {"id": order_id})

    runs = stage.runs(moody)
    stage.play(runs.clean)
    mood.append("another")
    run, _ = stage.play(runs.crashed, Stop(2, Moment.BEFORE))
    assert len(run.notes) == 1
    assert "another course each time: at point 1" in run.notes[0]
    run, _ = stage.play(runs.clean)
    assert "two clean runs differ" in run.notes[0]


def test_file_may_have_another_name_each_time(stage: Stage, tmp_path: Path) -> None:
    @stage.jobs.task(name="export")
    def export(order_id: int) -> None:
        new = tmp_path / f"list.{os.getpid()}"
        new.write_text("1")
        new.rename(tmp_path / "list")

    runs = stage.runs(export)
    stage.play(runs.clean)
    run, _ = stage.play(runs.crashed, Stop(2, Moment.BEFORE))
    assert (run.outcome, run.notes) == ("succeeded", ())


def test_job_class_is_run_with_its_fields(stage: Stage) -> None:
    @stage.jobs.task(name="pay")
    class Pay(Job):
        order_id: int

        def perform(self) -> None:
            with stage.engine.begin() as connection:
                connection.execute(PAY, {"id": self.order_id})

    stage.jobs.close()
    task = stage.jobs.find("pay")
    assert task is not None
    run, world = stage.play(Runs(stage.jobs, task, {"job": Pay(order_id=1)}).clean)
    assert (run.outcome, stage.count(world, "payments")) == ("succeeded", 1)


def test_hung_process_is_killed_and_cannot_be_told(stage: Stage) -> None:
    @stage.jobs.task(name="hung")
    def hung(order_id: int) -> None:
        threading.Event().wait()

    run, _ = stage.play(stage.runs(hung, patience=1.0).clean)
    assert run.outcome is None
    assert "did nothing for 1 s" in run.notes[0]


def test_process_that_ends_by_itself_cannot_be_told(stage: Stage) -> None:
    @stage.jobs.task(name="quits")
    def quits(order_id: int) -> None:
        os._exit(3)

    run, _ = stage.play(stage.runs(quits).clean)
    assert run.notes == ("a process ended by itself (exit status 3)",)


def test_no_child_is_left_behind(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    born: list[int] = []
    fork = os.fork
    monkeypatch.setattr(os, "fork", lambda: born.append(pid := fork()) or pid)
    runs = stage.runs(careless(stage))
    stage.play(runs.clean)
    stage.play(runs.frozen, Stop(1, Moment.BEFORE))
    stage.play(runs.crashed, Stop(1, Moment.BEFORE))

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupted)
    try:
        monkeypatch.setattr("duly.proof.run.Kin.wake", lambda *_: os.kill(os.getpid(), signal.SIGUSR1))
        with pytest.raises(KeyboardInterrupt):
            stage.play(runs.frozen, Stop(1, Moment.BEFORE))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(born) == 1 + 3 + 2 + 2
    for pid in born:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
