"""``duly ledger``, ``prune`` and ``resolve``."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import update

from duly.model.ids import derived_id
from tests.cli.conftest import Shop
from tests.cli.test_looking import fail


@pytest.fixture
def here(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """The shop on SQLite, named by ``DULY_APP``. What the databases do is shown in ``tests/store``."""
    monkeypatch.setenv("DULY_APP", "shop.tasks:jobs")
    return shop


def ended(shop: Shop, number: int) -> list[str]:
    """Jobs that succeeded, in the order in which they ended: an hour apart, the last one now."""
    tasks = shop.tasks()
    jobs = [str(tasks.send_welcome.enqueue(n).id) for n in range(number)]
    tasks.jobs.drain()
    for n, job in enumerate(reversed(jobs)):
        turn(shop, job, ended_at=datetime.now(UTC) - timedelta(hours=n))
    return jobs


def turn(shop: Shop, job: str, **columns: Any) -> None:
    """Change a row of the ledger."""
    store = shop.tasks().jobs.store
    table = store.tables.executions
    with store.writing() as connection:
        connection.execute(update(table).where(table.c.job_id == UUID(job)).values(**columns))


def uncertain(shop: Shop) -> str:
    """A job that ended so that nobody knows what it did."""
    job = fail(shop)
    turn(shop, job, outcome="uncertain", cause="its worker died after it had started")
    return job


def listed(shop: Shop, *options: str) -> list[str]:
    answer = shop.duly("ledger", "--json", *options)
    assert answer.code == 0, answer.err
    return [job["id"] for job in answer.json["jobs"]]


# ── ledger ────────────────────────────────────────────────────────────────────────────────────


def test_the_ledger_shows_the_last_ended_first_page_by_page(here: Shop) -> None:
    jobs = ended(here, 5)
    assert listed(here) == jobs[::-1]
    first = here.duly("ledger", "--limit", "2", "--json").json
    assert ([job["id"] for job in first["jobs"]], first["before"]) == (jobs[:2:-1], jobs[3])
    assert listed(here, "--limit", "2", "--before", first["before"]) == [jobs[2], jobs[1]]
    last = here.duly("ledger", "--limit", "2", "--before", jobs[1], "--json").json
    assert ([job["id"] for job in last["jobs"]], last["before"]) == ([jobs[0]], None)
    text = here.duly("ledger", "--limit", "4")
    assert text.out.splitlines()[-1] == f"There are more: --before {jobs[1]}"
    assert [line.split()[2] for line in text.out.splitlines()[2:6]] == jobs[:0:-1]


def test_equal_ends_are_told_apart(here: Shop) -> None:
    jobs = ended(here, 4)
    for job in jobs:
        turn(here, job, ended_at=datetime(2026, 5, 1, tzinfo=UTC))
    assert [
        listed(here, "--limit", "1", *(["--before", job] if job else []))[0]
        for job in (None, *sorted(jobs)[:0:-1])
    ] == sorted(jobs)[::-1]


def test_the_ledger_is_searched_by_task_queue_outcome_and_time(here: Shop) -> None:
    jobs, failed = ended(here, 3), fail(here)
    assert listed(here, "--outcome", "failed") == listed(here, "--task", "shop.tasks.breaks") == [failed]
    assert listed(here, "--queue", "mail", "--outcome", "succeeded") == jobs[::-1]
    assert listed(here, "--queue", "none") == []
    assert listed(here, "--since", "90m", "--queue", "mail") == jobs[:0:-1]
    assert listed(here, "--until", "90m", "--queue", "mail") == jobs[:1]
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert listed(here, "--since", f"{tomorrow:%Y-%m-%d}") == []
    assert listed(here, "--until", tomorrow.isoformat(), "--limit", "1") == [failed]
    assert here.duly("ledger", "--queue", "none").out == "No such jobs have ended.\n"


def test_what_the_ledger_shows_of_a_job(here: Shop) -> None:
    failed = fail(here)
    [job] = here.duly("ledger", "--json").json["jobs"]
    assert (job["id"], job["outcome"], job["attempts"], job["principal"]) == (failed, "failed", 2, None)
    assert job["worker"]
    assert "ValueError" in job["cause"]
    assert {"enqueued_at", "run_at", "started_at", "ended_at", "expires_at"} <= set(job)
    line = here.duly("ledger").out.splitlines()[2]
    assert re.match(rf"\S+ \S+ +{failed} +shop.tasks.breaks +failed +2 +\S+ +ValueError in attempt 2", line)


def test_an_origin_shows_its_manual_retries(here: Shop) -> None:
    first = fail(here)
    ended(here, 2)
    second = here.duly("retry", first, "--json").json["id"]
    here.tasks().jobs.drain()
    assert listed(here, "--origin", first) == listed(here, "--origin", second) == [second, first]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--since", "yesterday"], 2, "'yesterday' is no instant: write 2026-07-21"),
        (["--before", "0198a1c2-8d3e-7f40-9c55-2b1f6f0f9a01"], 1, "there is no job 0198a1c2"),
        (["--before", "x"], 2, "'x' is no job id"),
        (["--outcome", "lost"], 2, "lost"),
        (["--limit", "0"], 2, "limit"),
    ],
)
def test_what_the_ledger_cannot_be_asked(shop: Shop, options: list[str], code: int, message: str) -> None:
    shop.duly("migrate")
    answer = shop.duly("ledger", *options)
    assert (answer.code, answer.out) == (code, "")
    assert message in answer.err


# ── prune ─────────────────────────────────────────────────────────────────────────────────────


def test_prune_says_what_it_does_and_dry_run_what_it_would_do(here: Shop) -> None:
    jobs, failed = ended(here, 3), fail(here)
    old = datetime.now(UTC) - timedelta(days=40)
    turn(here, jobs[0], ended_at=old, expires_at=old)
    turn(here, failed, ended_at=old)
    would = here.duly("prune", "--dry-run")
    assert (would.code, would.out) == (0, "would empty 1 ended job, remove 1\n")
    assert here.duly("prune", "--json").json == {
        "dry_run": False, "emptied": 1, "removed": 1, "keys": 0, "steps": 0
    }  # fmt: skip
    assert listed(here) == [jobs[2], jobs[1], failed]
    assert here.duly("prune").out == "emptied 0 ended jobs, removed 0\n"
    assert here.database.rows("SELECT action FROM duly_audit") == [("pruned",)]
    retry = here.duly("retry", failed)
    assert (retry.code, retry.out) == (1, "")
    assert "its arguments were pruned" in retry.err


def test_how_long_is_kept_is_a_setting(here: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DULY_KEEP_FAILED", "50.5")
    failed = fail(here)
    turn(here, failed, ended_at=datetime.now(UTC) - timedelta(days=40))
    assert here.duly("prune", "--json").json["emptied"] == 0
    turn(here, failed, ended_at=datetime.now(UTC) - timedelta(days=51))
    assert here.duly("prune", "--json").json["emptied"] == 1


# ── resolve ───────────────────────────────────────────────────────────────────────────────────


def test_a_verdict_stands_beside_the_outcome(here: Shop) -> None:
    job = uncertain(here)
    answer = here.duly("resolve", job, "--failed", "--reason", "the bank has no such transfer")
    assert (answer.code, answer.out) == (0, f"resolved {job}: failed\n")
    shown = here.duly("job", job, "--json").json
    assert (shown["outcome"], shown["resolution"]["verdict"]) == ("uncertain", "failed")
    assert shown["resolution"]["reason"] == "the bank has no such transfer"
    assert re.search(
        r"Resolved +failed, by \S+.* \(.* ago\): the bank has no such transfer", here.duly("job", job).out
    )
    assert "uncertain, failed" in here.duly("ledger").out
    assert here.database.rows("SELECT action FROM duly_audit") == [("resolved",)]


def test_the_first_verdict_stands(here: Shop) -> None:
    job = uncertain(here)
    first = here.duly("resolve", job, "--succeeded", "--json").json
    assert here.duly("resolve", job, "--succeeded", "--reason", "again", "--json").json == first
    other = here.duly("resolve", job, "--failed")
    assert (other.code, other.out) == (1, "")
    assert f"job {job} was resolved as succeeded by" in other.err
    retry = here.duly("retry", job)
    assert retry.code == 1
    assert "was resolved as succeeded" in retry.err
    assert here.database.rows("SELECT count(*) FROM duly_audit") == [(1,)]


def test_again_makes_the_retry_that_retry_would_make(migrated: Shop) -> None:
    job = uncertain(migrated)
    fresh = str(derived_id(UUID(job), "retry"))
    answer = migrated.duly("resolve", job, "--again")
    assert answer.out == f"resolved {job}: enqueued again as {fresh}\n"
    assert migrated.duly("resolve", job, "--again", "--json").json["again"] == fresh
    assert migrated.duly("retry", job, "--json").json["id"] == fresh
    assert migrated.duly("job", fresh, "--json").json["origin"] == job
    assert f"again, as {fresh}, by" in migrated.duly("job", job).out
    assert migrated.database.rows("SELECT count(*) FROM duly_jobs") == [(1,)]


def test_a_retry_of_an_uncertain_job_resolves_it(here: Shop) -> None:
    job = uncertain(here)
    fresh = here.duly("retry", job, "--json").json["id"]
    assert here.duly("job", job, "--json").json["resolution"]["again"] == fresh
    assert here.duly("resolve", job, "--succeeded").code == 1


def test_a_job_resolved_as_failed_may_be_retried(here: Shop) -> None:
    job = uncertain(here)
    here.duly("resolve", job, "--failed")
    assert here.duly("retry", job).code == 0
    assert here.duly("job", job, "--json").json["resolution"]["verdict"] == "failed"


def test_what_cannot_be_resolved(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DULY_APP", "shop.tasks:jobs")
    failed, waiting = fail(shop), str(shop.tasks().send_welcome.enqueue(1).id)
    for job, why in ((failed, "ended failed"), (waiting, "is available")):
        answer = shop.duly("resolve", job, "--failed")
        assert (answer.code, answer.out) == (1, "")
        assert f"{why}: there is nothing uncertain about it" in answer.err
    for options in ([], ["--failed", "--again"]):
        answer = shop.duly("resolve", failed, *options)
        assert answer.code == 2
        assert "one of --succeeded, --failed, --again" in answer.err
