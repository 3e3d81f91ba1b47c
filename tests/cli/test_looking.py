"""``duly status``, ``check``, ``job`` and ``tasks``: what they say, for people and for scripts."""

from __future__ import annotations

import os
import pty
import re
import termios
from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.cli.conftest import Shop

AGO = {
    "postgresql": "now() - interval '10 min'",
    "sqlite": "datetime('now', '-600 seconds')",
    "mysql": "UTC_TIMESTAMP(6) - INTERVAL 600 SECOND",
}


def silence(shop: Shop) -> None:
    """Let the jobs that wait look as if they had waited for ten minutes."""
    shop.database.rows(f"UPDATE duly_jobs SET run_at = {AGO[shop.database.name]} WHERE state = 'available'")


def fail(shop: Shop, text: str = "x") -> str:
    """A job that has failed; its id."""
    tasks = shop.tasks()
    job = tasks.breaks.enqueue(text)
    while job.refresh().outcome is None:
        tasks.jobs.drain()
    return str(job.id)


def test_status_of_an_empty_queue_says_so(migrated: Shop) -> None:
    answer = migrated.duly("status")
    assert answer.code == 0
    for line in ("No unfinished jobs.", "No jobs have ended.", "No workers; `duly work` starts some."):
        assert line in answer.out


def test_status_counts_queues_and_outcomes(migrated: Shop) -> None:
    tasks = migrated.tasks()
    fail(migrated)
    for user in range(3):
        tasks.send_welcome.enqueue(user)
    tasks.charge.using(run_in=3600).enqueue(1)
    out = migrated.duly("status").out
    assert re.search(r"^mail +0 +3 +0 +0 +\S+s$", out, re.MULTILINE)
    assert re.search(r"^money +1 +0 +0 +0 +-$", out, re.MULTILINE)
    assert re.search(r"Succeeded +Failed +Expired.*\n.*\n +0 +1 +0", out)
    assert "Took more than one attempt: 1. Were rescued: 0." in out
    assert max(map(len, out.splitlines()[1:])) <= 80  # the first line is the URL


def test_status_and_clear_know_suspects(migrated: Shop) -> None:
    migrated.tasks().send_welcome.enqueue(1)
    migrated.database.rows("UPDATE duly_jobs SET state = 'suspect', deaths = 1")
    assert re.search(r"^mail +0 +0 +0 +1 +-$", migrated.duly("status").out, re.MULTILINE)
    told = migrated.duly("status", "--json").json
    assert (told["states"]["suspect"], told["queues"][0]["suspect"]) == (1, 1)
    assert migrated.duly("clear", "--queue", "mail", "--yes").out == "cancelled 1 waiting job in queue mail\n"


STATUS_KEYS = ["database", "enqueued", "states", "outcomes", "retried", "rescued", "queues", "workers"]


def test_status_as_json_has_its_documented_keys(migrated: Shop) -> None:
    migrated.tasks().send_welcome.enqueue(1)
    answer = migrated.duly("status", "--json")
    assert answer.err == ""
    assert list(answer.json) == STATUS_KEYS
    assert answer.json["states"] == {"scheduled": 0, "available": 1, "running": 0, "suspect": 0}
    assert set(answer.json["outcomes"].values()) == {0}
    [queue] = answer.json["queues"]
    assert list(queue) == ["name", "scheduled", "available", "running", "suspect", "oldest_seconds"]
    assert 0 <= queue["oldest_seconds"] < 60


def test_status_shows_no_password(migrated: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    if migrated.database.name == "sqlite":
        return
    url = re.sub(r"//(\w+)(:\w+)?@", r"//\1:hush@", migrated.url)
    monkeypatch.setenv("DULY_DATABASE_URL", url)
    monkeypatch.delenv("DULY_APP")
    answer = migrated.duly("status", "--json")
    assert "hush" not in answer.out + answer.err


def test_status_on_a_terminal_fits_its_width(shop: Shop) -> None:
    shop.tasks().send_welcome.using(queue="a-queue-with-a-name-" * 6).enqueue(1)
    shop.close()
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 60))
    with shop.start("status", stdout=theirs, COLUMNS="60", TERM="xterm") as process:
        os.close(theirs)
        said = b""
        with suppress(OSError):  # the end of a terminal
            while part := os.read(ours, 4096):
                said += part
    os.close(ours)
    assert process.returncode == 0
    assert b"\x1b[" in said
    lines = re.sub(r"\x1b\[[0-9;]*m", "", said.decode()).splitlines()
    assert max(map(len, lines)) <= 60
    assert "a-queue-with-a-name-" * 6 in "".join(line.split(" ")[0] for line in lines)


