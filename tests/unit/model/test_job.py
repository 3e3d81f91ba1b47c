"""A job as it is written, held and seen: the three agree on what its envelope is sealed to."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import UTC, datetime, timedelta

import pytest

from duly.model.ids import new_id
from duly.model.job import Binding, ClaimedJob, JobStatus, NewJob
from duly.model.states import Outcome, State
from duly.store.dialect.base import CLAIMED, ENDED, job_row

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ID, ORIGIN = new_id(), new_id()
NEW = NewJob(
    ID,
    ORIGIN,
    "t",
    "f",
    "q",
    0,
    State.AVAILABLE,
    NOW,
    NOW + timedelta(1),
    NOW,
    "ann",
    b"d",
    "k",
    b"secret",
    "trace",
)
CLAIMED_JOB = ClaimedJob(ID, ORIGIN, "t", "q", 0, 3, 2, 1, NOW, NOW + timedelta(1), NOW, "ann", b"secret")
STATUS = JobStatus(
    ID, ORIGIN, "t", "q", 0, None, Outcome.FAILED, "why", 2, 1, 3, "w", NOW, NOW, NOW + timedelta(1), NOW, "ann", "k",
    result=b"secret", error=b"secret", envelope=b"secret", started_at=NOW,
)  # fmt: skip


def test_all_three_are_bound_to_the_same_columns() -> None:
    assert NEW.binding == CLAIMED_JOB.binding == STATUS.binding
    assert NEW.binding == Binding(ID, ORIGIN, "t", "q", "ann", NOW, NOW + timedelta(1))


def test_what_is_shown_to_all_is_json_and_holds_no_envelope() -> None:
    shown = json.dumps(STATUS.public())
    assert "secret" not in shown
    assert json.loads(shown)["outcome"] == "failed"
    assert json.loads(shown)["state"] is None
    assert json.loads(shown)["ended_at"] == NOW.isoformat()


def test_jobs_are_frozen() -> None:
    for job in (NEW, CLAIMED_JOB, STATUS):
        with pytest.raises(AttributeError):
            job.task = "other"  # type: ignore[misc]


def test_the_columns_of_a_claim_are_the_fields_of_a_claimed_job_in_their_order() -> None:
    assert ClaimedJob._fields == CLAIMED


def test_a_new_jobs_row_has_all_its_fields_and_its_state_as_a_word() -> None:
    row = job_row(NEW)
    assert set(row) == {field.name for field in fields(NewJob)} - {"keys"}
    assert type(row["state"]) is str


def test_what_goes_into_the_ledger_as_it_is_exists_in_both_tables() -> None:
    from duly.store.schema import Names, tables

    made = tables(Names())
    assert set(ENDED) <= set(made.jobs.c.keys())
    assert set(ENDED) <= set(made.executions.c.keys())
    assert "envelope" not in ENDED
