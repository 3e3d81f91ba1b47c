"""Unrepeatable tasks: never called twice under one job, unless they say themselves that nothing has happened.

The checks are seen to notice a worker that breaks its rule, at the end of the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from duly import Backoff, Cancel, Context, Retry, Snooze, given
from duly.envelope.keys import new_key
from duly.envelope.seal import Sealer
from duly.errors import DatabaseUnavailable
from duly.model.events import JobEnded, JobPutBack, LeaseWasLost
from duly.model.job import step_binding
from duly.settings import Settings
from duly.store.marks import Marks
from duly.task.context import Stop
from duly.worker import verdict
from duly.worker.attempt import Attempt
from duly.worker.marker import Marker
from duly.worker.pace import Pace
from tests.worker.stage import PATIENCE, App, Gate, Stage


class Closed(Exception):
    """Raised before anything was done."""


class Declined(Exception):
    """The answer was no."""


class Launch:
    """An app with an unrepeatable task, sync and async, that does what the test says."""

    def __init__(self, stage: Stage, **app: Any) -> None:
        self.stage, self.app = stage, stage.app(**app)
        self.calls: Counter[str] = Counter()
        self.marks: list[Any] = []
        self.does: Callable[[], object] = bool
        declare = self.app.task(
            effects="unrepeatable", retry_on=(Closed,), give_up_on=(Declined,), retry=Backoff.fixed(0)
        )

        def launch(*, ctx: Context = given) -> None:
            self._note("launch", ctx)
            self.does()

        async def alaunch(*, ctx: Context = given) -> None:
            self._note("alaunch", ctx)
            await asyncio.sleep(0)
            self.does()

        self.sync, self.asynchronous = declare(launch), declare(alaunch)
        self.both = self.sync, self.asynchronous

    def _note(self, name: str, ctx: Context) -> None:
        self.calls[name] += 1
        row: Any = self.stage.row(self.app, ctx.job_id)
        self.marks.append(row and row["started_at"])

    def ended(self, job: Any) -> tuple[str, int]:
        found: Any = self.stage.ended(self.app, job)
        return found["outcome"], found["attempts"]


@contextlib.contextmanager
def before_the_mark(act: Callable[[Attempt], None]) -> Iterator[None]:
    """*act* once, between a claim and its mark."""
    honest, left = Marker._mark, [1]

    def mark(self: Marker, attempt: Attempt) -> Any:
        if left and left.pop():
            act(attempt)
        return honest(self, attempt)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Marker, "_mark", mark)
        yield


@contextlib.contextmanager
def unanswered(app: App, *transactions: str) -> Iterator[None]:
    """The next transactions of a mark are not answered: *committed* ones stand, the others do not."""
    honest, left = app.store.tending, list(transactions)

    @contextlib.contextmanager
    def tending() -> Iterator[Any]:
        how = left.pop(0) if left else ""
        with honest() as connection:
            yield connection
            if how == "rolled back":
                raise DatabaseUnavailable("lost before its COMMIT")
        if how == "committed":
            raise DatabaseUnavailable("its reply was lost")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.store, "tending", tending)
        yield


# ── the mark ──────────────────────────────────────────────────────────────────────────────────


def check_it_is_marked_before_it_is_called(stage: Stage) -> None:
    launch = Launch(stage)
    jobs = [task.enqueue() for task in launch.both]
    assert launch.app.drain() == {"succeeded": 2}
    assert [mark is None for mark in launch.marks] == [False, False]
    for job in jobs:
        ended: Any = stage.ended(launch.app, job)
        assert (ended["outcome"], ended["attempts"]) == ("succeeded", 1)
        assert ended["started_at"] is not None


def check_it_is_not_called_when_it_is_another_workers_by_then(stage: Stage) -> None:
    launch = Launch(stage)
    for task in launch.both:
        job = task.enqueue()
        with before_the_mark(
            lambda attempt: stage.alter(launch.app, attempt.job.id, claim=9, worker="other")
        ):
            assert launch.app.drain() == {}
        row: Any = stage.row(launch.app, job)
        assert (row["state"], row["claim"], row["started_at"]) == ("running", 9, None)
    assert len(launch.app.journal.of(LeaseWasLost)) == 2
    assert launch.calls == {}


def check_it_is_not_called_when_it_has_expired_by_then(stage: Stage) -> None:
    launch = Launch(stage)

    def expire(attempt: Attempt) -> None:
        past = attempt.job.enqueued_at - timedelta(hours=1)
        stage.alter(launch.app, attempt.job.id, expires_at=past)

    for task in launch.both:
        job = task.enqueue()
        with before_the_mark(expire):
            assert launch.app.drain() == {"expired": 1}
        assert launch.ended(job) == ("expired", 0)
    assert launch.calls == {}


def test_it_is_not_called_when_it_was_told_to_stop_by_then(stage: Stage) -> None:
    """It was not called, so it is cancelled, and not uncertain."""
    launch = Launch(stage)

    def cancel(attempt: Attempt) -> None:
        stage.alter(launch.app, attempt.job.id, cancelling=True)
        attempt.cancellation.set(Stop.CANCELLED)

    for task in launch.both:
        job = task.enqueue()
        with before_the_mark(cancel):
            assert launch.app.drain() == {"cancelled": 1}
        assert launch.ended(job) == ("cancelled", 0)
    assert launch.calls == {}


def check_a_mark_whose_reply_was_lost_is_read_back(stage: Stage) -> None:
    launch = Launch(stage)
    for task in launch.both:
        job = task.enqueue()
        with unanswered(launch.app, "committed"):
            assert launch.app.drain() == {"succeeded": 1}
        assert launch.ended(job) == ("succeeded", 1)
        assert stage.ended(launch.app, job)["claim"] == 1  # type: ignore[index]
    assert launch.calls == {"launch": 1, "alaunch": 1}
    assert None not in launch.marks


def test_a_mark_that_is_read_back_too_late_calls_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply was lost, and the job expired before it could be read back."""
    launch = Launch(stage)
    marks = launch.app.store.marks
    honest = marks.look
    monkeypatch.setattr(marks, "look", lambda *asked: replace(honest(*asked), late=True))
    for task in launch.both:
        job = task.enqueue()
        with unanswered(launch.app, "committed"):
            assert launch.app.drain() == {"expired": 1}
        assert launch.ended(job) == ("expired", 0)
    assert launch.calls == {}


