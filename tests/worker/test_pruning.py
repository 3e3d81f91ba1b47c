"""A worker prunes between its exchanges, seldom; and many expired jobs do not keep it from the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import event, update

from duly.model.events import JobEnded
from duly.worker.services import prune
from tests.store.scene import new_job
from tests.worker.stage import App, Stage, TurnedWorker

DAY = timedelta(days=1)


def declare(app: App) -> Any:
    @app.task(name="note")
    def note() -> None:
        """Does nothing."""

    return note


def aged(stage: Stage, app: App, count: int, days: int) -> None:
    """Jobs that succeeded so long ago, and expired the day before yesterday."""
    task = declare(app)
    app.enqueue_many(task.call() for _ in range(count))
    app.drain()
    moment = datetime.now(UTC)
    times = {"ended_at": moment - days * DAY, "expires_at": moment - 2 * DAY}
    with app.store.writing() as connection:
        connection.execute(update(app.store.tables.executions).values(**times))


def left(stage: Stage) -> int:
    return int(stage.database.rows("SELECT count(*) FROM duly_executions")[0][0])


@contextmanager
def counted(app: App) -> Iterator[list[str]]:
    """The statements about pruning that are sent meanwhile."""
    said: list[str] = []

    def note(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "duly_pruning" in statement:
            said.append(statement)

    event.listen(app.store.engine, "before_cursor_execute", note)
    try:
        yield said
    finally:
        event.remove(app.store.engine, "before_cursor_execute", note)


def pass_time(worker: TurnedWorker, seconds: int) -> None:
    for _ in range(seconds):
        worker.turn(1.0)


def test_a_worker_prunes_soon_after_it_started(stage: Stage) -> None:
    app = stage.app()
    aged(stage, app, 3, days=8)
    worker = stage.turned(app)
    pass_time(worker, int(prune.FIRST) - 2)
    assert left(stage) == 3
    pass_time(worker, 5)
    assert left(stage) == 0
    assert worker.pump._outage.lasts is False


def test_with_nothing_to_prune_it_asks_once_a_minute(sqlite: Stage) -> None:
    app = sqlite.app()
    worker = sqlite.turned(app)
    with counted(app) as said:
        pass_time(worker, int(prune.FIRST + 3 * prune.EVERY + 20))
    assert len(said) == 4


def test_it_goes_on_until_all_is_done_batch_by_batch(sqlite: Stage) -> None:
    app = sqlite.app()
    aged(sqlite, app, 2 * prune.BATCH + 1, days=8)
    worker = sqlite.turned(app)
    pass_time(worker, int(prune.FIRST) + 1)
    assert left(sqlite) == prune.BATCH + 1
    pass_time(worker, 4)
    assert left(sqlite) == 0


def test_what_fails_is_tried_again_a_minute_later(sqlite: Stage, monkeypatch: Any) -> None:
    from duly.errors import DatabaseBusy

    app = sqlite.app()
    aged(sqlite, app, 1, days=8)
    worker = sqlite.turned(app)
    asked: list[int] = []

    def look(*_: Any) -> bool:
        asked.append(1)
        raise DatabaseBusy("somebody has it locked")

    with monkeypatch.context() as patch:
        patch.setattr(app.store.prune, "look", look)
        pass_time(worker, int(prune.FIRST) + 20)
    assert len(asked) == 1
    pass_time(worker, int(prune.EVERY))
    assert left(sqlite) == 0


def test_expired_jobs_are_cleared_in_batches_and_others_run_in_between(stage: Stage) -> None:
    app = stage.app()
    task = declare(app)
    past = datetime.now(UTC) - timedelta(hours=1)
    for _ in range(3):
        with app.store.writing() as connection:
            app.store.jobs.insert_many(
                connection, [new_job(task="other", expires_at=past) for _ in range(500)]
            )
    worker = stage.turned(app)
    sound = task.enqueue()
    worker.turn(0.01)
    assert (
        sound.id in worker.held or sound.refresh().outcome
    )  # a batch was cleared, and it was claimed behind that
    [(left_over,)] = stage.database.rows("SELECT count(*) FROM duly_jobs WHERE task = 'other'")
    assert left_over == 1000
    while stage.database.rows("SELECT 1 FROM duly_jobs LIMIT 1"):
        worker.turn(0.01)
    ended = app.journal.of(JobEnded)
    assert [one.outcome for one in ended].count("expired") == 1500
    rows = stage.database.rows(
        "SELECT cause, count(*) FROM duly_executions WHERE outcome = 'expired' GROUP BY cause"
    )
    assert rows == [("not started before expires_at", 1500)]
