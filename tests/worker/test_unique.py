"""Unique jobs, idempotency keys, children and inherited deadlines, on every database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from sqlalchemy import delete, event, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from duly import Backoff, Context, JobHandle, given
from duly.errors import IdTaken, InvalidOptions, UniqueConflict
from tests.worker import uniqueness
from tests.worker.stage import Stage
from tests.worker.uniqueness import HOUR, Broken, declare, keys, waiting_jobs

RULES = [name for name in vars(uniqueness) if name.startswith("check_")]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.removeprefix("check_"))
def test_rule(stage: Stage, rule: str) -> None:
    getattr(uniqueness, rule)(stage)


# ── what a key is made of ─────────────────────────────────────────────────────────────────────


def test_a_key_is_made_of_the_arguments_as_they_are_stored(sqlite: Stage) -> None:
    app, text_of_one = sqlite.app(), cast("int", "1")

    @app.task(name="tests.computed", unique=lambda order, note="": f"order {order}")
    def computed(order: int, note: str = "") -> None: ...

    @app.task(name="tests.every", unique=True)
    def every(order: int, note: str = "") -> None: ...

    assert computed.enqueue(1) == computed.enqueue(text_of_one, note="x") != computed.enqueue(2)
    assert every.enqueue(1) == every.enqueue(text_of_one) != every.enqueue(1, note="x")
    assert every.using(priority=3, max_attempts=2).enqueue(1) == every.enqueue(1)
    assert every.using(unique=False).enqueue(1) != every.enqueue(1)
    assert computed.using(unique="order 1").enqueue(9) == computed.enqueue(1)


def test_keys_belong_to_their_task_and_kind(sqlite: Stage) -> None:
    app = sqlite.app()
    one, other = declare(app), app.task(name="tests.other")(lambda_free)
    handles = [
        one.using(unique="k").enqueue(), other.using(unique="k").enqueue(), one.using(idempotency_key="k").enqueue()
    ]  # fmt: skip
    assert len(set(handles)) == 3
    both = one.using(unique="k", idempotency_key="j")
    assert both.enqueue() == handles[0]
    assert len(keys(app)) == 3


def lambda_free() -> None: ...


def test_two_calls_of_a_batch_with_one_key_are_one_job(sqlite: Stage) -> None:
    app = sqlite.app()
    plain = declare(app)
    one = plain.using(unique="k")
    first, second, third = app.enqueue_many([one.call(1), one.call(2), plain.call(3)])
    assert first == second != third
    assert one.enqueue(4) == first
    with pytest.raises(UniqueConflict):
        app.enqueue_many([plain.using(unique="j", on_conflict="error").call(n) for n in range(2)])
    assert waiting_jobs(app) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"unique_scope": "waiting"}, "give unique="),
        ({"on_conflict": "replace"}, "give unique="),
        ({"unique": lambda n: ""}, "a text that is not empty"),
        ({"unique": lambda n: 5}, "a text that is not empty"),
        ({"unique": lambda x: x}, "raised TypeError"),
        ({"child": "c"}, "no job is running here"),
    ],
)
def test_what_makes_no_key_is_refused(sqlite: Stage, options: dict[str, Any], words: str) -> None:
    app = sqlite.app()
    plain = declare(app)
    with pytest.raises(InvalidOptions, match=words):
        plain.using(**options).enqueue(n=1)
    assert waiting_jobs(app) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"unique": ""}, {"unique": 5}, {"unique_scope": "forever"}, {"unique_scope": 0}, {"on_conflict": "ignore"},
        {"idempotency_key": ""}, {"idempotency_key": "x" * 1001}, {"idempotency_key": 5}, {"child": ""},
        {"child": "x" * 201},
    ],
)  # fmt: skip
def test_options_out_of_bounds_are_refused(sqlite: Stage, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptions):
        declare(sqlite.app()).using(**options)


def test_the_key_of_a_row_that_was_deleted_by_hand_can_be_had(stage: Stage) -> None:
    app = stage.app()
    plain = declare(app, unique="k")
    first = plain.enqueue()
    with app.store.writing() as connection:
        connection.execute(delete(app.store.tables.jobs))
    second = plain.enqueue()
    assert first != second == plain.enqueue()


def test_a_job_that_is_put_back_unstarted_does_not_take_its_key_again(sqlite: Stage) -> None:
    app = sqlite.app()
    plain = declare(app, unique="k", unique_scope="waiting")
    plain.enqueue()
    worker = sqlite.turned(app, threads=1)
    with app.store.writing() as connection:
        (job,) = app.store.jobs.exchange(connection, worker.id, [], ("default",), 1)[0].claimed
        app.store.rescue.offer_again(connection, [worker.id])
    assert keys(app) == {}
    second = plain.enqueue()
    app.drain()
    assert second.refresh().outcome == "succeeded"
    assert job.claim == 1


def test_a_job_that_runs_inline_releases_its_key(sqlite: Stage) -> None:
    app = sqlite.app()
    with app.inline():
        first = declare(app, unique="k", unique_scope="waiting").enqueue()
    assert first.refresh().outcome == "succeeded"
    assert keys(app) == {}


def test_async_callers_get_the_same_answers(stage: Stage) -> None:
    asyncio.run(ask_async(stage))


async def ask_async(stage: Stage) -> None:
    engine = create_async_engine(stage.database.async_url, poolclass=NullPool)
    app = stage.app(async_engine=engine)
    task = declare(app, unique="k")
    first = await task.aenqueue()
    assert await task.aenqueue() == first
    async with AsyncSession(engine) as session, session.begin():
        assert await task.using(session=session).aenqueue() == first
        second = await task.using(session=session, on_conflict="replace").aenqueue()
    assert second != first
    assert (await app.aenqueue_many([task.call(), task.call()])) == [second, second]


def test_jobs_without_keys_cost_no_statement_about_keys(stage: Stage) -> None:
    app = stage.app()
    plain, said = declare(app, max_attempts=1), []

    @app.task(name="tests.fails", max_attempts=1)
    def fails() -> None:
        raise Broken

    event.listen(app.store.engine, "before_cursor_execute", lambda *seen: said.append(seen[2]))
    plain.enqueue()
    app.enqueue_many([plain.call(), fails.call()])
    plain.enqueue().cancel()
    app.drain()
    assert len(said) > 5
    assert [words for words in said if "duly_keys" in words] == []


# ── children and deadlines ────────────────────────────────────────────────────────────────────


def family(stage: Stage, enqueue: Callable[[Any, Context], Any]) -> tuple[Any, Any]:
    """An app and its parent task, which enqueues a child and then fails, in all its attempts."""
    app = stage.app()
    child = declare(app)

    @app.task(name="tests.parent", retry=Backoff.fixed(60), max_attempts=2, expires_in=HOUR)
    def parent(*, ctx: Context = given) -> None:
        enqueue(child, ctx)
        raise Broken

    return app, parent


def attempts(stage: Stage, app: Any, handle: Any) -> None:
    """Both attempts of a job, one after the other."""
    app.drain()
    stage.make_due(app, handle)
    app.drain()
    assert handle.refresh().outcome == "failed"


def test_a_retried_parent_finds_the_child_that_it_made(stage: Stage) -> None:
    made: list[JobHandle[None]] = []
    app, parent = family(stage, lambda task, ctx: made.append(task.using(child="mail").enqueue(1)))
    handle = parent.enqueue()
    attempts(stage, app, handle)
    app.manage.retry(handle.id)
    app.drain()
    assert len(made) >= 3
    assert len(set(made)) == 1
    assert parent.enqueue() != handle
    app.drain()
    assert len(set(made)) == 2


def test_a_child_with_other_content_is_taken(sqlite: Stage) -> None:
    faults: list[Exception] = []

    def enqueue(task: Any, ctx: Context) -> None:
        try:
            task.using(child="mail").enqueue(ctx.attempt)
        except IdTaken as fault:
            faults.append(fault)

    app, parent = family(sqlite, enqueue)
    attempts(sqlite, app, parent.enqueue())
    assert len(faults) == 1


def test_a_job_enqueued_by_a_job_inherits_its_deadline_unless_the_call_says_otherwise(stage: Stage) -> None:
    made: dict[str, JobHandle[None]] = {}

    def enqueue(task: Any, ctx: Context) -> None:
        made["inherits"] = task.enqueue()
        made["shorter"] = task.using(expires_in=60).enqueue()
        made["longer"] = task.using(expires_in=timedelta(days=2)).enqueue()
        with pytest.raises(InvalidOptions, match="inherited from the job that enqueues it; say expires_in="):
            task.using(run_in=2 * HOUR).enqueue()
        deadline.append(ctx.expires_at)

    deadline: list[datetime] = []
    app, parent = family(stage, enqueue)
    parent.enqueue()
    app.drain()
    expires = {name: handle.refresh()._known().expires_at for name, handle in made.items()}
    assert expires["inherits"] == deadline[-1]
    assert expires["shorter"] < deadline[-1] < expires["longer"]
    outside = declare(stage.app()).enqueue()
    assert outside.refresh()._known().expires_at > datetime.now(UTC) + timedelta(days=80)


def test_a_successor_of_a_transactional_job_is_there_when_it_commits(stage: Stage) -> None:
    from sqlalchemy.orm import Session

    app = stage.app()
    stage.make_effects()

    @app.task(name="tests.poll", effects="transactional", unique="poll", retry=Backoff.fixed(3600))
    def poll(left: int, *, session: Session = given) -> None:
        session.execute(text("INSERT INTO effects VALUES ('turn')"))
        if left:
            poll.using(session=session).enqueue(left - 1)
        if left == 1:
            raise Broken

    poll.enqueue(2)
    assert app.drain() == {"succeeded": 1, "retried": 1}
    assert stage.effects() == ["turn"]
    assert len(keys(app)) == 1
    assert app.manage.overview().states == {"scheduled": 1}
