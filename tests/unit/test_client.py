"""From call to row: options, times, arguments, seal. A store that only writes down what it is given."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest

from duly import Duly
from duly.envelope.keys import Keyring
from duly.envelope.seal import Sealer
from duly.errors import (
    DatabaseUnavailable,
    EnvelopeRejected,
    IdTaken,
    InvalidArguments,
    InvalidOptions,
    UnknownKey,
)
from duly.model.ids import new_id
from duly.model.job import NewJob
from duly.model.retry import Backoff
from duly.model.states import State

NOW = datetime(2026, 5, 4, 12, 30, 15, 123_456, tzinfo=UTC)
DATABASES_NOW = NOW.replace(microsecond=123_000)


class Jobs:
    """As the jobs table behaves, in a dict."""

    def __init__(self) -> None:
        self.rows: dict[UUID, NewJob] = {}
        self.calls: list[str] = []

    def insert(self, connection: Any, job: NewJob) -> None:
        self.calls.append("insert")
        self.rows[job.id] = job

    def insert_many(self, connection: Any, jobs: list[NewJob]) -> bool:
        self.calls.append("insert_many")
        if any(job.id in self.rows for job in jobs):
            return False
        self.rows |= {job.id: job for job in jobs}
        return True

    def insert_again(self, connection: Any, jobs: list[NewJob]) -> dict[UUID, tuple[bytes, str | None]]:
        self.calls.append("insert_again")
        for job in jobs:
            self.rows.setdefault(job.id, job)
        return {job.id: (self.rows[job.id].digest, self.rows[job.id].key_id) for job in jobs}


class Connection:
    def begin_nested(self) -> Any:
        return contextlib.nullcontext()


class Store:
    """No database: its clock stands still."""

    async_engine = None

    def __init__(self) -> None:
        self.jobs = Jobs()
        self.clock = self
        self.joins: list[Any] = []
        self.lost = 0

    def now(self) -> datetime:
        return NOW

    def tell_time(self) -> None:
        """It is known."""

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        yield Connection()
        if self.lost:
            self.lost -= 1
            raise DatabaseUnavailable("the reply was lost")

    @contextlib.contextmanager
    def joined(self, connection: Any) -> Iterator[Connection]:
        self.joins.append(connection)
        yield Connection()


def make(**options: Any) -> tuple[Duly, Store]:
    app = Duly("sqlite:///never-opened.db", **options)
    store = Store()
    app._store = store  # type: ignore[assignment]
    return app, store


@pytest.fixture
def app() -> Duly:
    return make()[0]


def rows(app: Duly) -> list[NewJob]:
    found: list[NewJob] = list(app._store.jobs.rows.values())  # type: ignore[union-attr]
    return found


def calls(app: Duly) -> list[str]:
    found: list[str] = app._store.jobs.calls  # type: ignore[union-attr,attr-defined]
    return found


# ── options ───────────────────────────────────────────────────────────────────────────────────


def test_a_job_has_the_defaults_where_nobody_says_anything(app: Duly) -> None:
    @app.task(name="tests.plain")
    def plain() -> None: ...

    plain.enqueue()
    (job,) = rows(app)
    assert job.origin == job.id
    assert (job.task, job.queue, job.priority, job.state) == ("tests.plain", "default", 0, State.AVAILABLE)
    assert job.run_at == job.enqueued_at == DATABASES_NOW
    assert job.expires_at == DATABASES_NOW + timedelta(days=90)
    assert (job.principal, job.key_id, job.trace) == (None, None, None)
    assert len(job.digest) == 32
    assert len(job.fingerprint) == 16


def test_the_nearer_option_wins_call_task_queue_app_default() -> None:
    app, _ = make(
        priority=1,
        expires_in=100,
        queue="slow",
        queues={"slow": {"priority": 2, "expires_in": 200}, "mail": {"priority": 3}},
    )

    @app.task(name="tests.bare")
    def bare() -> None: ...

    @app.task(name="tests.set", priority=4, queue="mail")
    def set_() -> None: ...

    bare.enqueue()
    bare.using(queue="mail").enqueue()
    bare.using(queue="other").enqueue()
    set_.enqueue()
    set_.using(queue="slow").enqueue()
    set_.using(priority=5).using(queue="other").enqueue()
    assert [(job.queue, job.priority, (job.expires_at - DATABASES_NOW).seconds) for job in rows(app)] == [
        ("slow", 2, 200), ("mail", 3, 100), ("other", 1, 100), ("mail", 4, 100), ("slow", 4, 200), ("other", 5, 100),
    ]  # fmt: skip


def test_options_of_the_call_alone_travel_in_the_envelope(app: Duly) -> None:
    @app.task(name="tests.plain", max_attempts=9, keep_result=True)
    def plain() -> None: ...

    arguments = plain.signature.arguments
    plain.enqueue()
    plain.using(max_attempts=3, retry=Backoff.fixed(7), max_run_time=60, keep_result=False).enqueue()
    quiet, said = (arguments.load(job.envelope)[1] for job in rows(app))
    assert (quiet.max_attempts, quiet.keep_result) == (None, None)
    assert (said.max_attempts, said.retry, said.max_run_time, said.keep_result) == (
        3, Backoff.fixed(7), timedelta(seconds=60), False,
    )  # fmt: skip


# ── times ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def plain(app: Duly) -> Any:
    @app.task(name="tests.plain")
    def plain() -> None: ...

    return plain


def only(app: Duly) -> NewJob:
    (job,) = rows(app)
    return job


def test_run_in_counts_from_the_databases_now_and_expiry_from_when_it_is_due(app: Duly, plain: Any) -> None:
    plain.using(run_in=timedelta(minutes=5), expires_in=60).enqueue()
    job = only(app)
    assert job.state is State.SCHEDULED
    assert job.run_at == DATABASES_NOW + timedelta(minutes=5)
    assert job.expires_at == job.run_at + timedelta(seconds=60)


def test_run_at_in_any_zone_is_that_instant(app: Duly, plain: Any) -> None:
    moment = datetime(2026, 5, 5, 3, 0, 0, 7, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    plain.using(run_at=moment).enqueue()
    job = only(app)
    assert (job.run_at, job.run_at.utcoffset()) == (moment, timedelta(0))
    assert job.expires_at == moment + timedelta(days=90)


def test_a_run_at_in_the_past_is_due_now_and_its_expiry_counts_from_now(app: Duly, plain: Any) -> None:
    plain.using(run_at=NOW - timedelta(days=400)).enqueue()
    job = only(app)
    assert (job.state, job.run_at) == (State.AVAILABLE, NOW - timedelta(days=400))
    assert job.expires_at == DATABASES_NOW + timedelta(days=90)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"expires_at": NOW - timedelta(seconds=1)}, "past already"),
        ({"expires_at": DATABASES_NOW}, "past already"),
        ({"expires_in": 0}, "past already"),
        ({"expires_in": -5}, "past already"),
        ({"run_in": 60, "expires_at": NOW + timedelta(seconds=30)}, "before it is due"),
        ({"run_at": NOW + timedelta(days=1), "expires_at": NOW + timedelta(days=1)}, "before it is due"),
        ({"run_in": 60, "expires_in": -30}, "before it is due"),
        ({"run_at": datetime.max.replace(tzinfo=UTC)}, "out of bounds"),
        ({"expires_at": datetime.max.replace(tzinfo=UTC)}, "out of bounds"),
        ({"run_at": datetime.min.replace(tzinfo=UTC)}, "out of bounds"),
    ],
)  # fmt: skip
def test_times_that_could_never_be_are_refused_before_anything_is_written(
    app: Duly, plain: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidOptions, match=f"tests.plain: .*{words}"):
        plain.using(**options).enqueue()
    assert calls(app) == []


@pytest.mark.parametrize(
    "options",
    [
        {"run_at": NOW, "run_in": 5}, {"expires_at": NOW, "expires_in": 5}, {"run_at": NOW.replace(tzinfo=None)},
        {"run_in": math.nan}, {"run_in": math.inf}, {"run_in": "5"}, {"run_in": True}, {"run_at": "tomorrow"},
        {"expires_in": timedelta.max}, {"priority": 40_000}, {"priority": 1.5}, {"priority": True},
        {"queue": "no spaces"}, {"queue": ""}, {"queue": "x" * 201}, {"queue": "a\x00b"}, {"max_attempts": 0},
        {"max_run_time": 0}, {"max_run_time": -1}, {"retry": 5}, {"keep_result": 1}, {"id": "not a uuid"},
        {"prority": 5},
    ],
)  # fmt: skip
def test_options_out_of_bounds_are_refused_before_anything_is_written(
    app: Duly, plain: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidOptions):
        plain.using(**options).enqueue()
    assert calls(app) == []


@pytest.mark.parametrize("at", ["run_at", "expires_at"])
@pytest.mark.parametrize(
    "edge",
    [
        datetime.min.replace(tzinfo=timezone(timedelta(hours=5))),
        datetime.max.replace(tzinfo=timezone(-timedelta(hours=5))),
    ],
)
def test_an_instant_that_no_calendar_holds_in_utc_is_refused(
    app: Duly, plain: Any, at: str, edge: datetime
) -> None:
    with pytest.raises(InvalidOptions):
        plain.using(**{at: edge}).enqueue()
    assert calls(app) == []


# ── arguments ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, "a\x00b" * 30_000, "\ud800", object(), {"x": {1, 2}}, None],
    ids=["nan", "infinity", "large", "surrogate", "object", "nested", "none"],
)
def test_arguments_that_would_not_come_back_are_refused_before_anything_is_written(
    app: Duly, value: Any
) -> None:
    @app.task(name="tests.takes")
    def takes(x: float | str | dict[str, int]) -> None: ...

    for send in (
        lambda: takes.enqueue(value),
        lambda: app.enqueue_many([takes.call(1.0), takes.call(value)]),
    ):
        with pytest.raises(InvalidArguments):
            send()
    assert calls(app) == []


def test_nesting_and_size_are_bounded_by_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DULY_ARGUMENTS_SIZE", "300")
    monkeypatch.setenv("DULY_ARGUMENTS_DEPTH", "4")
    app, _ = make()

    @app.task(name="tests.takes")
    def takes(x: Any) -> None: ...

    takes.enqueue([[1]])
    for value in ([[[[[[1]]]]]], "x" * 301):
        with pytest.raises(InvalidArguments):
            takes.enqueue(value)
    assert len(rows(app)) == 1


# ── seal ──────────────────────────────────────────────────────────────────────────────────────

KEYS = "two:" + "B" * 42 + "A=,one:" + "A" * 43 + "="


def test_without_keys_the_envelope_is_plain_and_with_a_key_it_is_sealed_to_its_columns() -> None:
    plain_app, _ = make()
    sealed_app, _ = make(keys=KEYS)
    for app in (plain_app, sealed_app):
        app.task(name="tests.secret")(_secret)
        app.find("tests.secret").enqueue("hush")  # type: ignore[union-attr]
    assert b"hush" in only(plain_app).envelope
    job = only(sealed_app)
    assert b"hush" not in job.envelope
    assert job.key_id == "two"
    sealer = Sealer(Keyring.parse(KEYS))
    assert b"hush" in sealer.open("arguments", job.binding, job.envelope)
    others = {
        "id": new_id(), "origin": new_id(), "task": "tests.other", "queue": "other", "principal": "ann",
        "enqueued_at": NOW, "expires_at": NOW,
    }  # fmt: skip
    assert set(others) == set(job.binding._fields)
    for name, other in others.items():
        with pytest.raises(EnvelopeRejected):
            sealer.open("arguments", job.binding._replace(**{name: other}), job.envelope)
    with pytest.raises(EnvelopeRejected):
        sealer.open("result", job.binding, job.envelope)
    with pytest.raises(UnknownKey):
        Sealer(Keyring.parse(KEYS.partition(",")[2])).open("arguments", job.binding, job.envelope)


def _secret(word: str) -> None: ...


def test_the_digest_decides_same_content_and_depends_on_the_key() -> None:
    digests = []
    for options, word, queue in (
        ({}, "a", "q"), ({}, "a", "q"), ({}, "b", "q"), ({}, "a", "r"), ({"keys": KEYS}, "a", "q"),
    ):  # fmt: skip
        app, _ = make(**options)
        app.task(name="tests.secret")(_secret).using(queue=queue, priority=len(digests)).enqueue(word)
        digests.append(only(app).digest)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4


# ── which way to the database ─────────────────────────────────────────────────────────────────


def test_a_new_id_goes_plainly_and_a_given_one_carefully(app: Duly, plain: Any) -> None:
    plain.enqueue()
    plain.using(id=new_id()).enqueue()
    app.enqueue_many([plain.call()])
    app.enqueue_many([plain.call(), plain.call()])
    app.enqueue_many([plain.call(), plain.using(id=new_id()).call()])
    assert calls(app) == ["insert", "insert_again", "insert", "insert_many", "insert_again"]


def test_a_repetition_after_a_lost_reply_goes_carefully_with_the_same_ids(app: Duly, plain: Any) -> None:
    app._store.lost = 1  # type: ignore[union-attr,attr-defined]
    plain.enqueue()
    app._store.lost = 2  # type: ignore[union-attr,attr-defined]
    app.enqueue_many([plain.call(), plain.call()])
    assert calls(app) == ["insert", "insert_again", "insert_many", "insert_again", "insert_again"]
    assert len(rows(app)) == 3


def test_a_caller_whose_transaction_it_is_repeats_it_himself(app: Duly, plain: Any) -> None:
    class Target:
        def in_nested_transaction(self) -> bool:
            return False

    target = Target()
    plain.using(connection=target).enqueue()
    assert app._store.joins == [target]  # type: ignore[union-attr,attr-defined]


def test_the_same_id_with_other_content_is_taken(app: Duly) -> None:
    task = app.task(name="tests.secret")(_secret)
    identity = new_id()
    task.using(id=identity).enqueue("a")
    assert task.using(id=identity, priority=5).enqueue("a").id == identity
    with pytest.raises(IdTaken, match=str(identity)):
        task.using(id=identity).enqueue("b")


def test_a_batch_goes_in_one_transaction_and_its_ids_differ(app: Duly, plain: Any) -> None:
    identity = new_id()
    with pytest.raises(InvalidOptions, match="same id"):
        app.enqueue_many([plain.using(id=identity).call(), plain.using(id=identity).call()])
    with pytest.raises(InvalidOptions, match="one transaction"):
        app.enqueue_many([plain.using(connection=object()).call()], connection=object())  # type: ignore[arg-type]
    with pytest.raises(InvalidOptions, match="one transaction"):
        app.enqueue_many([plain.using(connection=object()).call(), plain.using(session=object()).call()])
    assert calls(app) == []
    assert app.enqueue_many([]) == []


@pytest.mark.parametrize("target", [object(), "session", 5])
def test_what_is_no_session_is_refused(app: Duly, plain: Any, target: Any) -> None:
    with pytest.raises(InvalidOptions, match="SQLAlchemy Session"):
        plain.using(session=target).enqueue()
    assert calls(app) == []


def test_ids_rise_within_a_batch_and_handles_come_in_its_order(app: Duly, plain: Any) -> None:
    handles = app.enqueue_many([plain.call() for _ in range(200)])
    ids = [handle.id for handle in handles]
    assert ids == sorted(ids) == [job.id for job in rows(app)]


def test_a_fresh_handle_knows_its_state_without_asking(app: Duly, plain: Any) -> None:
    assert plain.enqueue().state == "available"
    assert plain.using(run_in=5).enqueue().state == "scheduled"
