"""A row that is put back, changed or copied past Duly, by plain SQL: what has ended never runs again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text, update
from sqlalchemy.orm import Session

from duly import given
from duly.envelope.keys import new_key
from duly.errors import IdTaken
from duly.model.events import SecurityAlert
from duly.model.ids import new_id
from tests.worker.stage import App, Stage, TurnedWorker

DAY = timedelta(days=1)


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(days=300)


BACK: dict[str, dict[str, Any]] = {
    "as it was enqueued": {},
    "due by now": {"state": "scheduled"},
    "running, of a worker that is gone": {"state": "running", "worker": "gone.1.abc", "claim": 1},
    "running, of the worker that is there": {"state": "running", "worker": "here", "claim": 7},
    "claim and attempt far ahead": {"claim": 1_000_000, "attempt": 20},
    "its attempts forgotten": {"claim": 0, "attempt": 0, "deaths": 0, "rescues": 0},
    "in another line": {"priority": -5},
    "with a longer life": {"expires_at": soon()},
}
"""How an ended job's row comes back."""


def declare(app: App) -> tuple[Any, Any, list[int]]:
    """A plain task and a transactional one; what the plain one has done."""
    ran: list[int] = []

    @app.task(name="plain", effects="idempotent")
    def plain(n: int) -> None:
        ran.append(n)

    @app.task(name="counted", effects="transactional")
    def counted(n: int, *, session: Session = given) -> None:
        session.execute(text("INSERT INTO effects VALUES (:n)"), {"n": str(n)})

    return plain, counted, ran


def rows_of(stage: Stage, app: App, jobs: list[Any]) -> dict[UUID, dict[str, Any]]:
    rows = {job.id: stage.row(app, job) for job in jobs}
    assert all(rows.values())
    return rows  # type: ignore[return-value]


def until_nothing_is_left(stage: Stage, app: App, worker: TurnedWorker) -> None:
    """Beat after beat: a lease passes, so that the dead can be told."""
    for _ in range(200):
        worker.beat()
        if not stage.database.rows("SELECT 1 FROM duly_jobs"):
            return
        worker.turn()
    raise AssertionError(stage.database.rows("SELECT id, state, worker FROM duly_jobs"))


def check_what_has_ended_never_runs_again(stage: Stage) -> None:
    app = stage.app()
    stage.make_effects()
    plain, counted, ran = declare(app)
    jobs = [plain.enqueue(n) for n, _ in enumerate(BACK)] + [counted.enqueue(n) for n, _ in enumerate(BACK)]
    rows = rows_of(stage, app, jobs)
    worker = stage.turned(app)
    worker.until_ended(*jobs)
    ledger = {job.id: stage.ended(app, job) for job in jobs}
    for job, changes in zip(jobs, [*BACK.values(), *BACK.values()], strict=True):
        back = rows[job.id] | changes
        if back["worker"] == "here":
            back["worker"] = worker.id
        stage.put_back(app, back)
    until_nothing_is_left(stage, app, worker)
    numbers = sorted(range(len(BACK)))
    assert sorted(ran) == numbers
    assert sorted(map(int, stage.effects())) == numbers
    assert {job.id: stage.ended(app, job) for job in jobs} == ledger
    removed = [entry for entry in stage.audited(app) if entry[1] == "replayed row removed"]
    assert sorted(str(job) for _, _, job in removed) == sorted(str(job.id) for job in jobs)
    assert {alert.id for alert in app.journal.of(SecurityAlert)} == {job.id for job in jobs}


def test_what_has_ended_never_runs_again(stage: Stage) -> None:
    check_what_has_ended_never_runs_again(stage)


