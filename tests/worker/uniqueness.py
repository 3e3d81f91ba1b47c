"""The rules of keys, as functions of a stage: ``test_unique.py`` calls them, ``test_unique_mutants.py`` breaks them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, select, text, update
from sqlalchemy.orm import Session

from duly import Backoff, Duly, JobHandle, given
from duly.errors import DatabaseUnavailable, KeyTaken, UniqueConflict
from duly.model.job import HOLDS_TO_CLAIM, HOLDS_TO_END
from tests.worker.stage import App, Stage

HOUR = timedelta(hours=1)
SCOPES = ("waiting", "unfinished", HOUR)


class Broken(Exception):
    """What a task raises."""


def declare(app: Duly, **options: Any) -> Any:
    """A task that does nothing."""

    @app.task(name="tests.plain", **options)
    def plain(n: int = 0) -> None: ...

    return plain


def keys(app: Duly) -> dict[Any, str]:
    """Who holds keys, and until when."""
    table = app.store.tables.keys
    with app.store.reading() as connection:
        return {row.job_id: row.until for row in connection.execute(select(table))}


def pass_windows(app: Duly) -> None:
    """The times of all keys have passed."""
    table = app.store.tables.keys
    with app.store.writing() as connection:
        connection.execute(update(table).values(until_at=datetime(2020, 1, 1, tzinfo=UTC)))


def waiting_jobs(app: Duly) -> int:
    return app.manage.overview().states.get("available", 0)


@contextlib.contextmanager
def replies_lost(app: Duly, meanwhile: Callable[[], Any] = lambda: None) -> Iterator[None]:
    """The first reply to a COMMIT is lost; *meanwhile* others go on."""
    writing, left = app.store.writing, [1]

    @contextlib.contextmanager
    def losing() -> Iterator[Connection]:
        with writing() as connection:
            yield connection
        if left:
            left.clear()
            meanwhile()
            raise DatabaseUnavailable("the reply was lost")

    app.store.writing = losing  # type: ignore[method-assign]
    try:
        yield
    finally:
        app.store.writing = writing  # type: ignore[method-assign]


# ── how long a key is held ────────────────────────────────────────────────────────────────────


def check_a_waiting_key_is_released_by_the_first_claim_and_never_retaken(stage: Stage) -> None:
    app = stage.app()

    @app.task(name="tests.shaky", unique="k", unique_scope="waiting", retry=Backoff.fixed(3600))
    def shaky() -> None:
        raise Broken

    first = shaky.enqueue()
    assert shaky.enqueue() == first
    assert stage.row(app, first)["holds"] == HOLDS_TO_CLAIM  # type: ignore[index]
    app.drain()
    assert (first.refresh().state, keys(app)) == ("scheduled", {})
    second = shaky.using(run_in=60).enqueue()
    stage.make_due(app, first)
    app.drain()
    assert first.refresh().attempts == 2
    assert keys(app) == {second.id: "claim"}


def check_an_unfinished_key_is_held_until_the_end_whatever_it_is(stage: Stage) -> None:
    app = stage.app()
    stage.make_effects()

    @app.task(name="tests.ends", max_attempts=1)
    def ends(how: str) -> None:
        if how == "failed":
            raise Broken

    @app.task(name="tests.within", effects="transactional")
    def within(*, session: Session = given) -> None:
        session.execute(text("INSERT INTO effects VALUES ('x')"))

    handles = {
        "succeeded": ends.using(unique="a").enqueue("well"),
        "failed": ends.using(unique="b").enqueue("failed"),
        "cancelled": ends.using(unique="c").enqueue("well"),
        "expired": ends.using(unique="d").enqueue("well"),
    }
    transactional = within.using(unique="e").enqueue()
    assert stage.row(app, transactional)["holds"] == HOLDS_TO_END  # type: ignore[index]
    assert len(keys(app)) == 5
    handles["cancelled"].cancel()
    assert len(keys(app)) == 4
    stage.alter(app, handles["expired"], expires_at=datetime.now(UTC) - HOUR)
    worker = stage.turned(app)
    worker.beat()
    worker.until_ended(*handles.values(), transactional)
    assert {name: handle.outcome for name, handle in handles.items()} == {name: name for name in handles}
    assert transactional.outcome == "succeeded"
    assert keys(app) == {}


def check_a_retried_job_keeps_its_unfinished_key(stage: Stage) -> None:
    app = stage.app()

    @app.task(name="tests.shaky", retry=Backoff.fixed(3600), unique=True)
    def shaky() -> None:
        raise Broken

    first = shaky.enqueue()
    app.drain()
    assert first.refresh().attempts == 1
    assert shaky.enqueue() == first
    assert stage.row(app, first)["state"] == "scheduled"  # type: ignore[index]


def check_a_window_is_held_past_the_end_until_it_passes(stage: Stage) -> None:
    app = stage.app()
    plain = declare(app, unique="k", unique_scope=HOUR)
    first = plain.enqueue()
    assert plain.enqueue() == first
    app.drain()
    assert plain.enqueue() == first
    pass_windows(app)
    second = plain.enqueue()
    assert second != first
    assert plain.enqueue() == second


def check_a_key_is_released_by_its_job_alone(stage: Stage) -> None:
    """The key that went on to the successor is not freed when its former holder ends."""
    app = stage.app()

    @app.task(name="tests.chain", unique="chain")
    def chain(left: int) -> None:
        if left:
            made.append(chain.using(run_in=3600).enqueue(left - 1))
            made.append(chain.using(run_in=3600).enqueue(left - 1))

    made: list[JobHandle[None]] = []
    first = chain.enqueue(1)
    assert app.drain() == {"succeeded": 1}
    assert made[0] == made[1] != first
    assert keys(app) == {made[0].id: "end"}
    assert chain.enqueue(5) == made[0]


# ── what a conflict does ──────────────────────────────────────────────────────────────────────


def check_a_waiting_job_is_replaced_and_ends_cancelled(stage: Stage) -> None:
    app = stage.app()
    plain = declare(app, unique="k", on_conflict="replace")
    for scope in SCOPES:
        pass_windows(app)
        task = plain.using(unique_scope=scope)
        first, second = task.enqueue(1), task.enqueue(2)
        assert first != second
        ended = stage.ended(app, first)
        assert ended is not None
        assert (ended["outcome"], ended["cause"]) == ("cancelled", f"replaced by {second.id}")
        assert first.id not in keys(app)
        assert second.id in keys(app)
        assert app.drain() == {"succeeded": 1}


def check_a_running_job_is_not_replaced(stage: Stage) -> None:
    app, seen = stage.app(), []
    other = Duly(app.store.engine)

    @app.task(name="tests.runs", unique="k")
    def runs() -> None:
        thread = threading.Thread(target=lambda: seen.append(again.enqueue()))
        thread.start()
        thread.join()

    @other.task(name="tests.runs", unique="k", on_conflict="replace")
    def again() -> None: ...

    handle = runs.enqueue()
    assert app.drain() == {"succeeded": 1}
    assert seen == [handle]


def check_an_error_names_the_other_job_and_writes_nothing(stage: Stage) -> None:
    app = stage.app()
    plain = declare(app, unique="k", on_conflict="error")
    first = plain.enqueue(1)
    with pytest.raises(UniqueConflict, match=str(first.id)) as caught:
        app.enqueue_many([plain.using(unique="other").call(), plain.call(2)])
    assert caught.value.job == first.id
    with Session(app.store.engine) as session, session.begin():
        with pytest.raises(UniqueConflict):
            app.enqueue_many([plain.using(unique="other").call(), plain.call(2)], session=session)
        plain.using(session=session, unique="third").enqueue()
    assert len(keys(app)) == waiting_jobs(app) == 2


# ── under any concurrency ─────────────────────────────────────────────────────────────────────


def check_a_crowd_that_enqueues_one_key_makes_one_job(stage: Stage, size: int = 100) -> None:
    """In transactions of its own, in the callers' and in bulk, in whatever order a batch names its keys."""
    app = stage.app()
    plain, engine = declare(app), create_engine(stage.database.url, pool_size=20, pool_timeout=60)
    crowd, start = Duly(engine), threading.Barrier(size)
    task = declare(crowd, unique=lambda n: f"key {n}")
    handles: list[JobHandle[None]] = []
    faults: list[BaseException] = []

    def enqueue(number: int) -> None:
        start.wait()
        try:
            if number % 3 == 0:
                handles.append(task.enqueue(7))
            elif number % 3 == 1:
                with Session(engine) as session, session.begin():
                    session.execute(text("SELECT 1"))
                    handles.append(task.using(session=session).enqueue(7))
            else:
                order = range(10) if number % 2 else reversed(range(10))
                handles.extend(h for h in crowd.enqueue_many([task.call(n) for n in order]))
        except BaseException as fault:
            faults.append(fault)

    crowd.store  # noqa: B018 - opened before the crowd comes
    threads = [threading.Thread(target=enqueue, args=(number,)) for number in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    crowd.close()
    assert faults == []
    assert len(set(handles)) == waiting_jobs(app) == len(keys(app)) == 10
    assert plain.enqueue() not in handles


def check_an_existing_job_waits_for_the_transaction_that_was_answered_with_it(stage: Stage) -> None:
    """What the caller has written must be seen by the job that it counts on."""
    app = stage.app()
    plain = declare(app, unique="k", unique_scope="waiting")
    first, worker = plain.enqueue(), stage.turned(app)
    with Session(app.store.engine) as session, session.begin():
        assert plain.using(session=session).enqueue() == first
        if not stage.sqlite:  # where nobody claims while somebody else writes
            worker.turn()
            assert worker.held == set()
    worker.until_ended(first)


def check_a_rolled_back_enqueue_holds_no_key(stage: Stage) -> None:
    app = stage.app()
    plain = declare(app, unique="k", on_conflict="replace")
    first = plain.enqueue()
    with Session(app.store.engine) as session:
        second = plain.using(session=session).enqueue()
        session.rollback()
    assert second != first
    assert keys(app) == {first.id: "end"}
    assert first.refresh().state == "available"


def check_a_repeated_enqueue_whose_reply_was_lost_is_one_job_with_one_key(stage: Stage) -> None:
    app = stage.app()
    plain = declare(app, unique="k", unique_scope="waiting", on_conflict="replace")
    with replies_lost(app):
        first = plain.enqueue()
    assert first.refresh().state == "available"
    assert keys(app) == {first.id: "claim"}
    app.drain()
    with replies_lost(app, meanwhile=app.drain):
        ended = plain.enqueue()
    assert ended.refresh().outcome == "succeeded"
    assert keys(app) == {}


# ── idempotency keys ──────────────────────────────────────────────────────────────────────────


def check_an_idempotency_key_finds_its_job_waiting_or_ended(stage: Stage) -> None:
    app = stage.app()
    plain = declare(app)
    keyed = plain.using(idempotency_key="order 7")
    first = keyed.enqueue(7)
    assert keyed.enqueue(7) == first
    app.drain()
    assert keyed.enqueue(7) == first
    for task, n in ((keyed, 8), (keyed.using(queue="other"), 7)):
        with pytest.raises(KeyTaken, match=str(first.id)):
            task.enqueue(n)
    assert plain.using(idempotency_key="order 8").enqueue(7) != first
    pass_windows(app)
    assert keyed.enqueue(8) != first


def check_a_retry_by_hand_takes_the_key_and_extends_the_other(stage: Stage) -> None:
    app: App = stage.app()

    @app.task(name="tests.fails", max_attempts=1)
    def fails() -> None:
        raise Broken

    call = fails.using(unique="k", idempotency_key="i")
    first = call.enqueue()
    app.drain()
    stands = _until_at(app)
    rival = fails.using(unique="k").enqueue()
    with pytest.raises(Exception, match=str(rival.id)):
        app.manage.retry(first.id)
    rival.cancel()
    with app.store.writing() as connection:
        connection.execute(update(app.store.tables.keys).values(until_at=stands - HOUR))
    retry = app.manage.retry(first.id)
    assert app.manage.retry(first.id) == retry
    assert keys(app) == {first.id: "expiry", retry.id: "end"}
    assert _until_at(app) == retry.refresh()._known().expires_at
    assert fails.using(unique="k").enqueue() == retry
    assert call.enqueue() == first


def _until_at(app: App) -> datetime:
    table = app.store.tables.keys.c
    with app.store.reading() as connection:
        moment: datetime = connection.execute(
            select(table.until_at).where(table.until == "expiry")
        ).scalar_one()
        return moment