def test_without_a_mark_that_is_known_to_stand_it_is_not_called(stage: Stage) -> None:
    """And then it can be offered again, whether or not a mark has landed."""
    launch = Launch(stage)
    for lost in (("rolled back",), ("rolled back", "rolled back"), ("committed", "rolled back")):
        for task in launch.both:
            launch.calls.clear()
            job = task.enqueue()
            with unanswered(launch.app, *lost):
                assert launch.app.drain() == {"put back": 1}
            assert launch.calls == {}
            stage.make_due(launch.app, job)
            assert launch.app.drain() == {"succeeded": 1}
            assert launch.ended(job) == ("succeeded", 1)
            assert launch.calls.total() == 1
    assert {event.problem for event in launch.app.journal.of(JobPutBack)} == {True}


def test_one_claim_is_marked_once(stage: Stage) -> None:
    """A mark that stands already is not this attempt's: whoever set it may have called the task."""
    launch = Launch(stage)
    job = launch.sync.enqueue()
    with before_the_mark(lambda attempt: stage.alter(launch.app, job, started_at=attempt.job.run_at)):
        assert launch.app.drain() == {"uncertain": 1}
    assert launch.calls == {}


# ── how it ends ───────────────────────────────────────────────────────────────────────────────

ENDS: dict[Any, tuple[str, int]] = {
    ValueError: ("uncertain", 1),
    SystemExit: ("uncertain", 1),
    StaleDataError: ("uncertain", 1),
    DatabaseUnavailable: ("uncertain", 1),
    Declined: ("failed", 1),
    Closed: ("succeeded", 2),
    Cancel: ("cancelled", 1),
    Retry: ("succeeded", 2),
}


