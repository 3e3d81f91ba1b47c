"""One attempt, from its row to the report of how it ended."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from duly import Backoff, Cancel, Context, Retry, Snooze, given
from duly.envelope.keys import new_key
from duly.errors import DatabaseBusy
from duly.model.events import JobPutBack, Notice, SecurityAlert
from duly.model.report import Ended, PutBack, Released, Succeeded
from duly.model.states import Outcome
from duly.task.context import Stop
from tests.unit.worker.bench import Bench, tampered

SECRET = "hunter2-the-argument"
ONE, TWO = new_key(), new_key()


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def sealed() -> Bench:
    return Bench(keys=ONE)


def raising(bench: Bench, error: Any, **options: Any) -> Any:
    """A task that raises."""

    @bench.app.task(name="raising", **options)
    def fail(text: str = SECRET) -> None:
        raise error

    return fail


# ── 1: too late ───────────────────────────────────────────────────────────────────────────────


def test_a_job_expired_before_its_start_does_not_run(bench: Bench) -> None:
    ran = []

    @bench.app.task(expires_in=60)
    def late() -> None:
        ran.append(1)

    job = bench.job(late.call())
    bench.clock.turn(60)
    report = bench.run(job)
    assert isinstance(report, Ended)
    assert (report.outcome, report.counted, report.started_at) == (Outcome.EXPIRED, False, None)
    assert ran == []


def test_expiry_goes_by_the_databases_clock(bench: Bench) -> None:
    @bench.app.task(expires_in=60)
    def late() -> None: ...

    job = bench.job(late.call())
    bench.app.store.clock.learn(job.expires_at)
    report: Any = bench.run(job)
    assert report.outcome is Outcome.EXPIRED


def test_expired_is_said_before_the_envelope_is_looked_at(sealed: Bench) -> None:
    """A tampered expires_at in the past expires; it needs no key to say so."""
    fail = raising(sealed, ValueError())
    job = sealed.job(fail.call())
    report: Any = sealed.run(tampered(job, expires_at=job.enqueued_at - timedelta(days=1)))
    assert report.outcome is Outcome.EXPIRED
    assert sealed.events == []


# ── 2: the envelope ───────────────────────────────────────────────────────────────────────────

OTHER = UUID("00000000-0000-8000-8000-000000000001")
BOUND: list[tuple[str, Any]] = [
    ("id", OTHER),
    ("origin", OTHER),
    ("task", "other"),
    ("task", "unknown.here"),
    ("queue", "other"),
    ("principal", "root"),
    ("enqueued_at", datetime(2026, 1, 1, tzinfo=UTC)),
    ("expires_at", datetime(2036, 1, 1, tzinfo=UTC)),
]


@pytest.mark.parametrize(("column", "value"), BOUND)
def test_an_edited_bound_column_is_rejected(sealed: Bench, column: str, value: Any) -> None:
    ran = []

    @sealed.app.task(name="good")
    def good(text: str) -> None:
        ran.append(text)

    @sealed.app.task(name="other")
    def other(text: str) -> None:
        ran.append(text)

    job = sealed.job(good.call(SECRET))
    report: Any = sealed.run(tampered(job, **{column: value}))
    assert (type(report), report.outcome, report.counted) == (Ended, Outcome.REJECTED, False)
    assert ran == []
    (alert,) = sealed.events
    assert isinstance(alert, SecurityAlert)
    assert SECRET not in repr(alert) + report.cause


@pytest.mark.parametrize("column", ["priority", "run_at", "attempt", "claim"])
def test_what_is_not_bound_may_change(sealed: Bench, column: str) -> None:
    @sealed.app.task
    def good() -> None: ...

    job = sealed.job(good.call())
    changed = {"run_at": job.run_at + timedelta(1), "priority": 7, "attempt": 3, "claim": 9}[column]
    assert isinstance(sealed.run(tampered(job, **{column: changed})), Succeeded)


def test_every_edited_byte_of_an_envelope_is_rejected_or_unknown(sealed: Bench) -> None:
    @sealed.app.task
    def good(number: int) -> None:
        raise AssertionError("it ran")

    job = sealed.job(good.call(1))
    for place in range(len(job.envelope)):
        edited = bytearray(job.envelope)
        edited[place] ^= 1
        report: Any = sealed.run(tampered(job, envelope=bytes(edited)))
        if isinstance(report, PutBack):
            assert "key" in report.cause  # an edit of the key's id looks like a key that is not here
        else:
            assert report.outcome is Outcome.REJECTED


def test_a_copied_envelope_is_rejected(sealed: Bench) -> None:
    @sealed.app.task
    def pay(to: str) -> None:
        raise AssertionError("it ran")

    one, two = sealed.job(pay.call("a")), sealed.job(pay.call("b"))
    report: Any = sealed.run(tampered(one, envelope=two.envelope))
    assert report.outcome is Outcome.REJECTED


def test_a_plain_envelope_is_rejected_while_keys_are_set(bench: Bench) -> None:
    @bench.app.task
    def good() -> None: ...

    job = bench.job(good.call())
    bench.keyed(ONE)
    report: Any = bench.run(job)
    assert report.outcome is Outcome.REJECTED
    assert [type(event) for event in bench.events] == [SecurityAlert]


@pytest.mark.parametrize("keys", [TWO, None])
def test_an_unknown_key_waits(sealed: Bench, keys: str | None) -> None:
    @sealed.app.task
    def good() -> None: ...

    job = sealed.job(good.call())
    sealed.keyed(keys)
    report: Any = sealed.run(job)
    assert (type(report), report.counted) == (PutBack, False)
    assert [type(event) for event in sealed.events] == [JobPutBack]


def test_a_retired_key_still_opens(sealed: Bench) -> None:
    @sealed.app.task
    def good() -> None: ...

    job = sealed.job(good.call())
    sealed.keyed(f"{TWO},{ONE}")
    assert isinstance(sealed.run(job), Succeeded)


# ── 3 and 4: task and arguments ───────────────────────────────────────────────────────────────


def test_an_unknown_task_waits(bench: Bench) -> None:
    fail = raising(bench, ValueError())
    report: Any = bench.run(bench.job(fail.call(), task="not.here"))
    assert (type(report), report.counted, report.error) == (PutBack, False, None)
    assert "not.here" in report.cause
    (event,) = bench.events
    assert isinstance(event, JobPutBack)
    assert event.problem


def test_arguments_that_no_longer_fit_wait(bench: Bench) -> None:
    @bench.app.task(name="old")
    def old(text: str) -> None: ...

    @bench.app.task(name="new", aliases=["renamed"])
    def new(number: int) -> None: ...

    report: Any = bench.run(bench.job(old.call(SECRET), task="renamed"))
    assert (type(report), report.counted) == (PutBack, False)
    assert [type(event) for event in bench.events] == [JobPutBack]
    assert SECRET not in report.cause + repr(bench.events)


def test_put_back_waits_grow_from_five_seconds_to_five_minutes(bench: Bench) -> None:
    fail = raising(bench, ValueError())
    waits = []
    for claim in range(1, 20):
        report: Any = bench.run(bench.job(fail.call(), task="not.here", claim=claim))
        waits.append(report.after.total_seconds())
    assert waits[:8] == [5, 10, 20, 40, 80, 160, 300, 300]
    assert set(waits[7:]) == {300}


def test_attempts_and_rescues_do_not_make_a_put_back_longer(bench: Bench) -> None:
    fail = raising(bench, ValueError())
    report: Any = bench.run(bench.job(fail.call(), task="not.here", claim=12, attempt=6, rescues=4))
    assert report.after == timedelta(seconds=10)


def test_an_alias_finds_its_task(bench: Bench) -> None:
    @bench.app.task(name="new.name", aliases=["old.name"])
    def renamed() -> None: ...

    assert isinstance(bench.run(bench.job(renamed.call(), task="old.name")), Succeeded)


# ── 5: the call ───────────────────────────────────────────────────────────────────────────────


def test_the_context_says_what_the_row_says(bench: Bench) -> None:
    seen: list[Context] = []

    @bench.app.task(name="look", queue="mail", max_attempts=7)
    def look(*, ctx: Context = given) -> None:
        seen.append(ctx)

    job = bench.job(look.call(), attempt=2, claim=5)
    bench.run(job)
    (ctx,) = seen
    assert (ctx.job_id, ctx.origin, ctx.task, ctx.queue) == (job.id, job.origin, "look", "mail")
    assert (ctx.attempt, ctx.max_attempts, ctx.worker) == (3, 7, "w1")
    assert (ctx.run_at, ctx.expires_at, ctx.enqueued_at) == (job.run_at, job.expires_at, job.enqueued_at)
    assert ctx.idempotency_key == str(job.origin)
    assert not ctx.cancelled
    bench.cancellation.set()
    assert ctx.cancelled


def test_an_asked_for_stop_ends_the_job_as_cancelled(bench: Bench) -> None:
    @bench.app.task
    def patient(*, ctx: Context = given) -> None:
        bench.cancellation.set(Stop.CANCELLED)
        ctx.check()

    report: Any = bench.run(bench.job(patient.call()))
    assert (report.outcome, report.counted, report.error) == (Outcome.CANCELLED, True, None)


def test_an_attempt_of_a_lost_job_does_not_end_it(bench: Bench) -> None:
    """The job is another's by now: this worker has no say in how it ends."""

    @bench.app.task
    def patient(*, ctx: Context = given) -> None:
        bench.cancellation.set(Stop.LOST)
        ctx.check()

    assert isinstance(bench.run(bench.job(patient.call())), Released)


