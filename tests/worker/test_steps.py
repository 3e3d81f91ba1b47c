"""What a running attempt keeps for those that follow it: durable steps, and what happens once."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from duly import Backoff, Context, given
from duly.envelope.keys import new_key
from duly.errors import (
    ContextError,
    DatabaseUnavailable,
    LeaseLost,
)
from duly.model.events import JobPutBack, LeaseWasLost, SecurityAlert
from duly.store.onces import Onces
from duly.task.current import current
from duly.worker.steps import AttemptNotebook
from tests.worker.play import WRITE, Doing, Play
from tests.worker.stage import App, Stage
from tests.worker.test_isolation import Wards, ward  # noqa: F401 - a fixture

ONE, TWO = new_key(), new_key()
AT_ONCE: dict[str, Any] = {"effects": "idempotent", "retry": Backoff.fixed(0.0)}


@dataclasses.dataclass
class Receipt:
    number: int
    paid: tuple[str, ...]


class Till:
    """What is called in steps, and how often."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def pay(self, number: int, *, name: str = "cash") -> Receipt:
        self.calls.append(number)
        return Receipt(number, (name,))

    async def apay(self, number: int) -> Receipt:
        await asyncio.sleep(0)
        return self.pay(number)


@pytest.fixture
def till() -> Till:
    return Till()


def stored(app: App) -> list[Any]:
    steps = app.store.tables.steps
    with app.store.reading() as connection:
        return list(connection.execute(select(steps).order_by(steps.c.name)))


# ── steps ─────────────────────────────────────────────────────────────────────────────────────


def check_a_retry_goes_on_behind_what_was_done(stage: Stage) -> None:
    app, till, results = stage.app(), Till(), []

    @app.task(**AT_ONCE)
    def order(*, ctx: Context = given) -> None:
        results.append(ctx.step("pay", till.pay, 1, name="card"))
        if ctx.attempt < 3:
            raise ValueError("after the step")
        results.append(ctx.step("send", till.pay, 2))

    handle = order.enqueue()
    app.drain()
    assert handle.refresh().outcome == "succeeded"
    assert till.calls == [1, 2]
    assert results == [Receipt(1, ("card",))] * 3 + [Receipt(2, ("cash",))]


def test_a_retry_goes_on_behind_what_was_done(stage: Stage) -> None:
    check_a_retry_goes_on_behind_what_was_done(stage)


def test_so_do_async_tasks_whose_steps_may_be_sync(sqlite: Stage, till: Till) -> None:
    app, results = sqlite.app(), []

    @app.task(**AT_ONCE)
    async def order(*, ctx: Context = given) -> None:
        both = (ctx.astep("pay", till.apay, 1), ctx.astep("send", till.pay, 2))
        results.append(await asyncio.gather(*both))
        if ctx.attempt == 1:
            raise ValueError("after the steps")

    order.enqueue()
    app.drain()
    assert sorted(till.calls) == [1, 2]
    assert results == [[Receipt(1, ("cash",)), Receipt(2, ("cash",))]] * 2


def test_a_step_that_failed_was_not_done(sqlite: Stage) -> None:
    app, calls = sqlite.app(), []

    def pay(fail: bool) -> int:
        calls.append(fail)
        if fail:
            raise ConnectionError
        return 7

    @app.task(keep_result=True)
    def order(*, ctx: Context = given) -> int:
        with contextlib.suppress(ConnectionError):
            ctx.step("pay", pay, True)
        return ctx.step("pay", pay, False)

    handle = order.enqueue()
    app.drain()
    assert (handle.result(), calls) == (7, [True, False])


def test_a_manual_retry_goes_on_there_too(stage: Stage, till: Till) -> None:
    app, broken = stage.app(), [True]

    @app.task(max_attempts=1)
    def order(*, ctx: Context = given) -> None:
        ctx.step("pay", till.pay, 1)
        if broken:
            raise ValueError

    handle = order.enqueue()
    app.drain()
    before = stored(app)[0].expires_at
    broken.clear()
    again = app.manage.retry(handle.id)
    assert stored(app)[0].expires_at > before
    app.drain()
    assert again.refresh().outcome == "succeeded"
    assert till.calls == [1]


def check_an_attempt_that_lost_its_job_does_no_more_steps(stage: Stage) -> None:
    """A frozen worker wakes up: its job is another's, and the step under way is the last."""
    app, till, raised = stage.app(), Till(), []

    @app.task(**AT_ONCE)
    def order(*, ctx: Context = given) -> None:
        def pay() -> int:
            stage.alter(app, ctx.job_id, claim=9)
            till.calls.append(1)
            return 1

        for name, step in (("pay", pay), ("send", lambda: till.pay(2))):
            try:
                ctx.step(name, step)
            except LeaseLost as error:
                raised.append(error)
        raise raised[0]

    order.enqueue()
    turned = stage.turned(app)
    turned.until(lambda: len(raised) == 2, "both steps")
    turned.until(lambda: app.journal.of(LeaseWasLost), "the loss")
    assert till.calls == [1]
    assert stored(app) == []