def test_a_worker_that_does_not_ask_the_ledger_is_noticed(
    sqlite: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from duly.store.dialect.sqlite import SQLite

    monkeypatch.setattr(SQLite, "_ended", lambda *_: {})
    with pytest.raises(AssertionError):
        check_what_has_ended_never_runs_again(sqlite)


def test_an_attempt_that_is_set_back_while_it_runs_has_no_second_effect(stage: Stage) -> None:
    """The row says that nobody has it, and the same worker takes it with the same claim number."""
    app = stage.app()
    stage.make_effects()
    _, counted, _ = declare(app)
    job = counted.enqueue(1)
    waiting: Any = stage.row(app, job)
    worker = stage.turned(app)
    worker.until(lambda: worker.held, "the claim")
    if stage.row(app, job) is None:  # it has ended already
        stage.put_back(app, waiting)
    else:
        jobs = app.store.tables.jobs
        with app.store.writing() as connection:
            back = {"state": "available", "worker": None, "claim": 0, "attempt": 0}
            connection.execute(update(jobs).where(jobs.c.id == job.id).values(**back))
    until_nothing_is_left(stage, app, worker)
    assert stage.effects() == ["1"]
    assert stage.outcome(app, job) == "succeeded"


def test_a_row_put_back_after_its_time_is_removed_too(stage: Stage) -> None:
    app = stage.app()
    plain, _, ran = declare(app)
    job = plain.enqueue(1)
    row: Any = stage.row(app, job)
    app.drain()
    ended = stage.ended(app, job)
    stage.put_back(app, row | {"expires_at": datetime.now(UTC) - DAY})
    worker = stage.turned(app)
    until_nothing_is_left(stage, app, worker)
    assert ran == [1]
    assert stage.ended(app, job) == ended
    assert [(actor, action) for actor, action, _ in stage.audited(app)] == [("duly", "replayed row removed")]


def test_a_row_put_back_when_the_ledger_has_forgotten_it_expires(stage: Stage) -> None:
    app = stage.app()
    plain, _, ran = declare(app)
    job = plain.using(expires_in=60).enqueue(1)
    row: Any = stage.row(app, job)
    app.drain()
    past = {"expires_at": datetime.now(UTC) - 2 * DAY}
    ledger = app.store.tables.executions
    with app.store.writing() as connection:
        connection.execute(update(ledger).values(ended_at=datetime.now(UTC) - 40 * DAY, **past))
    assert app.manage.prune().removed == 1
    assert stage.ended(app, job) is None
    stage.put_back(app, row | past)
    worker = stage.turned(app)
    until_nothing_is_left(stage, app, worker)
    assert ran == [1]
    assert stage.outcome(app, job) == "expired"


@pytest.fixture
def sealed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> App:
    monkeypatch.setenv("DULY_KEYS", new_key())
    return stage.app()


def test_with_keys_a_copy_under_a_new_id_is_rejected_and_so_is_a_longer_life(
    stage: Stage, sealed: App
) -> None:
    plain, _, ran = declare(sealed)
    job = plain.enqueue(1)
    row: Any = stage.row(sealed, job)
    copies = [
        row | {"id": new_id()},
        row | {"id": (one := new_id()), "origin": one},
        row | {"id": new_id(), "expires_at": soon()},
    ]
    for copy in copies:
        stage.put_back(sealed, copy)
    assert sealed.drain() == {"succeeded": 1, "rejected": 3}
    assert ran == [1]
    assert {stage.outcome(sealed, copy["id"]) for copy in copies} == {"rejected"}
    assert {alert.id for alert in sealed.journal.of(SecurityAlert)} == {copy["id"] for copy in copies}


def test_a_repeated_enqueue_finds_the_job_waiting_or_ended(stage: Stage) -> None:
    app = stage.app()
    plain, _, ran = declare(app)
    identity = new_id()
    first = plain.using(id=identity).enqueue(1)
    assert plain.using(id=identity).enqueue(1) == first
    assert app.drain() == {"succeeded": 1}
    assert plain.using(id=identity).enqueue(1) == first
    assert app.drain() == {}
    assert ran == [1]
    with pytest.raises(IdTaken):
        plain.using(id=identity).enqueue(2)
