"""The walk of a step, and contexts made by hand, as tests of tasks make them."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from pydantic import SecretStr

from duly.errors import Cancel, ContextError, DeclarationError, StepRefused
from duly.task import Context
from duly.task.current import current

if TYPE_CHECKING:
    from decimal import Decimal

NOW = datetime.now(UTC)


@pytest.fixture
def ctx() -> Context:
    return Context(
        job_id=uuid4(), origin=uuid4(), task="shop.send", queue="mail", attempt=1, max_attempts=25,
        enqueued_at=NOW, run_at=NOW, expires_at=NOW + timedelta(hours=1), worker="w1",
    )  # fmt: skip


def another_attempt(ctx: Context) -> Context:
    return dataclasses.replace(ctx, attempt=ctx.attempt + 1)


# ── by hand ───────────────────────────────────────────────────────────────────────────────────


def test_a_context_made_by_hand_remembers_steps_for_its_next_attempt(ctx: Context) -> None:
    calls = []

    def pay(n: int) -> tuple[int, ...]:
        calls.append(n)
        return (n,)

    assert ctx.step("pay", pay, 1) == (1,)
    assert another_attempt(ctx).step("pay", pay, 1) == (1,)
    assert asyncio.run(another_attempt(another_attempt(ctx)).astep("pay", pay, 1)) == (1,)
    assert calls == [1]


def test_and_what_was_done_once(ctx: Context) -> None:
    assert [ctx.once("a"), another_attempt(ctx).once("a"), asyncio.run(ctx.aonce("b"))] == [True, False, True]


def test_its_time_is_the_machines(ctx: Context) -> None:
    assert ctx.deadline == ctx.expires_at
    assert timedelta(0) < ctx.remaining() <= timedelta(hours=1)
    late = dataclasses.replace(ctx, started_at=NOW - timedelta(minutes=5), max_run_time=timedelta(minutes=4))
    assert late.deadline == NOW - timedelta(minutes=1)
    assert late.remaining() == timedelta(0)
    assert current() is None


# ── what cannot be a step ─────────────────────────────────────────────────────────────────────


def test_a_name_is_used_once_in_an_attempt(ctx: Context) -> None:
    """Else every turn of a loop but the first would be taken for done."""
    ctx.step("pay", int)
    with pytest.raises(ContextError, match="was there already in this attempt"):
        ctx.step("pay", int)


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 201, 7])
def test_a_name_is_short_printable_text(ctx: Context, name: Any) -> None:
    with pytest.raises(ContextError, match="name of a step"):
        ctx.step(name, int)


def test_a_step_has_no_steps_inside(ctx: Context) -> None:
    with pytest.raises(ContextError, match="inside another step"):
        ctx.step("outer", lambda: ctx.step("inner", int))

    async def outer() -> None:
        async def inner() -> int:
            return 1

        await asyncio.create_task(ctx.astep("inner", inner))

    with pytest.raises(ContextError, match="inside another step"):
        asyncio.run(ctx.astep("outer", outer))
    assert ctx.step("inner", int) == 0


def test_two_steps_may_run_side_by_side(ctx: Context) -> None:
    async def both() -> list[int]:
        async def wait(n: int) -> int:
            await asyncio.sleep(0)
            return n

        return await asyncio.gather(ctx.astep("a", wait, 1), ctx.astep("b", wait, 2))

    assert asyncio.run(both()) == [1, 2]


def test_an_async_function_is_not_for_step(ctx: Context) -> None:
    ran = []

    async def pay() -> None:
        ran.append(1)

    for function in (pay, functools.partial(pay)):
        with pytest.raises(ContextError, match="astep"):
            ctx.step("pay", function)
    with pytest.raises(ContextError, match="returned an awaitable"):
        ctx.step("pay", lambda: pay())  # noqa: PLW0108 - that is what it is about
    assert ran == []


def test_no_step_begins_when_the_attempt_should_stop(ctx: Context) -> None:
    ctx.cancellation.set()
    with pytest.raises(Cancel):
        ctx.step("pay", int)
    with pytest.raises(Cancel):
        asyncio.run(ctx.astep("pay", int))


# ── results ───────────────────────────────────────────────────────────────────────────────────


def test_a_type_that_cannot_be_stored_is_refused_before_the_call(ctx: Context) -> None:
    ran = []

    def secret() -> SecretStr:
        ran.append(1)
        return SecretStr("x")

    def unseen() -> Decimal:  # imported for type checkers alone
        ran.append(1)
        raise AssertionError

    with pytest.raises(DeclarationError, match=r"step 'pay' of this task: its result \(.*SecretStr\)"):
        ctx.step("pay", secret)
    with pytest.raises(DeclarationError, match="step 'pay' of this task: the type that its function returns"):
        ctx.step("pay", unseen)
    assert ran == []


def test_hints_of_parameters_need_not_be_there(ctx: Context) -> None:
    def pay(amount: Decimal) -> int:
        return int(amount)

    assert ctx.step("pay", pay, "7") == 7  # type: ignore[arg-type]


def test_a_value_that_does_not_come_back_is_refused_after_the_call(ctx: Context) -> None:
    def wrong() -> int:
        return "many"  # type: ignore[return-value]

    with pytest.raises(StepRefused, match="step 'pay' of this task: the result does not fit"):
        ctx.step("pay", wrong)
    with pytest.raises(StepRefused, match="is of type tuple, and would come back as list"):
        ctx.step("lambda", lambda: (1, 2))


def test_the_type_is_found_wherever_the_function_hides_it(ctx: Context) -> None:
    class Bank:
        def pay(self) -> frozenset[int]:
            return frozenset({1})

    @functools.wraps(Bank.pay)
    def wrapped(*args: Any) -> Any:
        return frozenset({2})

    def soon() -> Awaitable[set[int]]:
        async def later() -> set[int]:
            return {3}

        return later()

    assert ctx.step("method", Bank().pay) == frozenset({1})
    assert ctx.step("wrapped", wrapped) == frozenset({2})
    assert ctx.step("partial", functools.partial(Bank.pay, Bank())) == frozenset({1})
    assert ctx.step("class", frozenset, [3]) == frozenset({3})
    assert asyncio.run(ctx.astep("awaitable", soon)) == {3}
