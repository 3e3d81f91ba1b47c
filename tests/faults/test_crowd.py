"""Many processes at once, and nothing goes wrong: each job once."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import timedelta

from tests.faults.ground import LONG, Ground, figures
from tests.faults.tasks import effect, hold, note, second_time_lucky
from tests.faults.terminal import environment_of, until

Record = Callable[[str, object], None]


def test_8_processes_10_000_jobs_each_once(ground: Ground, record_property: Record) -> None:
    jobs, transactional = (
        (100_000 if LONG else 10_000),
        (100 if ground.database.name == "sqlite" else 300),
    )
    ground.enqueue(*(effect.call(n) for n in range(transactional)))
    ground.enqueue(*(note.call(n) for n in range(jobs - transactional)))
    terminal = ground.terminal(processes=8)
    ground.all_done()
    assert terminal.stop() == 0
    books = ground.check(calm=True)
    assert Counter(row.outcome for row in books.ended) == {"succeeded": jobs}
    assert len(books.starts) == jobs
    times = sorted(start.at for start in books.starts)
    figures(
        record_property,
        jobs_a_second=jobs / (times[-1] - times[0]),
        processes=len({s.worker for s in books.starts}),
    )


def test_workoff_with_3_processes_leaves_nothing_and_leaves(ground: Ground) -> None:
    jobs = ground.enqueue(
        *(note.call(n) for n in range(300)),
        *(effect.call(n) for n in range(30)),
        *(note.using(queue="other").call(n) for n in range(30)),
    )
    later = ground.enqueue(note.using(run_in=timedelta(hours=1)).call(0))
    terminal = ground.terminal(command="workoff", processes=3)
    assert terminal.ended() == 0
    assert terminal.children == []
    ground.check(calm=True, finished=False)
    assert ground.database.rows("SELECT count(*) FROM duly_executions WHERE outcome = 'succeeded'") == [
        (len(jobs),)
    ]
    assert [row.job for row in ground.books().unfinished] == later
    assert ground.database.rows("SELECT count(*) FROM duly_workers") == [(0,)]


def test_workoff_with_nothing_to_do_leaves_at_once(ground: Ground) -> None:
    assert ground.terminal(command="workoff").ended() == 0


def test_attempts_rise_with_claims(ground: Ground) -> None:
    ground.enqueue(*(second_time_lucky.call() for _ in range(20)))
    terminal = ground.terminal(processes=2)
    ground.all_done()
    assert terminal.stop() == 0
    books = ground.check(calm=True)
    assert {(row.outcome, row.attempts) for row in books.ended} == {("succeeded", 2)}


def test_two_terminals_on_one_sqlite_file(on_sqlite: Ground, record_property: Record) -> None:
    """Two supervisors with workers and two processes that enqueue: nobody sees "database is locked"."""
    ground = on_sqlite
    terminals = [ground.terminal(processes=2), ground.terminal(processes=2)]
    shops = [ground.run("tests.faults.shop:main", "100", str(n)) for n in range(2)]
    for shop in shops:
        assert shop.ended() == 0, shop.words()
    take_promises(ground)
    ground.all_done()
    for terminal in terminals:
        assert terminal.stop() == 0
    books = ground.check(calm=True)
    assert ground.lines("locked") == []
    assert not any("locked" in one.words() for one in (*terminals, *shops))
    assert ground.database.rows("SELECT count(*) FROM orders") == [
        (len(ground.lines("promised", task="effect")),)
    ]
    figures(
        record_property,
        jobs=len(books.ended),
        rolled_back=len(ground.undone),
        workers=len({s.worker for s in books.starts}),
    )


def take_promises(ground: Ground) -> None:
    """What the enqueuing processes wrote down."""
    for line in ground.lines("promised"):
        ground.promised[line["job"]] = line["task"] == "effect"
    ground.undone |= {line["job"] for line in ground.lines("undone")}


def test_duly_workoff_as_a_command(on_sqlite: Ground) -> None:
    """Not by way of the zygote: the real command line, from the shell."""
    ground = on_sqlite
    (job,) = ground.enqueue(effect.call(1))
    given = {
        "DULY_DATABASE_URL": ground.database.url,
        "DULY_TEST_JOURNAL": str(ground.journal),
        "DULY_TEST_GATES": str(ground.gates),
    }
    done = subprocess.run(
        [sys.executable, "-m", "duly", "workoff", "--app", "tests.faults.app:jobs"],
        env=environment_of() | given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert ground.outcome(job) == "succeeded"
    ground.check(calm=True)


def test_an_idle_worker_gets_what_a_busy_one_cannot_start(ground: Ground) -> None:
    """Jobs that are quick as a rule, and hang today: what was given back is not taken again at once."""
    busy = ground.terminal("--queues", "default")
    ground.open("open")
    ground.enqueue(*(hold.call("open") for _ in range(200)))
    ground.all_done()
    jobs = ground.enqueue(*(hold.call("shut") for _ in range(4)))
    until(lambda: len(ground.lines("start")) == 202, "the start of two")
    idle = ground.terminal("--queues", "default")
    claims = [ground.started(job)["claim"] for job in jobs]
    ground.open("shut")
    ground.all_done()
    assert (busy.stop(), idle.stop()) == (0, 0)
    ground.check(calm=True)
    assert max(claims) <= 3