def test_what_goes_wrong_in_a_cancelled_attempt_is_kept(bench: Bench) -> None:
    @bench.app.task
    def clumsy() -> None:
        bench.cancellation.set(Stop.CANCELLED)
        raise ValueError("while it tidied up")

    job = bench.job(clumsy.call())
    report: Any = bench.run(job)
    assert (report.outcome, report.counted) == (Outcome.CANCELLED, True)
    assert bench.trouble(job, report).message == "while it tidied up"


def test_async_and_sync_tasks_run_alike(bench: Bench) -> None:
    ran = []

    @bench.app.task
    def sync(a: int, *, b: str = "x") -> None:
        ran.append(("sync", a, b))

    @bench.app.task
    async def coroutine(a: int, *, b: str = "x") -> None:
        await asyncio.sleep(0)
        ran.append(("async", a, b))

    for task in (sync, coroutine):
        report = bench.run(bench.job(task.call(3, b="y")))
        assert isinstance(report, Succeeded)
        assert report.started_at == bench.clock.wall()
    assert ran == [("sync", 3, "y"), ("async", 3, "y")]


def test_an_async_task_past_its_run_time_has_failed_once(bench: Bench) -> None:
    @bench.app.task(max_run_time=0.01)
    async def endless() -> None:
        await asyncio.Event().wait()

    report: Any = bench.run(bench.job(endless.call()))
    assert (type(report), report.counted) == (PutBack, True)
    assert report.cause == "over its max_run_time of 0.01 s"


