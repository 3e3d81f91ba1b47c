"""Each rule of keys, broken on purpose: the check that shows the rule is seen to fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, delete

from duly.client import Client
from duly.model.unique import Caller, Key, Until
from duly.store.keyed import KeyedInsert
from duly.store.keys import Held, Keys
from tests.worker import uniqueness
from tests.worker.stage import Stage

Patch = pytest.MonkeyPatch


def nothing_released_by_the_claim(patch: Patch) -> None:
    patch.setattr(Keys, "begun", lambda *_: None)


def nothing_released_by_the_end(patch: Patch) -> None:
    patch.setattr(Keys, "ended", lambda *_: None)


def released_whoever_holds_it(patch: Patch) -> None:
    def ended(self: Keys, connection: Connection, jobs: Any) -> None:
        connection.execute(delete(self.tables.keys))

    patch.setattr(Keys, "ended", ended)


def a_job_stands_in_its_own_way(patch: Patch) -> None:
    patch.setattr(KeyedInsert, "_own", lambda *_: False)


def windows_last_for_ever(patch: Patch) -> None:
    look = Keys.look
    patch.setattr(
        Keys,
        "look",
        lambda *asked: {key: held._replace(over=False) for key, held in look(*asked).items()},
    )


def the_replaced_job_stays(patch: Patch) -> None:
    def replace(self: KeyedInsert, held: Held, key: Key, job: Any) -> bool:
        return self.keys.move(self.connection, held, key, job.id)

    patch.setattr(KeyedInsert, "_replace", replace)


def an_error_is_an_answer(patch: Patch) -> None:
    patch.setattr(KeyedInsert, "_refuse", lambda *_: None)


def a_repetition_is_taken_for_new(patch: Patch) -> None:
    patch.setattr(Caller, "repeating", lambda self: self)


def other_content_is_the_same(patch: Patch) -> None:
    patch.setattr(Client, "_compare", lambda *_: None)


def a_retry_extends_nothing(patch: Patch) -> None:
    patch.setattr(Keys, "extend", lambda *_: None)


def a_look_is_enough(patch: Patch) -> None:
    """Check, then act: what the unique index would say is not heard."""

    def take(self: Keys, connection: Connection, wanted: dict[str, tuple[Key, Any]]) -> dict[str, Held]:
        real(self, connection, wanted)
        return {key: Held(key, job, Until.END, over=False, waits=True) for key, (_, job) in wanted.items()}

    real = Keys.take
    patch.setattr(Keys, "take", take)


def nothing_is_held_back(patch: Patch) -> None:
    patch.setattr(KeyedInsert, "_waits_for_us", lambda *_: True)


MUTANTS: list[tuple[Callable[[Patch], None], str, str]] = [
    (
        nothing_released_by_the_claim,
        "a_waiting_key_is_released_by_the_first_claim_and_never_retaken",
        "sqlite",
    ),
    (nothing_released_by_the_end, "an_unfinished_key_is_held_until_the_end_whatever_it_is", "sqlite"),
    (released_whoever_holds_it, "a_key_is_released_by_its_job_alone", "sqlite"),
    (a_job_stands_in_its_own_way, "a_key_is_released_by_its_job_alone", "sqlite"),
    (windows_last_for_ever, "a_window_is_held_past_the_end_until_it_passes", "sqlite"),
    (the_replaced_job_stays, "a_waiting_job_is_replaced_and_ends_cancelled", "sqlite"),
    (an_error_is_an_answer, "an_error_names_the_other_job_and_writes_nothing", "sqlite"),
    (
        a_repetition_is_taken_for_new,
        "a_repeated_enqueue_whose_reply_was_lost_is_one_job_with_one_key",
        "sqlite",
    ),
    (other_content_is_the_same, "an_idempotency_key_finds_its_job_waiting_or_ended", "sqlite"),
    (a_retry_extends_nothing, "a_retry_by_hand_takes_the_key_and_extends_the_other", "sqlite"),
    (a_look_is_enough, "a_crowd_that_enqueues_one_key_makes_one_job", "postgresql"),
    (
        nothing_is_held_back,
        "an_existing_job_waits_for_the_transaction_that_was_answered_with_it",
        "postgresql",
    ),
]


@pytest.mark.parametrize(
    ("mutant", "rule", "database"), MUTANTS, ids=[mutant.__name__ for mutant, _, _ in MUTANTS]
)
def test_mutant_is_caught(
    request: pytest.FixtureRequest,
    monkeypatch: Patch,
    mutant: Callable[[Patch], None],
    rule: str,
    database: str,
) -> None:
    stage: Stage = request.getfixturevalue(database)
    mutant(monkeypatch)
    with pytest.raises((Exception, pytest.fail.Exception)):  # an assertion, or what the database says
        getattr(uniqueness, f"check_{rule}")(stage)
