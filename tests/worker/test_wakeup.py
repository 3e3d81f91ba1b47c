"""A worker that rests: woken at once, and never dependent on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from duly.model.events import Notice
from duly.store.dialect.base import Waker
from duly.store.dialect.listener import Listener
from duly.worker import rest
from tests.worker.stage import PATIENCE, App, Stage, Working

NEVER = 3600.0
RARELY = {"poll": 60.0, "lease": NEVER, "beat": NEVER / 3}


class Mute(Waker):
    """Is relied on, and tells nothing: every notification is lost."""

    proven = True

    def start(self, ring: Callable[[], None], worker: Callable[[], str]) -> None: ...

    def expect_echo(self) -> None: ...

    def close(self) -> None: ...


def asleep(app: App) -> list[bool]:
    workers = app.store.tables.workers
    with app.store.reading() as connection:
        return [bool(row.asleep) for row in connection.execute(workers.select())]


def resting(worker: Working) -> None:
    """Wait until the worker has found nothing and something would wake it."""
    import threading

    ended = threading.Event()
    timer = threading.Timer(PATIENCE, ended.set)
    timer.start()
    while not (worker.pump._dry and worker.pump._rest.woken and worker.pump._rest._wait > 1):
        assert not ended.is_set(), "it does not come to rest"
    timer.cancel()
    timer.join()


@pytest.mark.parametrize("way", ["alone", "in bulk", "scheduled"])
def test_an_enqueue_wakes_a_worker_that_would_not_look_for_minutes(stage: Stage, way: str) -> None:
    if stage.database.name == "mysql":
        pytest.skip("nothing wakes a worker on MySQL: it polls")
    app = stage.app(settings=RARELY)

    @app.task
    def note() -> None: ...

    with Working(app) as worker:
        resting(worker)
        match way:
            case "alone":
                handles = [note.enqueue()]
            case "in bulk":
                handles = app.enqueue_many(note.call() for _ in range(3))
            case _:
                handles = [note.using(run_in=0.05).enqueue()]
        for handle in handles:
            handle.join(timeout=PATIENCE)


def test_a_worker_that_sleeps_says_so_and_says_when_it_has_much_to_do(postgresql: Stage) -> None:
    app = postgresql.app(settings=RARELY)

    @app.task
    def note() -> None: ...

    with Working(app) as worker:
        resting(worker)
        assert asleep(app) == [True]
    for _ in range(30):
        note.enqueue()
    turned = postgresql.turned(app, threads=1)
    turned.pump._pace.room = lambda *_: 1  # type: ignore[method-assign]
    turned.until(lambda: turned.pump.tally["succeeded"] >= 5)
    assert asleep(app) == [False], "it has never slept"
    turned.pump._rest.asleep = True
    with app.store.writing() as connection:
        app.store.workers.sleeps(connection, turned.id, asleep=True)
    turned.until(lambda: turned.pump.tally["succeeded"] >= 12)
    assert asleep(app) == [False]


def test_lost_notifications_delay_and_never_lose(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    app = stage.app(settings={"poll": 60.0, "lease": 1.5, "beat": 0.5})
    monkeypatch.setattr(type(app.store.dialect), "waker", lambda *_: Mute())
    monkeypatch.setattr(type(app.store.dialect), "news", lambda *_: False)

    @app.task
    def note() -> None: ...

    with Working(app) as worker:
        resting(worker)
        note.enqueue().join(timeout=PATIENCE)
        note.using(run_in=0.01).enqueue().join(timeout=PATIENCE)


def test_a_worker_that_notifications_do_not_reach_says_so_and_polls(
    postgresql: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "PROVEN_WITHIN", 0.0)
    app = postgresql.app(settings={"poll": 0.02, "lease": 1.5, "beat": 0.5})
    deaf: Any = lambda _, engine: Listener(engine, "duly_elsewhere")  # noqa: E731
    monkeypatch.setattr(type(app.store.dialect), "waker", deaf)

    @app.task
    def note() -> None: ...

    with Working(app):
        (notice,) = app.journal.wait_for(Notice)
        assert "pooler" in notice.text
        note.enqueue().join(timeout=PATIENCE)


def test_a_worker_that_drains_and_leaves_needs_no_waking(postgresql: Stage) -> None:
    app = postgresql.app()

    @app.task
    def note() -> None: ...

    note.enqueue()
    seen: list[Any] = []
    app.store.dialect.waker = lambda engine: seen.append(engine) or None  # type: ignore[method-assign,func-returns-value]
    assert app.drain() == {"succeeded": 1}