def test_a_cancelled_async_attempt_is_given_back(bench: Bench) -> None:
    @bench.app.task
    async def endless(*, ctx: Context = given) -> None:
        await asyncio.Event().wait()

    async def cancelled() -> Any:
        attempt: Any = bench.executor.prepare(bench.job(endless.call()), "w1", bench.cancellation)
        running = asyncio.create_task(bench.executor.acall(attempt))
        await asyncio.sleep(0)
        bench.cancellation.set()
        running.cancel()
        return await running

    assert isinstance(asyncio.run(cancelled()), Released)


def test_a_cancellation_that_is_not_ours_is_a_failed_attempt(bench: Bench) -> None:
    fail = raising(bench, asyncio.CancelledError())
    report: Any = bench.run(bench.job(fail.call()))
    assert (type(report), report.counted, report.cause) == (PutBack, True, "CancelledError")


# ── 6: what became of it ──────────────────────────────────────────────────────────────────────


def test_an_exception_is_a_failed_attempt_and_another_follows(bench: Bench) -> None:
    fail = raising(bench, ValueError(SECRET))
    job = bench.job(fail.call())
    report: Any = bench.run(job)
    assert (type(report), report.counted, report.cause) == (PutBack, True, "ValueError")
    assert report.after == timedelta(seconds=1**4 + 5)
    assert bench.trouble(job, report).message == SECRET
    again: Any = bench.run(bench.job(fail.call(), attempt=2))
    assert again.after == timedelta(seconds=3**4 + 5)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseException("x")])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_even_what_ends_a_process_is_only_a_failed_attempt(
    bench: Bench, error: BaseException, kind: str
) -> None:
    if kind == "sync":
        fail = raising(bench, error)
    else:

        @bench.app.task(name="raising")
        async def fail() -> None:
            raise error

    report: Any = bench.run(bench.job(fail.call()))
    assert (type(report), report.counted, report.cause) == (PutBack, True, type(error).__name__)


