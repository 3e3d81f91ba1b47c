"""``duly work`` and ``duly workoff``, as processes."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.cli.conftest import Shop


def lines_until(process: subprocess.Popen[str], word: str) -> Iterator[str]:
    """The lines of the log up to one with *word* in it."""
    assert process.stderr is not None
    for line in process.stderr:
        yield line
        if word in line:
            return
    raise AssertionError(f"the process ended before it said {word!r}")


def test_workoff_leaves_when_nothing_is_left(migrated: Shop) -> None:
    tasks = migrated.tasks()
    for user in range(20):
        tasks.send_welcome.enqueue(user)
    tasks.charge.enqueue(1)
    tasks.charge.using(run_in=3600).enqueue(2)
    tasks.jobs.close()
    answer = migrated.run("workoff", "--processes", "2", "--verbose")
    assert answer.code == 0
    assert answer.out == ""
    assert answer.err.count("event=job_ended") == 21
    told = migrated.duly("status", "--json").json
    assert told["outcomes"]["succeeded"] == 21
    assert told["states"]["scheduled"] == 1
    assert told["workers"] == []


def test_workoff_serves_the_queues_that_are_named(migrated: Shop) -> None:
    tasks = migrated.tasks()
    tasks.send_welcome.enqueue(1)
    tasks.charge.enqueue(1)
    tasks.jobs.close()
    assert migrated.run("workoff", "--queues", "mon*,default").code == 0
    assert [queue["name"] for queue in migrated.duly("status", "--json").json["queues"]] == ["mail"]


def test_work_runs_until_told_to_stop_and_is_seen_in_the_status(migrated: Shop) -> None:
    with migrated.start("work", "--queues", "mail", "--log-format", "json") as process:
        try:
            said = [json.loads(line) for line in lines_until(process, '"role": "worker"')]
            [worker] = migrated.duly("status", "--json").json["workers"]
            shown = migrated.duly("status").out
            process.send_signal(signal.SIGTERM)
            _, rest = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    said += [json.loads(line) for line in rest.splitlines()]
    assert said[0]["event"] == "notice"
    assert "envelopes are plain" in said[0]["text"]
    assert said[-1]["event"] == "stopped"
    assert list(worker) == ["id", "host", "pid", "queues", "started_at", "silent_seconds"]
    assert worker["queues"] == "mail"
    assert worker["pid"] != process.pid
    assert (worker["silent_seconds"] is None) == (migrated.database.name == "sqlite")
    assert worker["id"] in shown
    assert max(map(len, shown.splitlines()[1:])) <= 80  # the first line is the URL


def test_processes_have_titles(migrated: Shop) -> None:
    """Which app, which queues: nothing that was given on the command line."""
    pools = ("--pool", "mail:1", "--pool", "mon*,default:1")
    with migrated.start("work", *pools, "--log-format", "json") as process:
        try:
            for _ in range(2):
                list(lines_until(process, '"role": "worker"'))
            titles = {title(process.pid), *(title(worker["pid"]) for worker in workers(migrated))}
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
        finally:
            process.kill()
    assert titles == {
        "duly: supervisor shop.tasks:jobs", "duly: worker mail", "duly: worker mon*,default",
    }  # fmt: skip


def title(pid: int) -> str:
    """What ``ps`` shows of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0")


def workers(shop: Shop) -> list[dict[str, int]]:
    found: list[dict[str, int]] = shop.duly("status", "--json").json["workers"]
    return found


def test_a_log_of_work_holds_neither_arguments_nor_messages_of_exceptions(migrated: Shop) -> None:
    tasks = migrated.tasks()
    tasks.breaks.enqueue("our-secret")
    tasks.jobs.close()
    answer = migrated.run("workoff", "--verbose")
    assert "error=ValueError" in answer.err
    assert "our-secret" not in answer.err
    assert "\x1b" not in answer.err


def test_with_a_key_no_notice_says_that_envelopes_are_plain(shop: Shop) -> None:
    key = shop.duly("keys", "new").out.strip()
    answer = shop.run("workoff", "--app", "shop.tasks", DULY_KEYS=key)
    assert answer.code == 0
    assert "plain" not in answer.err
    assert key.partition(":")[2] not in answer.err


def test_plain_jobs_where_a_key_is_set_refuse_the_start(shop: Shop) -> None:
    tasks = shop.tasks()
    tasks.send_welcome.enqueue(1)
    tasks.jobs.close()
    key = shop.duly("keys", "new").out.strip()
    answer = shop.run("work", "--app", "shop.tasks", DULY_KEYS=key)
    assert answer.code == 2
    assert answer.err.startswith("duly: DULY_KEYS is set, and jobs with plain envelopes still wait")
    assert answer.err.count("\n") == 1
