"""For each rule of the worker a worker that breaks it, and a check that is seen to notice.

A check that passed on its mutant would show nothing. The mutants are tried where the rule matters: on
PostgreSQL, where others may write and judge meanwhile; the sound worker is checked on both databases.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import bindparam, update

from duly.model.report import PutBack
from duly.store import tasktransaction
from duly.store.outcomes import Outcomes
from duly.worker.executor import Executor
from duly.worker.services import membership
from duly.worker.services.membership import Membership
from duly.worker.standing import Standing
from tests.worker import checks
from tests.worker.stage import Stage

Mutate = Callable[[pytest.MonkeyPatch], None]


def no_reconcile(patch: pytest.MonkeyPatch) -> None:
    """A lost reply is forgotten."""
    patch.setattr(Standing, "_reconcile", lambda *_: None)


def judge_at_once(patch: pytest.MonkeyPatch) -> None:
    """No lease has to pass after a gap."""
    patch.setattr(Membership, "may_judge", lambda _: True)


def find_before_open(patch: pytest.MonkeyPatch) -> None:
    """The task is looked up before the envelope is opened."""
    sound = Executor.prepare

    def prepare(self: Executor, job: Any, *rest: Any) -> Any:
        if self._home.find(job.task) is None:
            return self._put_back(job, "no such task")
        return sound(self, job, *rest)

    patch.setattr(Executor, "prepare", prepare)


def finish_outside(patch: pytest.MonkeyPatch) -> None:
    """The effect is committed first, the outcome after it."""
    sound = tasktransaction._Steps.record

    def record(self: Any, connection: Any, *rest: Any) -> None:
        type(connection).commit(connection)
        self._released = True
        self._store.dialect.begin(connection)
        connection.exec_driver_sql(f"SAVEPOINT {self._savepoint}")
        sound(self, connection, *rest)

    patch.setattr(tasktransaction._Steps, "record", record)


def count_put_backs(patch: pytest.MonkeyPatch) -> None:
    """A job that could not run here has used an attempt."""
    sound = Executor._put_back

    def put_back(self: Executor, job: Any, cause: str) -> PutBack:
        return dataclasses.replace(sound(self, job, cause), counted=True)

    patch.setattr(Executor, "_put_back", put_back)


def keep_worker(patch: pytest.MonkeyPatch) -> None:
    """What is given back still names who gave it back."""

    def give_back(self: Outcomes, connection: Any, updates: list[dict[str, Any]]) -> None:
        if updates:
            jobs = self.tables.jobs
            moved: dict[str, Any] = {
                name: bindparam(f"new_{name}") for name in ("state", "run_at", "attempt")
            }
            connection.execute(update(jobs).where(jobs.c.id == bindparam("job")).values(**moved), updates)

    patch.setattr(Outcomes, "_update", give_back)


def enter_again(patch: pytest.MonkeyPatch) -> None:
    """A worker whose row is gone puts it back."""
    patch.setattr(membership, "new_worker_id", lambda: "here.1.always")


MUTANTS: list[tuple[Mutate, Callable[[Stage], None]]] = [
    (no_reconcile, checks.check_a_lost_exchange_reply_strands_nothing),
    (judge_at_once, checks.check_a_gap_of_the_database_rescues_nobody_who_lives),
    (find_before_open, checks.check_an_edited_task_is_rejected_though_nobody_knows_it),
    (finish_outside, checks.check_an_effect_stands_only_with_its_outcome),
    (count_put_backs, checks.check_a_put_back_uses_no_attempt),
    (keep_worker, checks.check_what_waited_too_long_goes_back_as_if_nothing_had_happened),
    (enter_again, checks.check_a_worker_taken_for_dead_takes_a_new_id),
]


@pytest.mark.parametrize(("mutate", "check"), MUTANTS, ids=[mutate.__name__ for mutate, _ in MUTANTS])
def test_the_check_notices(
    postgresql: Stage, monkeypatch: pytest.MonkeyPatch, mutate: Mutate, check: Callable[[Stage], None]
) -> None:
    postgresql.patience = 1.0
    mutate(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(postgresql)


@pytest.mark.parametrize(("mutate", "check"), MUTANTS, ids=[mutate.__name__ for mutate, _ in MUTANTS])
def test_the_check_passes_on_a_sound_worker(
    postgresql: Stage, mutate: Mutate, check: Callable[[Stage], None]
) -> None:
    """Else what it noticed above were nothing."""
    check(postgresql)