def test_the_last_attempt_ends_the_job_as_failed(bench: Bench) -> None:
    fail = raising(bench, ValueError(SECRET), max_attempts=3)
    assert isinstance(bench.run(bench.job(fail.call(), attempt=1)), PutBack)
    job = bench.job(fail.call(), attempt=2)
    report: Any = bench.run(job)
    assert (type(report), report.outcome, report.counted) == (Ended, Outcome.FAILED, True)
    assert report.cause == "ValueError in attempt 3, the last"
    assert bench.trouble(job, report).type == "ValueError"


def test_without_a_word_there_are_25_attempts(bench: Bench) -> None:
    fail = raising(bench, ValueError())
    assert isinstance(bench.run(bench.job(fail.call(), attempt=23)), PutBack)
    assert isinstance(bench.run(bench.job(fail.call(), attempt=24)), Ended)


AT = datetime(2026, 5, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("error", "counted", "after", "at"),
    [
        (Retry(after=7), True, timedelta(seconds=7), None),
        (Retry(after=timedelta(minutes=2)), True, timedelta(minutes=2), None),
        (Retry(at=AT), True, None, AT),
        (Retry("by the rule"), True, timedelta(seconds=6), None),
        (Snooze(after=7), False, timedelta(seconds=7), None),
        (Snooze(at=AT), False, None, AT),
        (Snooze(), False, timedelta(seconds=60), None),
    ],
)
def test_a_task_may_say_when_it_comes_again(
    bench: Bench, error: Any, counted: bool, after: Any, at: Any
) -> None:
    report: Any = bench.run(bench.job(raising(bench, error).call()))
    assert (type(report), report.counted, report.after, report.at) == (PutBack, counted, after, at)


def test_a_retry_in_the_last_attempt_ends_the_job_as_failed(bench: Bench) -> None:
    report: Any = bench.run(bench.job(raising(bench, Retry(after=1), max_attempts=1).call()))
    assert (report.outcome, report.counted) == (Outcome.FAILED, True)


def test_a_snooze_in_the_last_attempt_is_still_a_snooze(bench: Bench) -> None:
    report: Any = bench.run(bench.job(raising(bench, Snooze(), max_attempts=1).call()))
    assert isinstance(report, PutBack)


def test_a_task_may_cancel_its_job(bench: Bench) -> None:
    report: Any = bench.run(bench.job(raising(bench, Cancel(SECRET)).call()))
    assert (report.outcome, report.counted) == (Outcome.CANCELLED, True)
    assert SECRET not in report.cause


def test_a_database_error_of_a_task_that_is_not_transactional_counts(bench: Bench) -> None:
    report: Any = bench.run(bench.job(raising(bench, DatabaseBusy("locked")).call()))
    assert (type(report), report.counted) == (PutBack, True)


def test_causes_hold_the_exceptions_class_alone(bench: Bench) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            return SECRET

    fail = raising(bench, Odd())
    for attempt in (0, 24):
        report: Any = bench.run(bench.job(fail.call(), attempt=attempt))
        assert "Odd" in report.cause
        assert SECRET not in report.cause


def test_errors_are_sealed_with_a_key(sealed: Bench) -> None:
    fail = raising(sealed, ValueError(SECRET))
    job = sealed.job(fail.call())
    report: Any = sealed.run(job)
    assert SECRET.encode() not in report.error
    assert not report.error.startswith(b"{")
    assert sealed.trouble(job, report).message == SECRET


def test_an_exception_that_cannot_be_shown_harms_nobody(bench: Bench) -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("twice")

    job = bench.job(raising(bench, Broken()).call())
    report: Any = bench.run(job)
    assert "cannot be shown" in bench.trouble(job, report).message


# ── results ───────────────────────────────────────────────────────────────────────────────────


def test_a_result_is_kept_only_where_asked(bench: Bench) -> None:
    @bench.app.task
    def number() -> Decimal:
        return Decimal("1.50")

    plain: Any = bench.run(bench.job(number.call()))
    kept: Any = bench.run(bench.job(number.using(keep_result=True).call()))
    assert plain.result is None
    assert number.signature.result.load(kept.result) == Decimal("1.50")