def check_what_it_raises_decides(stage: Stage) -> None:
    """It does so in its first attempt, and returns in its second, where there is one."""
    app, calls = stage.app(), Counter[Any]()
    declare = app.task(
        effects="unrepeatable", retry_on=(Closed,), give_up_on=(Declined,), retry=Backoff.fixed(0)
    )

    def fail(number: int, ctx: Context) -> None:
        calls[ctx.job_id] += 1
        if calls[ctx.job_id] == 1:
            raise list(ENDS)[number]

    @declare
    def launch(number: int, *, ctx: Context = given) -> None:
        fail(number, ctx)

    @declare
    async def alaunch(number: int, *, ctx: Context = given) -> None:
        fail(number, ctx)

    jobs = app.enqueue_many([task.call(number) for task in (launch, alaunch) for number in range(len(ENDS))])
    app.drain()
    for job, (error, (outcome, times)) in zip(jobs, [*ENDS.items()] * 2, strict=True):
        assert calls[job.id] == times, error
        ended: Any = stage.ended(app, job)
        assert (ended["outcome"], ended["attempts"]) == (outcome, times), error


def test_what_is_snoozed_is_called_again(sqlite: Stage) -> None:
    launch, left = Launch(sqlite), [Snooze(after=0.001)]

    def snooze() -> None:
        if left:
            raise left.pop()

    launch.does = snooze
    job = launch.sync.enqueue()
    assert launch.app.drain() == {"put back": 1, "succeeded": 1}
    assert launch.ended(job) == ("succeeded", 1)
    assert launch.calls["launch"] == 2


def test_an_uncertain_job_keeps_its_arguments_and_what_went_wrong(sqlite: Stage) -> None:
    launch = Launch(sqlite)

    def fail() -> None:
        raise ValueError("the fuse")

    launch.does = fail
    job = launch.sync.enqueue()
    launch.app.drain()
    ended: Any = sqlite.ended(launch.app, job)
    assert ended["envelope"] is not None
    assert ended["cause"] == "ValueError, after it had started"
    assert "the fuse" in str(job.refresh().error)
    (told,) = launch.app.journal.of(JobEnded)
    assert (told.outcome, told.cause) == ("uncertain", ended["cause"])


