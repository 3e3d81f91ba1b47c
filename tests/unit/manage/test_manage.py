"""What operators and handles are told, over a store that says what the test wants."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from duly import Duly, Outcome, State
from duly.clock import DatabaseClock
from duly.envelope.keys import new_key
from duly.envelope.trouble import Trouble
from duly.errors import ArgumentsMisfit, JobNotFound, JobNotRetryable
from duly.manage.manage import Overview
from duly.model.ids import derived_id, new_id
from duly.model.job import JobStatus
from tests.worker.turned import TurnedClock

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


class FakeStore:
    """One job, and a note of what was written."""

    def __init__(self) -> None:
        self.clock = DatabaseClock(TurnedClock())
        self.written: list[Any] = []
        self.audited: list[Any] = []
        self.extended: list[Any] = []
        self.steps: Any = SimpleNamespace(extend=lambda _, *what: self.extended.append(what))
        self.known: dict[Any, JobStatus] = {}
        self.queues: list[Any] = []
        self.workers: Any = SimpleNamespace(all=lambda _: self.rows)
        self.rows: list[Any] = []
        self.jobs: Any = SimpleNamespace(
            insert_again=lambda _, jobs: (self.written.extend(jobs), {})[1],
            keys=SimpleNamespace(extend=lambda _, *what: self.extended.append(what)),
            cancel=lambda *_: self.waiting,
            ask_to_stop=lambda *_: self.running,
        )
        self.waiting, self.running = True, False
        self.audit: Any = SimpleNamespace(note=lambda _, *what: self.audited.append(what))
        self.ledger: Any = SimpleNamespace(
            status=lambda _, job: self.known.get(job),
            queues=lambda _: self.queues,
            attempts=lambda *_: self.rows,
        )

    @contextlib.contextmanager
    def reading(self) -> Iterator[Any]:
        yield SimpleNamespace(begin_nested=contextlib.nullcontext)

    writing = tending = reading

    def tell_time(self) -> None:
        """The clock is turned by the test."""


class Scene:
    def __init__(self, keys: str | None = None) -> None:
        self.app = Duly("sqlite:///nowhere/never.db", keys=keys)
        self.store = FakeStore()
        store: Any = self.store
        self.app._store = store

        @self.app.task(name="note", keep_result=True, priority=4)
        def note(n: int) -> int:
            return n

        row = self.app.client._job(note.call(3), None)
        self.status = JobStatus(
            id=row.id, origin=row.origin, task=row.task, queue=row.queue, priority=row.priority, state=None,
            outcome=Outcome.FAILED, cause="ValueError", attempts=1, rescues=0, claim=1, worker="w", run_at=row.run_at,
            enqueued_at=row.enqueued_at, expires_at=row.expires_at, ended_at=NOW, principal=None,
            key_id=row.key_id, envelope=row.envelope,
        )  # fmt: skip
        self.knows()

    def knows(self, **changes: Any) -> JobStatus:
        self.status = replace(self.status, **changes)
        self.store.known = {self.status.id: self.status}
        return self.status


@pytest.fixture(params=[None, new_key()], ids=["plain", "sealed"])
def scene(request: pytest.FixtureRequest) -> Scene:
    return Scene(request.param)


def test_a_retry_is_sealed_anew_and_lives_as_long(scene: Scene) -> None:
    status = scene.status
    clock: Any = scene.store.clock.local
    clock.turn(3600)
    handle = scene.app.manage.retry(status.id, actor="ada")
    (fresh,) = scene.store.written
    assert handle.id == fresh.id == derived_id(status.id, "retry")
    assert (fresh.origin, fresh.state, fresh.priority) == (status.origin, State.AVAILABLE, 4)
    assert fresh.enqueued_at == fresh.run_at == scene.store.clock.now()
    assert fresh.expires_at - fresh.enqueued_at == status.expires_at - status.enqueued_at
    assert scene.app.sealer.open("arguments", fresh.binding, fresh.envelope) == scene.app.sealer.open(
        "arguments", status.binding, status.envelope or b""
    )
    assert scene.store.audited == [("ada", "retried", [status.id], f"as {fresh.id}")]
    assert scene.store.extended == [(status.origin, fresh.expires_at), (fresh, timedelta(days=30))]


def test_a_retry_that_is_known_is_found_and_nothing_is_written(scene: Scene) -> None:
    found = derived_id(scene.status.id, "retry")
    scene.store.known[found] = replace(scene.status, id=found)
    assert scene.app.manage.retry(scene.status.id).id == found
    assert scene.store.written == scene.store.audited == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outcome": None, "state": State.RUNNING}, r"has not ended \(running\)"),
        ({"outcome": None, "state": State.SCHEDULED}, r"has not ended \(scheduled\)"),
        ({"outcome": Outcome.SUCCEEDED}, "succeeded"),
        ({"outcome": Outcome.EXPIRED, "envelope": None}, "expired, after which no arguments are kept"),
        ({"outcome": Outcome.FAILED, "envelope": b"\x01odd"}, "cannot be opened here"),
    ],
)
def test_what_cannot_be_retried_says_why(scene: Scene, changes: Any, message: str) -> None:
    scene.knows(**changes)
    with pytest.raises(JobNotRetryable, match=message):
        scene.app.manage.retry(scene.status.id)
    assert scene.store.written == scene.store.audited == []


@pytest.mark.parametrize("verb", ["job", "attempts", "cancel", "retry"])
def test_each_verb_says_when_there_is_no_such_job(scene: Scene, verb: str) -> None:
    with pytest.raises(JobNotFound, match="not committed"):
        getattr(scene.app.manage, verb)(new_id())


def test_only_a_cancel_that_did_something_is_audited(scene: Scene) -> None:
    job = scene.status.id
    assert scene.app.manage.cancel(job, actor="ada")
    assert scene.store.audited == [("ada", "cancelled", [job])]
    scene.store.waiting, scene.store.running = False, True
    assert scene.app.manage.cancel(job, actor="ada")
    assert scene.store.audited[1:] == [("ada", "asked to stop", [job])]
    scene.store.running = False
    assert not scene.app.manage.cancel(job)
    assert not scene.app.desk.cancel(job)
    assert len(scene.store.audited) == 2


def test_a_result_of_a_task_that_is_gone_is_a_clear_error(scene: Scene) -> None:
    status = scene.knows(task="gone", outcome=Outcome.SUCCEEDED, result=b"{}")
    with pytest.raises(ArgumentsMisfit, match="'gone' is not known here"):
        scene.app.desk.result_of(status)


def test_results_and_errors_are_opened(scene: Scene) -> None:
    sealer, binding = scene.app.sealer, scene.status.binding
    task: Any = scene.app.find("note")
    status = scene.knows(
        result=sealer.seal("result", binding, task.signature.result.dump(3, scene.app.limits)),
        error=sealer.seal("error", binding, Trouble("ValueError", "secret", "").dump()),
    )
    assert scene.app.desk.result_of(status) == 3
    trouble = scene.app.desk.trouble_of(status)
    assert trouble is not None
    assert (trouble.type, trouble.message) == ("ValueError", "secret")
    assert scene.app.desk.trouble_of(scene.knows(error=None)) is None


def attempt(error: bytes | None) -> Any:
    return SimpleNamespace(
        attempt=1, claim=1, worker="w", started_at=NOW, ended_at=NOW, cause="ValueError", error=error
    )


def test_an_error_text_that_cannot_be_opened_is_said_and_nothing_else_is_lost(scene: Scene) -> None:
    scene.store.rows = [attempt(None), attempt(b"\x01odd")]
    first, second = scene.app.manage.attempts(scene.status.id)
    assert first.error is None
    assert second.error is not None
    assert "cannot be opened" in second.error.message


def test_the_oldest_waiting_queue_is_the_one_that_waited_longest(scene: Scene) -> None:
    def queue(name: str, age: float | None) -> Any:
        first = None if age is None else NOW - timedelta(seconds=age)
        return SimpleNamespace(
            queue=name, scheduled=0, available=1, running=0, suspect=0, first=first, oldest=first, now=NOW
        )

    assert scene.app.manage.oldest_waiting() is None
    scene.store.queues = [queue("idle", None)]
    assert scene.app.manage.oldest_waiting() is None
    scene.store.queues += [queue("a", 3), queue("b", 9), queue("c", 0)]
    oldest = scene.app.manage.oldest_waiting()
    assert oldest is not None
    assert (oldest.name, oldest.age) == ("b", timedelta(seconds=9))


def test_a_beat_in_the_future_is_no_negative_silence(scene: Scene) -> None:
    later = NOW + timedelta(seconds=5)
    scene.store.rows = [
        SimpleNamespace(id="w", host="h", pid=1, queues="*", started_at=NOW, beat_at=later, now=NOW)
    ]
    (worker,) = scene.app.manage.workers()
    assert (worker.silent, worker.name) == (timedelta(0), "w")


def test_an_overview_counts_all_jobs() -> None:
    assert Overview({"available": 2, "running": 1}, {"failed": 3}, 1, 0).enqueued == 6
