"""The app that the workers of the fault tests run: its settings, its instruments and its mutants.

``DULY_TEST_JOURNAL``   where starts are written down
``DULY_TEST_GATES``     the folder of the gates that tasks wait at
``DULY_TEST_SKEW``      seconds by which this process's own clock is wrong
``DULY_TEST_PATIENT``   1: the supervisor starts a child again at once, however often one is killed
``DULY_TEST_JUDGE``     1: a worker that is about to judge others writes it down and waits at the gate ``judge``
``DULY_TEST_FRAIL``     1: a worker of the queue ``frail`` dies when it starts
``DULY_TEST_UNWILLING`` 1: no worker can work until the gate ``willing`` is open
``DULY_TEST_WATCH_CONNECTIONS`` 1: who makes connections, and who uses them, is written down
``DULY_TEST_DEAF``      after how many seconds an attempt that does not stop is given up
``DULY_TEST_MUTANT``    a rule of the protocol that is broken here, to see that the checker notices:
                        ``unfenced-finish``, ``effect-outside`` (in ``tasks.py``), ``own-clock``,
                        ``blame-anyway``, ``blame-all``, ``no-mark``, ``mark-ignored``

None of these is known to ``src``.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import Pool

from duly import Duly
from duly.clock import Clock
from duly.errors import DatabaseBusy, SettingsError
from duly.store import ledger, rescue
from duly.store.dialect import mysql, postgresql, sqlite
from duly.worker import slot, watch
from duly.worker.attempt import Attempt
from duly.worker.duties import Duties
from duly.worker.executor import Executor
from duly.worker.marker import Marker
from duly.worker.pool import Threads
from duly.worker.pump import Pump
from tests.faults.launches import launches
from tests.faults.tasks import CLAIM, aduties, duties, note_down, wait_at_gate
from tests.faults.unruly import unruly

AHEAD = "1 hour"
IMPORTED_BY = os.getpid()


class WrongClock(Clock):
    """A machine whose clock is wrong."""

    def wall(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=float(os.environ.get("DULY_TEST_SKEW", "0")))


# ── instruments ───────────────────────────────────────────────────────────────────────────────


def watch_starts() -> None:
    """Write every start down, with the machine's time: the databases of these tests run on this machine."""
    invoke = Executor._invoke

    def watched(self: Executor, attempt: Attempt, given: dict[str, Any]) -> Any:
        job = attempt.job
        CLAIM.set(job.claim)
        note_down(
            "start",
            job=str(job.id),
            claim=job.claim,
            attempt=attempt.number,
            worker=attempt.worker,
            run_at=job.run_at.timestamp(),
            expires_at=job.expires_at.timestamp(),
        )
        return invoke(self, attempt, given)

    Executor._invoke = watched  # type: ignore[method-assign]


def watch_locks() -> None:
    """Write down every time that anybody is told "database is locked"; a worker repeats it silently."""
    translate = sqlite.SQLite.translate

    def watched(self: sqlite.SQLite, error: Any) -> Any:
        ours = translate(self, error)
        if isinstance(ours, DatabaseBusy):
            note_down("locked", words=str(error.orig))
        return ours

    sqlite.SQLite.translate = watched  # type: ignore[method-assign]


def hold_up_judges() -> None:
    """Freeze a judge at the worst moment: it has seen that it may judge, and has not looked yet."""
    look = Duties._look_after_the_dead

    def held_up(self: Duties) -> bool:
        worker = self._standing.membership.id
        note_down("judging", worker=worker)
        wait_at_gate("judge")
        try:
            return look(self)
        finally:
            note_down("judged", worker=worker)

    Duties._look_after_the_dead = held_up  # type: ignore[method-assign]


def be_frail() -> None:
    """A worker that dies at its start, by no job's fault."""
    run = Pump.run

    def frail(self: Pump, *given: Any) -> bool:
        if str(self._queues) == "frail":
            note_down("frail")
            os._exit(9)
        return run(self, *given)

    Pump.run = frail  # type: ignore[method-assign]


def be_unwilling() -> None:
    """A worker that cannot work, as with settings that are wrong on this machine alone."""
    run = Pump.run

    def unwilling(self: Pump, *given: Any) -> bool:
        if not Path(os.environ["DULY_TEST_GATES"], "willing").exists():
            raise SettingsError("the test says no")
        return run(self, *given)

    Pump.run = unwilling  # type: ignore[method-assign]


def watch_connections() -> None:
    """Every connection of the engine, and every use of it, with the process."""

    def made(connection: Any, record: Any) -> None:
        record.info["made_by"] = os.getpid()
        note_down("connected")

    def used(connection: Any, record: Any, proxy: Any) -> None:
        note_down("used", made_by=record.info["made_by"])

    event.listen(Pool, "connect", made)
    event.listen(Pool, "checkout", used)


# ── mutants ───────────────────────────────────────────────────────────────────────────────────


