"""Passing faults of the database in tasks: tried again without an attempt, said quietly, ten times at most."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.orm.exc import StaleDataError

from duly import Backoff, given
from duly.model.events import JobEnded, JobPutBack, JobRetried
from duly.worker import verdict
from tests.worker.stage import Stage


@pytest.fixture(autouse=True)
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tried again when the test says so."""
    monkeypatch.setattr(verdict, "PASSING", Backoff.fixed(3600))


def check_a_lost_race_uses_no_attempt(stage: Stage) -> None:
    app, left = stage.app(), [StaleDataError("once"), StaleDataError("twice")]

    @app.task(max_attempts=1)
    def race() -> None:
        if left:
            raise left.pop()

    job = race.enqueue()
    while left:
        assert app.drain()["put back"] == 1
        row: Any = stage.row(app, job)
        assert (row["attempt"], row["transients"]) == (0, 2 - len(left))
        stage.make_due(app, job)
    assert app.drain() == {"succeeded": 1}
    assert stage.ended(app, job)["attempts"] == 1  # type: ignore[index]
    assert [(told.cause, told.problem) for told in app.journal.of(JobPutBack)] == [
        ("StaleDataError", False)
    ] * 2
    assert app.journal.of(JobRetried) == []
    assert app.manage.attempts(job.id) == []


def test_a_lost_race_uses_no_attempt(stage: Stage) -> None:
    check_a_lost_race_uses_no_attempt(stage)


def test_the_check_notices(sqlite: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "MOST_PASSING", 0)
    with pytest.raises(AssertionError):
        check_a_lost_race_uses_no_attempt(sqlite)


def test_what_a_transactional_task_meets_is_rolled_back_and_passes(server: Stage) -> None:
    """A lock that somebody else holds, in a statement of the task's own."""
    app = server.app()
    server.make_effects()
    server.database.rows("CREATE TABLE stock (n INTEGER PRIMARY KEY)")
    with app.store.engine.begin() as connection:
        connection.execute(text("INSERT INTO stock VALUES (1)"))

    @app.task(effects="transactional", max_attempts=1)
    def take(*, connection: Connection = given) -> None:
        connection.execute(text("INSERT INTO effects VALUES ('taken')"))
        connection.execute(text("SELECT n FROM stock FOR UPDATE NOWAIT"))

    job = take.enqueue()
    with app.store.engine.connect() as other:
        other.execute(text("SELECT n FROM stock FOR UPDATE"))
        assert app.drain()["put back"] == 1
    assert server.row(app, job)["transients"] == 1  # type: ignore[index]
    assert server.effects() == []
    server.make_due(app, job)
    assert app.drain() == {"succeeded": 1}
    assert server.effects() == ["taken"]


def test_after_ten_they_are_failed_attempts(sqlite: Stage) -> None:
    app = sqlite.app()

    @app.task(max_attempts=1)
    def race() -> None:
        raise StaleDataError

    job = race.enqueue()
    sqlite.alter(app, job, transients=10)
    assert app.drain() == {"failed": 1}
    (ended,) = app.journal.of(JobEnded)
    assert ended.cause == "StaleDataError in attempt 1, the last"


def test_inline_they_reach_the_caller(sqlite: Stage) -> None:
    """Nobody would try it again."""
    app = sqlite.app()

    @app.task
    def race() -> None:
        raise StaleDataError("here")

    with app.inline(), pytest.raises(StaleDataError, match="here"):
        race.enqueue()
    with app.store.reading() as connection:
        assert app.store.ledger.outcomes(connection) == {"failed": 1}
