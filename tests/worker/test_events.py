"""Events: one for each thing, to whoever listens, without what the jobs work on."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from duly import Backoff, Cancel, Duly, Retry, Snooze
from duly.model.events import (
    Event,
    JobEnded,
    JobPutBack,
    JobRetried,
    Rescued,
    Started,
    Stopped,
)
from tests.worker.stage import PATIENCE, Stage, Working

SECRET = "hunter2-the-argument"


def play_everything(app: Duly) -> list[Any]:
    """Jobs that end in every way there is, and one that waits."""

    @app.task(name="do", retry=Backoff.fixed(0.0), max_attempts=2)
    def do(what: str, secret: str) -> str:
        match what:
            case "fail":
                raise ValueError(secret)
            case "retry":
                raise Retry(secret, after=0)
            case "cancel":
                raise Cancel(secret)
            case "snooze":
                raise Snooze(secret, after=timedelta(hours=1))
            case _:
                return secret

    return [do.enqueue(what, SECRET) for what in ("fine", "fail", "retry", "cancel", "snooze")]


def test_each_thing_is_told_once(stage: Stage) -> None:
    app = stage.app()
    jobs = play_everything(app)
    with Working(app):
        for job in jobs[:4]:
            job.join(PATIENCE)
        app.journal.wait_for(JobPutBack)
    told = Counter((type(event).__name__, getattr(event, "outcome", None)) for event in app.journal.events)
    assert told == {
        ("Started", None): 1,
        ("JobEnded", "succeeded"): 1,
        ("JobRetried", None): 2,
        ("JobEnded", "failed"): 2,
        ("JobEnded", "cancelled"): 1,
        ("JobPutBack", None): 1,
        ("Stopped", None): 1,
    }
    failures = [event for event in app.journal.of(JobEnded) if event.outcome == "failed"]
    assert {event.attempt for event in failures} == {2}
    assert all(event.seconds is not None for event in failures)
    (started,), (stopped,) = app.journal.of(Started), app.journal.of(Stopped)
    assert started.name == stopped.name


def test_no_event_and_no_cause_holds_what_the_jobs_work_on(stage: Stage) -> None:
    app = stage.app()
    jobs = play_everything(app)
    app.drain()
    assert app.journal.events
    for event in app.journal.events:
        assert SECRET not in repr(event)
    for job in jobs:
        ended = stage.ended(app, job)
        assert SECRET not in str(ended and ended["cause"])
        for attempt in app.manage.attempts(job.id):
            assert SECRET not in attempt.cause


def test_successes_are_told_only_to_who_asks(stage: Stage) -> None:
    app = Duly(stage.database.url)
    app.migrate()
    seen: list[Event] = []
    app.emitter.subscribe(seen.append)
    play_everything(app)
    app.drain()
    app.close()
    assert {event.outcome for event in seen if isinstance(event, JobEnded)} == {"failed", "cancelled"}
    assert any(isinstance(event, JobRetried) for event in seen)


def test_a_broken_subscriber_harms_nobody(stage: Stage) -> None:
    app = Duly(stage.database.url)
    app.migrate()
    heard: list[Event] = []

    def broken(event: Event) -> None:
        raise RuntimeError("the log is full")

    app.emitter.subscribe(broken, successes=True)
    app.emitter.subscribe(heard.append, successes=True)
    jobs = play_everything(app)
    app.drain()
    assert [job.refresh().outcome for job in jobs] == ["succeeded", "failed", "failed", "cancelled", None]
    app.close()
    assert len([event for event in heard if isinstance(event, JobEnded)]) == 4


@pytest.mark.parametrize("what", ["expiry", "rescue"])
def test_what_was_not_committed_is_not_told(stage: Stage, what: str) -> None:
    app = stage.app()

    @app.task
    def note() -> None: ...

    turned = stage.turned(app)
    turned.turn()
    turned.pump.membership._steady_since = -1e9  # it may judge at once
    job = note.enqueue()
    told: type[Event]
    if what == "expiry":
        told, service, verb = JobEnded, app.store.upkeep, "expire"
        stage.alter(app, job, expires_at=stage.row(app, job)["enqueued_at"] - timedelta(seconds=1))  # type: ignore[index]
    else:
        told, service, verb = Rescued, app.store.rescue, "offer_again"
        stage.alter(app, job, state="running", worker="nobody", claim=1)
    lost = turned.lose_commit(service, verb)
    assert not turned.beat()
    assert lost == [1]
    assert app.journal.of(told) == []
    turned.until(lambda: turned.beat() or app.journal.of(told))
    turned.beat()
    assert len(app.journal.of(told)) == 1