def test_check_is_content_when_nothing_waits(migrated: Shop) -> None:
    migrated.tasks().send_welcome.using(run_in=3600).enqueue(1)
    answer = migrated.duly("check", "--max-age", "0")
    assert (answer.code, answer.out) == (0, "OK: no job is waiting that could run\n")
    assert migrated.duly("check", "--max-age", "0", "--json").json == {
        "ok": True,
        "max_age_seconds": 0,
        "queue": None,
        "oldest_seconds": None,
    }


def test_check_names_the_queue_that_waits_too_long(migrated: Shop) -> None:
    migrated.tasks().send_welcome.enqueue(1)
    silence(migrated)
    migrated.tasks().charge.enqueue(1)
    late = migrated.duly("check", "--max-age", "300")
    assert late.code == 1
    assert re.fullmatch(
        r"LATE: in queue mail the oldest job that could run has waited 10m\S*, longer than 5m\n", late.out
    )
    answer = migrated.duly("check", "--max-age", "300", "--json")
    assert (answer.code, answer.json["ok"], answer.json["queue"]) == (1, False, "mail")
    assert answer.json["oldest_seconds"] >= 600
    assert migrated.duly("check", "--max-age", "3600").code == 0


def test_check_counts_a_job_that_is_due_and_that_no_worker_has_made_available(migrated: Shop) -> None:
    migrated.tasks().send_welcome.using(run_in=3600).enqueue(1)
    migrated.database.rows(f"UPDATE duly_jobs SET run_at = {AGO[migrated.database.name]}")
    answer = migrated.duly("check", "--max-age", "300")
    assert (answer.code, "LATE: in queue mail" in answer.out) == (1, True)


def test_job_shows_where_it_stands(migrated: Shop) -> None:
    job = migrated.tasks().send_welcome.using(run_in=3600).enqueue(1)
    out = migrated.duly("job", str(job.id)).out
    assert re.search(r"^Task +shop\.tasks\.send_welcome *$", out, re.MULTILINE)
    assert re.search(r"^State +scheduled *$", out, re.MULTILINE)
    assert re.search(
        r"^Runs at +\S+ \S+ UTC \(in 1h\)|^Runs at +\S+ \S+ UTC \(in 59m\d+s\)", out, re.MULTILINE
    )


def test_job_shows_what_went_wrong_and_nothing_that_moves_the_cursor(migrated: Shop) -> None:
    job = fail(migrated)
    answer = migrated.duly("job", job, "--traceback")
    assert answer.code == 0
    assert "\x1b" not in answer.out
    assert answer.out.count(r"ValueError: \x1b[31mred\nx") == 2
    assert answer.out.count("Traceback (most recent call last):") == 2
    assert "Traceback" not in migrated.duly("job", job).out


ATTEMPT_KEYS = ["attempt", "claim", "worker", "started_at", "ended_at", "cause", "error"]


def test_job_as_json_has_its_documented_keys(migrated: Shop) -> None:
    job = fail(migrated)
    told: dict[str, Any] = migrated.duly("job", job, "--json").json
    assert told["outcome"] == "failed"
    assert datetime.fromisoformat(told["ended_at"]).utcoffset() is not None
    assert [list(one) for one in told["history"]] == [ATTEMPT_KEYS] * 2
    assert told["history"][0]["error"] == {"type": "ValueError", "message": "\x1b[31mred\nx"}
    [_, last] = migrated.duly("job", job, "--json", "--traceback").json["history"]
    assert last["traceback"].startswith("Traceback")


@pytest.mark.parametrize("command", ["job", "retry", "cancel"])
def test_a_job_that_is_not_there_is_exit_code_1(migrated: Shop, command: str) -> None:
    answer = migrated.duly(command, str(uuid4()))
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith("duly: there is no job ")


def test_a_job_can_be_looked_at_without_the_app(migrated: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    job = fail(migrated)
    monkeypatch.delenv("DULY_APP")
    assert UUID(migrated.duly("job", job, "--json").json["id"]) == UUID(job)


def test_tasks_lists_queue_effects_kind_and_place(shop: Shop) -> None:
    out = shop.duly("tasks", "--app", "shop.tasks").out
    assert re.search(
        r"^shop\.tasks\.charge +money +transactional +sync +shop/tasks\.py:\d+ *$", out, re.MULTILINE
    )
    assert re.search(r"^shop\.tasks\.fetch +mail +- +async +shop/tasks\.py:\d+ *$", out, re.MULTILINE)
    told = shop.duly("tasks", "--app", "shop.tasks", "--json").json
    assert [list(one) for one in told] == [["name", "queue", "effects", "kind", "where"]] * 4


def test_tasks_of_an_app_without_any_says_what_to_do(shop: Shop) -> None:
    shop.write("shop/empty.py", "from duly import Duly\njobs = Duly()\n")
    assert "include=" in shop.duly("tasks", "--app", "shop.empty").out
    assert shop.duly("tasks", "--app", "shop.empty", "--json").json == []