def test_a_step_that_does_not_open_here_leaves_it_uncertain(
    sqlite: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done before the step is not done again because a worker lacks a key."""
    app = sqlite.app(keys=new_key())
    stranger = Sealer(Settings.read(keys=new_key()).keys)

    @app.task(effects="unrepeatable")
    def launch(*, ctx: Context = given) -> None:
        sealed = stranger.seal("step", step_binding(ctx.origin, ctx.task, "aim"), b"1")
        monkeypatch.setattr(app.store.steps, "find", lambda *_: sealed)
        ctx.step("aim", int)

    launch.enqueue()
    assert app.drain() == {"uncertain": 1}


def test_one_that_is_over_its_time_is_uncertain(sqlite: Stage) -> None:
    app = sqlite.app()

    @app.task(effects="unrepeatable", max_run_time=0.05, retry_on=(Exception,))
    def hang() -> None:
        while True:
            threading.Event().wait(0.01)

    @app.task(effects="unrepeatable", max_run_time=0.05, retry_on=(Exception,))
    async def ahang() -> None:
        await asyncio.Event().wait()

    jobs = [hang.enqueue(), ahang.enqueue()]
    turned = sqlite.turned(app)
    turned.until_ended(*jobs)
    assert [job.outcome for job in jobs] == ["uncertain"] * 2
    assert {event.cause for event in app.journal.of(JobEnded)} == {
        "over its max_run_time of 0.05 s, after it had started"
    }


def test_one_that_somebody_cancels_is_uncertain(sqlite: Stage) -> None:
    launch, begun = Launch(sqlite), threading.Event()

    async def hang() -> None:
        begun.set()
        await asyncio.Event().wait()

    task = launch.app.task(effects="unrepeatable")(hang)
    job = task.enqueue()
    turned = sqlite.turned(launch.app)
    turned.turn()
    assert begun.wait(PATIENCE)
    job.cancel()
    turned.beat()
    turned.until_ended(job)
    assert launch.ended(job) == ("uncertain", 1)


def test_one_that_a_leaving_worker_cuts_off_is_uncertain(sqlite: Stage) -> None:
    app, begun = sqlite.app(), threading.Event()

    @app.task(effects="unrepeatable")
    async def hang() -> None:
        begun.set()
        await asyncio.Event().wait()

    job = hang.enqueue()
    turned = sqlite.turned(app)
    turned.turn()
    assert begun.wait(PATIENCE)
    turned.leave()
    assert sqlite.outcome(app, job) == "uncertain"


def test_what_its_session_cannot_commit_is_uncertain(sqlite: Stage) -> None:
    """The task has returned: what it had named it has not raised."""
    app = sqlite.app()
    sqlite.make_effects()

    @app.task(effects="unrepeatable", retry_on=(Exception,))
    def launch(*, session: Session = given) -> None:
        session.execute(text("INSERT INTO effects VALUES ('launched')"))

        def refuse(_: object) -> None:
            raise Closed

        event.listen(session, "before_commit", refuse)

    job = launch.enqueue()
    assert app.drain() == {"uncertain": 1}
    assert sqlite.effects() == []
    assert "Closed" in str(job.refresh().error)


def test_what_could_not_be_given_was_not_called(sqlite: Stage) -> None:
    app, calls = sqlite.app(), []

    def broken() -> Any:
        if not calls:
            calls.append("factory")
            raise ValueError
        return Session(app.store.engine)

    app.session_factory = broken

    @app.task(effects="unrepeatable", retry=Backoff.fixed(0))
    def launch(*, session: Session = given) -> None:
        calls.append("launch")

    job = launch.enqueue()
    assert app.drain() == {"retried": 1, "succeeded": 1}
    assert sqlite.ended(app, job)["attempts"] == 2  # type: ignore[index]
    assert calls == ["factory", "launch"]


def test_a_result_that_cannot_be_kept_leaves_it_uncertain(sqlite: Stage) -> None:
    app = sqlite.app()

    @app.task(effects="unrepeatable", keep_result=True)
    def launch() -> int:
        return "three"  # type: ignore[return-value]

    launch.enqueue()
    assert app.drain() == {"uncertain": 1}


# ── its worker is gone ────────────────────────────────────────────────────────────────────────


def test_whoever_wakes_up_finds_it_uncertain(stage: Stage, gate: Gate) -> None:
    """Taken for dead while it ran; what it has done stands, and is not done again."""
    launch = Launch(stage)
    launch.does = gate.pass_through
    job = launch.sync.enqueue()
    frozen = stage.turned(launch.app, threads=1)
    frozen.turn()
    gate.wait_running()
    stage.remove_worker(launch.app, frozen.id)
    with launch.app.store.tending() as connection:
        launch.app.store.rescue.offer_again(connection, [frozen.id])
    assert launch.ended(job) == ("uncertain", 1)
    gate.open()
    frozen.until(lambda: launch.app.journal.of(LeaseWasLost))
    assert launch.app.drain() == {}
    assert launch.ended(job) == ("uncertain", 1)
    assert launch.calls == {"launch": 1}
    assert launch.app.journal.of(JobEnded) == []


# ── never ahead ───────────────────────────────────────────────────────────────────────────────


def check_it_is_never_claimed_ahead(stage: Stage) -> None:
    """However quick it was: a worker holds no more of them than can start."""
    launch, gate = Launch(stage), Gate()
    try:
        turned = stage.turned(launch.app, threads=2, coroutines=2)
        turned.until_ended(*(task.enqueue() for task in launch.both for _ in range(3)))
        for _ in range(100):
            turned.pump._pace.learn(launch.sync.name, 1e-6)
        launch.does = gate.pass_through
        jobs = [launch.sync.enqueue() for _ in range(6)]
        turned.until(lambda: gate.runs == 2)
        for _ in range(3):
            turned.turn()
        assert len(turned.held) == 2
        waiting = [job.refresh() for job in jobs if job.id not in turned.held]
        assert {(job.state, job.attempts) for job in waiting} == {("available", 0)}
    finally:
        gate.open()


# ── in tests of users ─────────────────────────────────────────────────────────────────────────


def test_inline_marks_it_too(stage: Stage) -> None:
    launch = Launch(stage)
    with launch.app.inline():
        jobs = [task.enqueue() for task in launch.both]
        launch.does = _fail
        for task in launch.both:
            with pytest.raises(ValueError, match="inline"):
                task.enqueue()
    assert [launch.ended(job) for job in jobs] == [("succeeded", 1)] * 2
    assert None not in launch.marks
    with launch.app.store.reading() as connection:
        assert launch.app.store.ledger.outcomes(connection) == {"succeeded": 2, "uncertain": 2}


def _fail() -> None:
    raise ValueError("inline")


# ── mutants ───────────────────────────────────────────────────────────────────────────────────

CHECKS = (
    check_it_is_marked_before_it_is_called,
    check_it_is_not_called_when_it_is_another_workers_by_then,
    check_it_is_not_called_when_it_has_expired_by_then,
    check_a_mark_whose_reply_was_lost_is_read_back,
    check_what_it_raises_decides,
    check_it_is_never_claimed_ahead,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_rule(stage: Stage, check: Callable[[Stage], None]) -> None:
    check(stage)


def no_mark(patch: pytest.MonkeyPatch) -> None:
    """It is called, and that is all."""
    patch.setattr(Marker, "_mark", lambda *_: None)


def mark_regardless(patch: pytest.MonkeyPatch) -> None:
    """Whatever the database says, it is called."""
    honest = Marker._write

    def write(self: Marker, attempt: Attempt) -> bool:
        honest(self, attempt)
        return True

    patch.setattr(Marker, "_write", write)


def no_reading_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Marker, "_has_landed", lambda *_: False)


def no_doubt(patch: pytest.MonkeyPatch) -> None:
    """An exception is a failed attempt, as anywhere."""
    patch.setattr(verdict, "_in_doubt", lambda *_: False)
    patch.setattr(Marks, "set", _unmarked)


def _unmarked(self: Marks, connection: Any, *_: Any) -> Any:
    return connection.execute(select(self.dialect.clock)).scalar_one()


def no_vouching(patch: pytest.MonkeyPatch) -> None:
    """Whatever it raises, it is uncertain."""
    honest = verdict._in_doubt
    patch.setattr(verdict, "_in_doubt", lambda attempt, error: honest(attempt, ValueError()))


def quick_is_quick(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pace, "keep_slow", lambda *_: None)


MUTANTS = [
    (no_mark, check_it_is_marked_before_it_is_called),
    (mark_regardless, check_it_is_not_called_when_it_is_another_workers_by_then),
    (mark_regardless, check_it_is_not_called_when_it_has_expired_by_then),
    (no_reading_back, check_a_mark_whose_reply_was_lost_is_read_back),
    (no_doubt, check_what_it_raises_decides),
    (no_vouching, check_what_it_raises_decides),
    (quick_is_quick, check_it_is_never_claimed_ahead),
]


@pytest.mark.parametrize(("mutate", "check"), MUTANTS, ids=lambda it: getattr(it, "__name__", None))
def test_the_check_notices(
    sqlite: Stage,
    monkeypatch: pytest.MonkeyPatch,
    mutate: Callable[..., None],
    check: Callable[[Stage], None],
) -> None:
    sqlite.patience = 1.0
    mutate(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(sqlite)