def finish_unfenced() -> None:
    """The finish of a transactional task asks for the id alone, and takes no refusal."""

    def finish(self: Any, connection: Any, worker: str, job: Any, *, started_at: Any, result: Any) -> None:
        jobs = self.tables.jobs
        row = self.dialect.remove_one(connection, self.dialect.removal(jobs, jobs.c.id == job.id), {})
        if row is None:
            return
        connection.execute(
            self.dialect.insert_or_ignore(self.tables.executions).values(
                job_id=job.id, outcome="succeeded", attempts=row.attempt + 1, started_at=started_at,
                ended_at=self.dialect.clock, result=result, **{n: row._mapping[n] for n in ledger.ENDED},
            )
        )  # fmt: skip

    ledger.Ledger.finish = finish  # type: ignore[method-assign]


def go_by_own_clock() -> None:
    """The worker's statements go by its own clock, which is an hour ahead."""
    wrong = f"(SELECT clock_timestamp() + interval '{AHEAD}')"
    postgresql.sql.FREE = postgresql.sql.FREE.replace(postgresql.sql.CLOCK, wrong)
    postgresql.sql.CLOCK = wrong
    ahead = (postgresql._CLOCK + timedelta(hours=1)).self_group()
    postgresql._CLOCK = ahead  # type: ignore[assignment]
    sqlite.sql.CLOCK = sqlite.sql.CLOCK.replace("'now'", f"'now', '+{AHEAD}'")
    sqlite._CLOCK = sqlite.literal_column(sqlite.sql.CLOCK, sqlite.Instant)
    mysql.sql.CLOCK = f"({mysql.sql.CLOCK} + INTERVAL {AHEAD})"
    mysql._CLOCK = mysql.literal_column(mysql.sql.CLOCK, mysql.Instant)


def blame_anyway() -> None:
    """A supervisor takes its own kill for a death."""

    def cause_of_death(self: slot.Child, code: int) -> str | None:
        return f"killed by {-code}" if code < 0 else None

    slot.Child.cause_of_death = cause_of_death  # type: ignore[method-assign]


def blame_all() -> None:
    """The black box notes what is handed to the lanes, not what starts."""
    honest = Threads.hand_over

    def hand_over(self: Threads, tickets: Any) -> None:
        for place, ticket in enumerate(tickets):
            self._blackbox.enter(1 + place % 10, ticket.job)
        honest(self, tickets)

    Threads.hand_over = hand_over  # type: ignore[method-assign]


def leave_no_mark() -> None:
    """An unrepeatable task is called without a mark."""

    def mark(self: Marker, attempt: Attempt) -> None:
        attempt.marked = True

    Marker.mark = mark  # type: ignore[method-assign]


def ignore_marks() -> None:
    """A marked job of a dead worker is taken for one that was not started."""

    def unmarked(row: Any) -> Any:
        return SimpleNamespace(**(dict(row._mapping) | {"started_at": None}))

    death, rescued = rescue.after_death, rescue.after_rescue
    rescue.after_death = lambda row, *given: death(unmarked(row), *given)
    rescue.after_rescue = lambda row, **given: rescued(unmarked(row), **given)
    honest = rescue.Rescue._move

    def move(self: Any, connection: Any, ids: Any, state: Any, **counted: Any) -> None:
        honest(self, connection, ids, state, **counted, started_at=None)

    rescue.Rescue._move = move  # type: ignore[method-assign]


MUTANTS = {
    "no-mark": leave_no_mark,
    "mark-ignored": ignore_marks,
    "blame-anyway": blame_anyway,
    "blame-all": blame_all,
    "unfenced-finish": finish_unfenced,
    "own-clock": go_by_own_clock,
    "effect-outside": lambda: None,
}

# ── the app ───────────────────────────────────────────────────────────────────────────────────

watch_starts()
watch_locks()
if mutant := os.environ.get("DULY_TEST_MUTANT"):
    MUTANTS[mutant]()
if deaf := os.environ.get("DULY_TEST_DEAF"):
    watch.DEAF = float(deaf)
if os.environ.get("DULY_TEST_JUDGE"):
    hold_up_judges()
if os.environ.get("DULY_TEST_FRAIL"):
    be_frail()
if os.environ.get("DULY_TEST_UNWILLING"):
    be_unwilling()
if os.environ.get("DULY_TEST_WATCH_CONNECTIONS"):
    watch_connections()
if os.environ.get("DULY_TEST_PATIENT"):
    slot.LIVED_A_WHILE = -1.0

url = os.environ["DULY_DATABASE_URL"]
ASYNC = not url.startswith("mysql")
jobs = Duly(
    url,
    async_engine=create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:")) if ASYNC else None,
    clock=WrongClock(),
    include=[duties, launches, unruly, *([aduties] if ASYNC else [])],
    queues={"frail": {}, "mail": {}, "reports": {}},
)