def test_an_attempt_that_lost_its_job_does_no_more_steps(stage: Stage) -> None:
    check_an_attempt_that_lost_its_job_does_no_more_steps(stage)


@pytest.mark.parametrize("landed", [True, False])
def test_what_was_done_is_recorded_though_the_reply_was_lost(
    postgresql: Stage, till: Till, monkeypatch: pytest.MonkeyPatch, landed: bool
) -> None:
    app, lost = postgresql.app(), []
    tending = app.store.tending

    @contextlib.contextmanager
    def once_in_vain() -> Iterator[Any]:
        with tending() as connection:
            yield connection
            if not lost and not landed:
                lost.append(1)
                raise DatabaseUnavailable("before the COMMIT")
        if not lost:
            lost.append(1)
            raise DatabaseUnavailable("after the COMMIT")

    @app.task(keep_result=True)
    def order(*, ctx: Context = given) -> Receipt:
        monkeypatch.setattr(app.store, "tending", once_in_vain)
        try:
            return ctx.step("pay", till.pay, 1)
        finally:
            monkeypatch.undo()

    handle = order.enqueue()
    app.drain()
    assert (handle.result(), till.calls, lost) == (Receipt(1, ("cash",)), [1], [1])
    assert len(stored(app)) == 1


def test_a_cancelled_async_step_is_still_recorded(sqlite: Stage, till: Till) -> None:
    app, tried = sqlite.app(), []

    @app.task(**AT_ONCE)
    async def order(*, ctx: Context = given) -> None:
        async def pay() -> Receipt:
            asyncio.get_running_loop().call_soon(step.cancel)  # it comes while the result is recorded
            return till.pay(1)

        step = asyncio.ensure_future(ctx.astep("pay", pay))
        with contextlib.suppress(asyncio.CancelledError):
            await step
        tried.append(step.cancelled())

    order.enqueue()
    app.drain()
    assert (tried, [row.name for row in stored(app)]) == ([True], ["pay"])


def test_steps_of_transactional_tasks_outlast_a_rollback_where_two_may_write(some: Play, till: Till) -> None:
    refused = []

    def do(doing: Doing) -> None:
        doing.write("effect")
        try:
            if some.kind.startswith("async"):
                doing._run(doing.ctx.astep("pay", till.apay, 1))
            else:
                doing.ctx.step("pay", till.pay, 1)
        except ContextError as error:
            refused.append(str(error))
        raise ValueError

    some.does(do)
    some.run()
    assert some.effects == []
    if some.stage.sqlite:
        assert (till.calls, stored(some.app)) == ([], [])
        assert "on SQLite a transactional task keeps all others from writing" in refused[0]
    else:
        assert (till.calls, refused, len(stored(some.app))) == ([1], [], 1)


def test_a_session_that_would_keep_its_own_step_waiting_is_found_before(stage: Stage, till: Till) -> None:
    app, refused = stage.app(), []
    stage.make_effects()

    @app.task(effects="idempotent")
    def order(*, session: Session = given, ctx: Context = given) -> None:
        ctx.step("first", till.pay, 1)
        session.execute(WRITE, {"name": "effect"})
        try:
            ctx.step("second", till.pay, 2)
        except ContextError as error:
            refused.append(str(error))
            session.commit()
        ctx.step("third", till.pay, 3)

    handle = order.enqueue()
    app.drain()
    assert handle.refresh().outcome == "succeeded"
    assert till.calls == ([1, 3] if stage.sqlite else [1, 2, 3])
    assert [*map(len, refused)] == ([len(refused[0])] if stage.sqlite else [])
    assert stage.effects() == ["effect"]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_isolated_task_has_them_too(
    ward: Wards,  # noqa: F811
    sqlite: Stage,
    kind: str,
) -> None:
    app = sqlite.app()

    def pay() -> int:
        return 7

    @app.task(isolated=True, keep_result=True)
    def order(*, ctx: Context = given) -> tuple[int, bool]:
        return ctx.step("pay", pay), current() is ctx

    @app.task(isolated=True, keep_result=True)
    async def aorder(*, ctx: Context = given) -> tuple[int, bool]:
        return await ctx.astep("pay", pay), current() is ctx

    report: Any = ward(app).run((order if kind == "sync" else aorder).enqueue())
    assert report.result == b'{"v":1,"r":[7,true]}'
    assert [row.result for row in stored(app)] == [b'{"v":1,"r":7}']


# ── results ───────────────────────────────────────────────────────────────────────────────────


