"""The app that the workers of the fault tests run: its settings, its instruments and its mutants.

``DULY_TEST_JOURNAL``   where starts are written down
``DULY_TEST_GATES``     the folder of the gates that tasks wait at
``DULY_TEST_SKEW``      seconds by which this process's own clock is wrong
``DULY_TEST_PATIENT``   1: the supervisor starts a child again at once, however often one is killed
``DULY_TEST_JUDGE``     1: a worker that is about to judge others writes it down and waits at the gate ``judge``
``DULY_TEST_MUTANT``    a rule of the protocol that is broken here, to see that the checker notices:
                        ``unfenced-finish``, ``effect-outside`` (in ``tasks.py``), ``own-clock``

None of these is known to ``src``.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import create_async_engine

from duly import Duly
from duly.clock import Clock
from duly.errors import DatabaseBusy
from duly.store import ledger
from duly.store.dialect import postgresql, sqlite
from duly.worker import supervisor
from duly.worker.attempt import Attempt
from duly.worker.executor import Executor
from duly.worker.pump import Pump
from tests.faults.tasks import CLAIM, duties, note_down, wait_at_gate

AHEAD = "1 hour"


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
    look = Pump._look_after_the_dead

    def held_up(self: Pump) -> None:
        note_down("judging", worker=self.membership.id)
        wait_at_gate("judge")
        try:
            look(self)
        finally:
            note_down("judged", worker=self.membership.id)

    Pump._look_after_the_dead = held_up  # type: ignore[method-assign]


# ── mutants ───────────────────────────────────────────────────────────────────────────────────


def finish_unfenced() -> None:
    """The finish of a transactional task asks for the id alone, and takes no refusal."""

    def finish(self: Any, connection: Any, worker: str, job: Any, *, started_at: Any, result: Any) -> None:
        jobs = self.tables.jobs
        row = connection.execute(delete(jobs).where(jobs.c.id == job.id).returning(*jobs.c)).one_or_none()
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
    right = postgresql.CLOCK
    wrong = f"(SELECT clock_timestamp() + interval '{AHEAD}')"
    postgresql.CLOCK = wrong
    postgresql._FREE = postgresql._FREE.replace(right, wrong)
    column = postgresql._CLOCK
    ahead = (column + timedelta(hours=1)).self_group()
    postgresql._CLOCK = ahead  # type: ignore[assignment]
    sqlite_right = sqlite.CLOCK
    sqlite.CLOCK = sqlite_right.replace("'now'", f"'now', '+{AHEAD}'")
    sqlite._CLOCK = sqlite.literal_column(sqlite.CLOCK, sqlite.Instant)


MUTANTS = {
    "unfenced-finish": finish_unfenced,
    "own-clock": go_by_own_clock,
    "effect-outside": lambda: None,
}

# ── the app ───────────────────────────────────────────────────────────────────────────────────

watch_starts()
watch_locks()
if mutant := os.environ.get("DULY_TEST_MUTANT"):
    MUTANTS[mutant]()
if os.environ.get("DULY_TEST_JUDGE"):
    hold_up_judges()
if os.environ.get("DULY_TEST_PATIENT"):
    supervisor.LIVED_A_WHILE = 0.0

url = os.environ["DULY_DATABASE_URL"]
jobs = Duly(
    url,
    async_engine=create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:")),
    clock=WrongClock(),
    include=[duties],
)
