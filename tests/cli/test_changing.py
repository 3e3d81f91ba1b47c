"""``duly clear``, ``retry``, ``cancel`` and ``migrate``."""

from __future__ import annotations

import sys

import pytest

from tests.cli.conftest import MakeShop, Shop
from tests.cli.test_looking import fail
from tests.databases import Database


class Terminal:
    """A stdin where somebody sits who answers."""

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return self.answer


def answer_with(monkeypatch: pytest.MonkeyPatch, answer: str) -> list[str]:
    """Answer questions on a terminal; the questions."""
    asked: list[str] = []
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr("builtins.input", lambda prompt="": asked.append(prompt) or answer)
    return asked


def waiting(shop: Shop) -> dict[str, int]:
    return {
        queue["name"]: queue["available"] + queue["scheduled"]
        for queue in shop.duly("status", "--json").json["queues"]
    }


def enqueue_some(shop: Shop) -> None:
    tasks = shop.tasks()
    tasks.send_welcome.enqueue(1)
    tasks.send_welcome.using(run_in=3600).enqueue(2)
    tasks.fetch.enqueue("x")
    tasks.charge.enqueue(3)


def test_clear_without_a_terminal_needs_yes_and_says_the_number(migrated: Shop) -> None:
    enqueue_some(migrated)
    answer = migrated.run("clear", "--queue", "mail")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == (
        "duly: this cancels 3 waiting jobs in queue mail: say --yes, since there is no terminal to ask on\n"
    )
    assert waiting(migrated) == {"mail": 3, "money": 1}


@pytest.mark.parametrize(
    ("options", "said", "left"),
    [
        ([], "cancelled 4 waiting jobs", {}),
        (["--queue", "mail"], "cancelled 3 waiting jobs in queue mail", {"money": 1}),
        (
            ["--task", "shop.tasks.fetch"],
            "cancelled 1 waiting job of task shop.tasks.fetch",
            {"mail": 2, "money": 1},
        ),
        (["--queue", "mial"], "cancelled 0 waiting jobs in queue mial", {"mail": 3, "money": 1}),
    ],
)
def test_clear_cancels_what_was_asked_for(
    migrated: Shop, options: list[str], said: str, left: dict[str, int]
) -> None:
    enqueue_some(migrated)
    answer = migrated.duly("clear", *options, "--yes")
    assert (answer.code, answer.out) == (0, f"{said}\n")
    assert waiting(migrated) == left


def test_clear_on_a_terminal_asks_with_the_number(migrated: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    enqueue_some(migrated)
    answer_with(monkeypatch, "n")
    refused = migrated.duly("clear", "--queue", "mail")
    assert refused.code == 1
    assert refused.err.endswith("duly: nothing was cancelled\n")
    assert waiting(migrated)["mail"] == 3
    answer_with(monkeypatch, "y")
    assert migrated.duly("clear", "--queue", "mail").code == 0
    assert waiting(migrated) == {"money": 1}


def test_clear_is_in_the_audit_log_under_the_name_of_the_user(migrated: Shop) -> None:
    enqueue_some(migrated)
    migrated.duly("clear", "--yes")
    [(actor, action)] = migrated.database.rows("SELECT actor, action FROM duly_audit")
    assert (actor, action) != ("operator", "cleared")
    assert action == "cleared"


def test_retry_enqueues_a_new_job_once(migrated: Shop) -> None:
    job = fail(migrated)
    first = migrated.duly("retry", job, "--json")
    assert first.code == 0
    assert first.json["retry_of"] == job
    again = migrated.duly("retry", job)
    assert again.out == f"enqueued again as {first.json['id']}\n"
    assert migrated.duly("job", first.json["id"], "--json").json["origin"] == job
    assert waiting(migrated) == {"default": 1}


def test_retry_of_a_waiting_job_is_refused_with_the_reason(migrated: Shop) -> None:
    job = migrated.tasks().send_welcome.enqueue(1)
    answer = migrated.duly("retry", str(job.id), "--json")
    assert (answer.code, answer.out) == (1, "")
    assert "has not ended" in answer.err


def test_cancel_ends_a_waiting_job_and_leaves_an_ended_one(migrated: Shop) -> None:
    job = str(migrated.tasks().send_welcome.enqueue(1).id)
    assert migrated.duly("cancel", job, "--json").json == {
        "id": job,
        "cancelled": True,
        "state": None,
        "outcome": "cancelled",
    }
    again = migrated.duly("cancel", job)
    assert (again.code, again.out) == (1, "")
    assert again.err == f"duly: job {job} was not cancelled: it has ended cancelled\n"
    assert migrated.duly("cancel", job, "--json").json["cancelled"] is False


def test_migrate_makes_the_tables_once(make_shop: MakeShop, database: Database) -> None:
    shop = make_shop(database)
    first = shop.duly("migrate", "--json")
    assert first.code == 0
    assert list(first.json) == ["database", "before", "after"]
    assert first.json["before"] is None
    second = shop.duly("migrate")
    assert f"nothing to do, the tables are at revision {first.json['after']}" in second.out