def test_a_result_that_cannot_be_kept_ends_the_job_at_once(sqlite: Stage) -> None:
    app, calls = sqlite.app(), []

    def pay() -> int:
        calls.append(1)
        return "seven"  # type: ignore[return-value]

    @app.task(**AT_ONCE)
    def order(*, ctx: Context = given) -> None:
        ctx.step("pay", pay)

    handle = order.enqueue()
    app.drain()
    assert handle.refresh().outcome == "failed"
    ended: Any = sqlite.ended(app, handle)
    assert ended["cause"] == "the result of a step cannot be kept"
    assert "step 'pay' of" in (handle.error or "")
    assert calls == [1]


def test_with_keys_a_recorded_result_is_sealed_to_its_step(
    sqlite: Stage, till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DULY_KEYS", ONE)
    app, results = sqlite.app(), []

    @app.task(**AT_ONCE)
    def order(edit: bool, *, ctx: Context = given) -> None:
        ctx.step("small", till.pay, 1, name="hunter2")
        results.append(ctx.step("large", till.pay, 1000))
        if edit and ctx.attempt == 1:
            swap(ctx)
        if ctx.attempt == 1:
            raise ValueError

    def swap(ctx: Context) -> None:
        steps = app.store.tables.steps
        mine = {row.name: row.result for row in stored(app) if row.origin == ctx.origin}
        with app.store.writing() as connection:
            where = (steps.c.origin == ctx.origin, steps.c.name == "large")
            connection.execute(update(steps).where(*where).values(result=mine["small"]))

    good, bad = order.enqueue(False), order.enqueue(True)
    app.drain()
    assert (good.refresh().outcome, bad.refresh().outcome) == ("succeeded", "failed")
    assert results == [Receipt(1000, ("cash",))] * 3
    assert till.calls == [1, 1000] * 2
    assert [alert.id for alert in app.journal.of(SecurityAlert)] == [bad.id]
    for row in stored(app):
        assert row.key_id == ONE.partition(":")[0]
        assert b"hunter2" not in row.result


def test_a_step_whose_key_is_not_here_yet_waits(
    sqlite: Stage, till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DULY_KEYS", f"{TWO},{ONE}")
    newer = sqlite.app()
    monkeypatch.setenv("DULY_KEYS", ONE)
    older = sqlite.app()

    def declare(app: App) -> Any:
        @app.task(name="order", retry=Backoff.fixed(0.0))
        def order(*, ctx: Context = given) -> None:
            ctx.step("pay", till.pay, 1)
            raise ValueError

        return order

    declare(newer)
    handle = declare(older).enqueue()
    turned = sqlite.turned(newer, threads=1)
    turned.until(lambda: stored(newer), "the step")
    turned.until(lambda: not turned.held, "the end of the attempt")
    turned.leave()
    attempts = handle.refresh().attempts
    older.drain()
    assert (handle.refresh().state, handle.attempts) == ("scheduled", attempts)
    assert [event.problem for event in older.journal.of(JobPutBack)] == [True, False]
    assert till.calls == [1]


# ── once ──────────────────────────────────────────────────────────────────────────────────────


def check_once_stands_or_falls_with_the_task(stage: Stage) -> None:
    app, answers = stage.app(), []

    @app.task(effects="transactional", retry=Backoff.fixed(0.0))
    def greet(fail: bool, *, session: Session = given, ctx: Context = given) -> None:
        answers.append(ctx.once("welcome 7"))
        if fail and ctx.attempt == 1:
            raise ValueError

    greet.enqueue(True)
    app.drain()
    greet.enqueue(False)
    app.drain()
    assert answers == [True, True, False]


def test_once_stands_or_falls_with_the_task(stage: Stage) -> None:
    check_once_stands_or_falls_with_the_task(stage)


def test_once_in_whatever_the_task_writes_with(play: Play) -> None:
    answers = []

    def ask(doing: Doing) -> None:
        if play.kind.startswith("async"):
            answers.append(doing._run(doing.ctx.aonce("key")))
        else:
            answers.append(doing.ctx.once("key"))

    play.does(ask)
    turned = play.turned()
    jobs = [play.run(turned), play.run(turned)]
    assert [job.error for job in jobs] == [None, None]
    assert answers == [True, False]


def test_once_in_a_session_of_its_own_commits_with_it(stage: Stage) -> None:
    app, answers = stage.app(), []

    @app.task(max_attempts=1)
    def greet(fail: bool, *, session: Session = given, ctx: Context = given) -> None:
        answers.append(ctx.once("welcome", keep=timedelta(hours=1)))
        if fail:
            raise ValueError

    for fail in (True, False, False):
        greet.enqueue(fail)
        app.drain()
    assert answers == [True, True, False]


def test_once_without_a_session_says_what_to_do(sqlite: Stage) -> None:
    app, said = sqlite.app(), []

    @app.task
    def greet(*, ctx: Context = given) -> None:
        for wrong in (
            lambda: ctx.once("key"),
            lambda: ctx.once(""),
            lambda: ctx.once("k", keep=timedelta(0)),
        ):
            with pytest.raises(ContextError) as caught:
                wrong()
            said.append(str(caught.value))

    @app.task
    async def agreet(*, ctx: Context = given) -> None:
        for wrong in (lambda: ctx.once("key"), lambda: ctx.step("pay", int)):
            with pytest.raises(ContextError) as caught:
                wrong()
            said.append(str(caught.value))

    handles = [greet.enqueue(), agreet.enqueue()]
    app.drain()
    assert [handle.refresh().outcome for handle in handles] == ["succeeded"] * 2
    assert "session: Session = given" in " ".join(said)
    assert "await ctx.aonce(key)" in " ".join(said)
    assert "await ctx.astep(" in " ".join(said)


# ── the context around them ───────────────────────────────────────────────────────────────────


def test_whoever_is_called_by_a_job_finds_its_context(sqlite: Stage) -> None:
    app, found = sqlite.app(), []

    def deep() -> None:
        ctx = current()
        found.append(None if ctx is None else ctx.task)

    @app.task(name="plain")
    def plain() -> None:
        deep()

    @app.task(name="async")
    async def asynchronous() -> None:
        await asyncio.gather(asyncio.to_thread(deep), asyncio.sleep(0))

    @app.task(name="transactional", effects="transactional")
    def transactional() -> None:
        deep()

    for task in (plain, asynchronous, transactional):
        task.enqueue()
        app.drain()
    deep()
    assert found == ["plain", "async", "transactional", None]


def test_a_job_that_runs_inside_another_has_its_own(sqlite: Stage) -> None:
    app, found = sqlite.app(), []

    def here() -> str:
        ctx = current()
        assert ctx is not None
        return ctx.task

    @app.task(name="inner")
    def inner() -> None:
        found.append(here())

    @app.task(name="ainner")
    async def ainner() -> None:
        found.append(here())

    @app.task(name="outer")
    def outer() -> None:
        inner.enqueue()
        ainner.enqueue()
        found.append(here())

    with app.inline():
        outer.enqueue()
    assert found == ["inner", "ainner", "outer"]


@pytest.mark.parametrize("effects", [None, "transactional"])
def test_the_deadline_is_what_comes_first(sqlite: Stage, effects: Any) -> None:
    app, seen = sqlite.app(), []
    limits: dict[str, Any] = {"max_run_time": timedelta(minutes=5)}

    @app.task(name="both", effects=effects, **limits)
    def both(*, ctx: Context = given) -> None:
        assert ctx.started_at is not None
        run_out = ctx.started_at + timedelta(minutes=5)
        seen.append((ctx.deadline == run_out, ctx.deadline == ctx.expires_at))
        assert timedelta(0) < ctx.remaining() <= timedelta(minutes=5)

    both.using(expires_in=timedelta(hours=1)).enqueue()
    both.using(expires_in=timedelta(minutes=1)).enqueue()
    app.drain()
    assert sorted(seen) == [(False, True), (True, False)]


# ── mutants ───────────────────────────────────────────────────────────────────────────────────


def forget(patch: pytest.MonkeyPatch) -> None:
    """What was recorded is not looked for."""
    patch.setattr(AttemptNotebook, "find", lambda self, name: None)


def no_look_first(patch: pytest.MonkeyPatch) -> None:
    """The fence is asked for when the step has been done."""
    sound: Any = AttemptNotebook.find

    def find(self: AttemptNotebook, name: str) -> Any:
        with contextlib.suppress(LeaseLost):
            return sound(self, name)

    patch.setattr(AttemptNotebook, "find", find)


def own_transaction(patch: pytest.MonkeyPatch) -> None:
    """Once is written for itself."""
    sound: Any = Onces.take

    def take(self: Onces, connection: Any, *rest: Any) -> bool:
        with connection.engine.begin() as other:
            return bool(sound(self, other, *rest))

    patch.setattr(Onces, "take", take)


Check = Callable[[Stage], None]
MUTANTS: list[tuple[Callable[[pytest.MonkeyPatch], None], Check]] = [
    (forget, check_a_retry_goes_on_behind_what_was_done),
    (no_look_first, check_an_attempt_that_lost_its_job_does_no_more_steps),
    (own_transaction, check_once_stands_or_falls_with_the_task),
]


@pytest.mark.parametrize(("mutate", "check"), MUTANTS, ids=[mutate.__name__ for mutate, _ in MUTANTS])
def test_the_check_notices(
    postgresql: Stage, monkeypatch: pytest.MonkeyPatch, mutate: Any, check: Check
) -> None:
    postgresql.patience = 1.0
    mutate(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(postgresql)