def test_a_result_is_sealed_and_bound_to_its_job(sealed: Bench) -> None:
    @sealed.app.task(keep_result=True)
    def secret() -> str:
        return SECRET

    job, other = sealed.job(secret.call()), sealed.job(secret.call())
    report: Any = sealed.run(job)
    assert SECRET.encode() not in report.result
    body = sealed.app.sealer.open("result", job.binding, report.result)
    assert secret.signature.result.load(body) == SECRET
    with pytest.raises(Exception, match="does not open"):
        sealed.app.sealer.open("result", other.binding, report.result)
    with pytest.raises(Exception, match="does not open"):
        sealed.app.sealer.open("arguments", job.binding, report.result)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_result_that_cannot_be_kept_ends_the_job_as_failed(bench: Bench, kind: str) -> None:
    """Its effects stand: to run it again would only double them."""
    value: Any = object()
    if kind == "sync":

        @bench.app.task(name="odd", keep_result=True)
        def odd() -> int:
            return value  # type: ignore[no-any-return]
    else:

        @bench.app.task(name="odd", keep_result=True)
        async def odd() -> int:
            return value  # type: ignore[no-any-return]

    report: Any = bench.run(bench.job(odd.call()))
    assert (type(report), report.outcome, report.cause) == (
        Ended,
        Outcome.FAILED,
        "its result cannot be kept",
    )


def test_an_odd_result_that_nobody_keeps_harms_nobody(bench: Bench) -> None:
    @bench.app.task
    def odd() -> Any:
        return object()

    assert isinstance(bench.run(bench.job(odd.call())), Succeeded)


# ── options ───────────────────────────────────────────────────────────────────────────────────


def _levels(**said: Any) -> Any:
    """An app where each level says what *said* gives it; the report of a failed attempt in queue ``q``."""
    bench = Bench(**said.get("app", {}), queues={"q": said.get("queue", {})})
    fail = raising(bench, ValueError(), queue="q", **said.get("task", {}))
    return bench.run(bench.job(fail.using(**said.get("call", {})).call()))


def test_the_nearer_level_wins() -> None:
    retry = {
        level: {"retry": Backoff.fixed(n)} for n, level in enumerate(("app", "queue", "task", "call"), 1)
    }
    assert _levels(**retry).after == timedelta(seconds=4)
    del retry["call"]
    assert _levels(**retry).after == timedelta(seconds=3)
    del retry["task"]
    assert _levels(**retry).after == timedelta(seconds=2)
    del retry["queue"]
    assert _levels(**retry).after == timedelta(seconds=1)
    assert _levels().after == timedelta(seconds=6)


def test_a_level_that_says_one_thing_leaves_the_rest_to_the_others() -> None:
    report = _levels(app={"max_attempts": 1}, task={"retry": Backoff.fixed(9)})
    assert report.outcome is Outcome.FAILED
    report = _levels(app={"max_attempts": 1}, queue={"max_attempts": 2}, task={"retry": Backoff.fixed(9)})
    assert report.after == timedelta(seconds=9)


def test_options_of_a_queue_are_those_of_the_queue_the_call_chose() -> None:
    bench = Bench(queues={"a": {"max_attempts": 1}, "b": {"max_attempts": 2}})
    fail = raising(bench, ValueError(), queue="a")
    assert isinstance(bench.run(bench.job(fail.call())), Ended)
    assert isinstance(bench.run(bench.job(fail.using(queue="b").call())), PutBack)


def test_options_of_a_call_travel_sealed_and_win_over_a_new_deploy(sealed: Bench) -> None:
    fail = raising(sealed, ValueError(), max_attempts=1)
    report = sealed.run(sealed.job(fail.using(max_attempts=2, max_run_time=3).call()))
    assert isinstance(report, PutBack)


# ── what is ours ──────────────────────────────────────────────────────────────────────────────


def test_a_fault_of_ours_puts_the_job_back_and_says_so(bench: Bench) -> None:
    fail = raising(bench, ValueError())
    job = bench.job(fail.call())
    report = bench.executor.broken(job, RuntimeError(SECRET))
    assert (report.counted, report.error) == (False, None)
    assert SECRET not in report.cause
    (notice,) = bench.events
    assert isinstance(notice, Notice)
    assert notice.level == "error"
