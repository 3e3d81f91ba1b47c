"""Sealed jobs: what was edited, copied, swapped or put back never runs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from duly.envelope.keys import new_key
from duly.errors import SettingsError
from duly.model.events import JobEnded, JobPutBack, SecurityAlert
from duly.model.ids import new_id
from tests.worker import checks
from tests.worker.stage import PATIENCE, App, Stage, Working

SECRET = "hunter2-the-argument"
ONE, TWO = new_key(), new_key()


def declare(app: App) -> tuple[Any, list[str]]:
    ran: list[str] = []

    @app.task(name="note", keep_result=True, max_attempts=1)
    def note(text: str) -> str:
        ran.append(text)
        if text.startswith("fail"):
            raise ValueError(SECRET)
        return text

    @app.task(name="other")
    def other(text: str) -> None:
        ran.append(text)

    return note, ran


def test_with_keys_nothing_readable_is_stored(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DULY_KEYS", ONE)
    app = stage.app()
    note, ran = declare(app)
    waiting = note.enqueue(SECRET)
    good, bad = note.enqueue(SECRET), note.enqueue("fail " + SECRET)
    row: Any = stage.row(app, waiting)
    assert row["key_id"] == ONE.partition(":")[0]
    app.drain()
    assert good.result() == SECRET
    assert bad.refresh().error == f"ValueError: {SECRET}"
    for table in ("jobs", "executions", "attempts", "audit"):
        for stored in stage.database.rows(f"SELECT * FROM duly_{table}"):
            assert SECRET not in repr(stored)
            assert SECRET.encode() not in b"".join(
                bytes(v) for v in stored if isinstance(v, bytes | memoryview)
            )
    assert len(ran) == 3


def test_plain_rows_are_refused_at_start_and_rejected_at_the_claim(stage: Stage) -> None:
    plain = stage.app()
    note, ran = declare(plain)
    job = note.enqueue(SECRET)
    sealed = stage.app(keys=ONE)
    _, ran_sealed = declare(sealed)
    with pytest.raises(SettingsError, match="plain envelopes still wait"):
        sealed.check_ready()
    assert sealed.drain() == {"rejected": 1}
    assert job.refresh().outcome == "rejected"
    sealed.check_ready()
    assert ran == ran_sealed == []


EDITS: dict[str, dict[str, Any]] = {
    "task": {"task": "other"},
    "unknown task": {"task": "not.known"},
    "queue": {"queue": "other"},
    "principal": {"principal": "root"},
    "longer life": {"expires_at": timedelta(days=200)},
    "enqueued_at": {"enqueued_at": timedelta(days=-1)},
    "origin": {"origin": new_id()},
    "envelope": {"envelope": None},
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_row_is_rejected_and_never_runs(stage: Stage, edit: str) -> None:
    app = stage.app(keys=ONE)
    note, ran = declare(app)
    job = note.enqueue(SECRET)
    row: Any = stage.row(app, job)
    ((column, value),) = EDITS[edit].items()
    if isinstance(value, timedelta):
        value = row[column] + value
    if column == "envelope":
        value = row["envelope"][:-1] + bytes([row["envelope"][-1] ^ 1])
    stage.alter(app, job, **{column: value})
    assert app.drain() == {"rejected": 1}
    assert ran == []
    assert (job.refresh().outcome, job.attempts) == ("rejected", 0)
    assert stage.ended(app, job)["envelope"] is not None  # type: ignore[index]  # for whoever looks into it
    (alert,) = app.journal.of(SecurityAlert)
    assert alert.id == job.id
    assert SECRET not in repr(app.journal.events)


def test_two_swapped_envelopes_are_both_rejected(stage: Stage) -> None:
    app = stage.app(keys=ONE)
    note, ran = declare(app)
    one, two = note.enqueue("one"), note.enqueue("two")
    rows = [stage.row(app, job)["envelope"] for job in (one, two)]  # type: ignore[index]
    stage.alter(app, one, envelope=rows[1])
    stage.alter(app, two, envelope=rows[0])
    assert app.drain() == {"rejected": 2}
    assert ran == []


def test_a_copy_of_a_row_under_another_id_is_rejected(stage: Stage) -> None:
    app = stage.app(keys=ONE)
    note, ran = declare(app)
    job = note.enqueue("once")
    row: Any = stage.row(app, job)
    copies = [row | {"id": new_id()}, row | {"id": (fresh := new_id()), "origin": fresh}]
    for copy in copies:
        stage.put_back(app, copy)
    assert app.drain() == {"succeeded": 1, "rejected": 2}
    assert ran == ["once"]


def test_an_unknown_key_waits_for_its_key(stage: Stage) -> None:
    """A fleet in the middle of a key roll-out: a worker that has the key runs it."""
    old, new, both = stage.app(keys=ONE), stage.app(keys=TWO), stage.app(keys=f"{TWO},{ONE}")
    note, _ = declare(old)
    _, ran_new = declare(new)
    _, ran_both = declare(both)
    job = note.enqueue("x")
    with Working(new):
        new.journal.wait_for(JobPutBack)
    row: Any = stage.row(new, job)
    assert (row["state"], row["attempt"]) == ("scheduled", 0)
    stage.make_due(new, job)
    assert both.drain() == {"succeeded": 1}
    assert (ran_new, ran_both) == ([], ["x"])
    assert job.refresh().outcome == "succeeded"
    assert new.journal.of(SecurityAlert) == []


@pytest.mark.parametrize("keys", [None, ONE])
def test_a_row_put_back_after_it_ended_is_removed_with_an_audit_entry(stage: Stage, keys: str | None) -> None:
    app = stage.app(keys=keys)
    note, ran = declare(app)
    job = note.enqueue("once")
    row = stage.row(app, job)
    app.drain()
    stage.put_back(app, row)
    fresh = note.enqueue("after it")
    with Working(app) as worker:
        assert fresh.join(PATIENCE) == "succeeded"
        (alert,) = app.journal.wait_for(SecurityAlert)
    assert alert.id == job.id
    assert ran == ["once", "after it"]
    assert stage.row(app, job) is None
    assert stage.audited(app) == [(worker.ids[0], "replayed row removed", job.id)]
    assert [event.id for event in app.journal.of(JobEnded)].count(job.id) == 1


def test_a_result_of_another_job_cannot_be_passed_off(stage: Stage) -> None:
    app = stage.app(keys=ONE)
    note, _ = declare(app)
    one, two = note.enqueue("one"), note.enqueue("two")
    app.drain()
    executions = app.store.tables.executions
    with app.store.writing() as connection:
        stolen = stage.ended(app, one)["result"]  # type: ignore[index]
        connection.execute(executions.update().where(executions.c.job_id == two.id).values(result=stolen))
    assert one.result() == "one"
    with pytest.raises(Exception, match="does not open"):
        two.result()


def test_a_past_expiry_written_by_hand_expires(stage: Stage) -> None:
    app = stage.app(keys=ONE)
    note, ran = declare(app)
    job = note.enqueue("x")
    stage.alter(app, job, expires_at=stage.row(app, job)["enqueued_at"] - timedelta(days=1))  # type: ignore[index]
    app.drain()
    assert job.refresh().outcome == "expired"
    assert ran == []


def test_an_edited_task_is_rejected_though_nobody_knows_it(stage: Stage) -> None:
    checks.check_an_edited_task_is_rejected_though_nobody_knows_it(stage)
