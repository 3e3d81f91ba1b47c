"""The tasks of the fault tests. Every start is written to the journal, every effect to the table ``effects``."""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from duly import Context, Retry, Tasks, given
from duly.model.retry import Backoff

duties = Tasks()
aduties = Tasks()
"""Those that need an async engine, which MySQL has not here: its async drivers are not among the requirements."""

EFFECTS = """
CREATE TABLE effects (
    job varchar(36) NOT NULL, claim integer NOT NULL, worker varchar(200) NOT NULL, at varchar(40) NOT NULL
)"""

CLAIM: ContextVar[int] = ContextVar("claim", default=0)
"""The claim number of the attempt that runs here; ``app.py`` sets it, since tasks are not told theirs."""

SOON = Backoff.fixed(0.1)
PATIENCE = 60.0


# ── what a start and an effect leave behind ───────────────────────────────────────────────────


def note_down(event: str, **facts: Any) -> None:
    """Append a line to the journal, in one write, so that processes do not tear each other's lines."""
    line = json.dumps({"event": event, "at": time.time(), "pid": os.getpid(), **facts}) + "\n"
    journal = os.open(os.environ["DULY_TEST_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(journal, line.encode())
    finally:
        os.close(journal)


def write_effect(connection: Connection, ctx: Context) -> None:
    """The effect of a transactional task: a row, with the database's time."""
    if os.environ.get("DULY_TEST_MUTANT") == "effect-outside":
        engine = create_engine(os.environ["DULY_DATABASE_URL"])
        with engine.begin() as other:
            _insert(other, ctx)
        engine.dispose()
    else:
        _insert(connection, ctx)


def _insert(connection: Connection, ctx: Context) -> None:
    clock = {
        "postgresql": "to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')",
        "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', 'now')",
        "mysql": "UTC_TIMESTAMP(6)",
    }[connection.dialect.name]
    facts = {"job": str(ctx.job_id), "claim": CLAIM.get(), "worker": ctx.worker}
    connection.execute(text(f"INSERT INTO effects VALUES (:job, :claim, :worker, {clock})"), facts)


def wait_at_gate(name: str) -> None:
    """Wait until the test opens the gate."""
    gate = Path(os.environ["DULY_TEST_GATES"], name)
    until = time.monotonic() + PATIENCE
    while not gate.exists():
        if time.monotonic() > until:
            raise TimeoutError(f"nobody opened the gate {name}")
        rest(0.01)


def rest(seconds: float) -> None:
    """What a task does that works for so long."""
    threading.Event().wait(seconds)


# ── tasks ─────────────────────────────────────────────────────────────────────────────────────


@duties.task(effects="idempotent", retry=SOON)
def note(n: int) -> None:
    """Only its start is written down."""


@duties.task(effects="transactional", retry=SOON)
def effect(n: int, pause: float = 0.0, *, ctx: Context = given, session: Session = given) -> int:
    write_effect(session.connection(), ctx)
    if pause:
        rest(pause)
    return n


@aduties.task(effects="transactional", retry=SOON)
async def aeffect(n: int, pause: float = 0.0, *, ctx: Context = given, session: AsyncSession = given) -> None:
    await (await session.connection()).run_sync(write_effect, ctx)
    if pause:
        await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=pause)


@duties.task(effects="transactional", retry=SOON)
def second_time_lucky(*, ctx: Context = given, connection: Connection = given) -> None:
    """Its first attempt writes and fails: what it wrote must be gone."""
    write_effect(connection, ctx)
    if ctx.attempt == 1:
        raise Retry(after=0.05)


@duties.task(effects="idempotent", retry=SOON)
def hold(gate: str) -> None:
    """Runs until the gate opens."""
    wait_at_gate(gate)


@duties.task(effects="idempotent", retry=SOON)
async def ahold(gate: str) -> None:
    """The same on the loop."""
    await asyncio.to_thread(wait_at_gate, gate)


@duties.task(effects="idempotent", retry=SOON)
def die(how: str) -> None:
    """Takes its process along: by a signal, or an exit status."""
    if how.isdecimal():
        os._exit(int(how))
    os.kill(os.getpid(), signal.Signals[how])
    rest(PATIENCE)


@duties.task(effects="idempotent", retry=SOON)
def leave(gate: str) -> None:
    """The same, when the gate opens."""
    wait_at_gate(gate)
    os._exit(9)


@duties.task(effects="idempotent", retry=SOON)
def labor(seconds: float) -> None:
    """Works for so long."""
    rest(seconds)


@duties.task(effects="idempotent", retry=SOON)
def cling(gate: str) -> None:
    """The same, with threads that would keep a Python from ending, and whatever exception comes."""
    threading.Thread(target=wait_at_gate, args=(gate,)).start()
    while True:
        try:
            wait_at_gate(gate)
        except BaseException:
            continue
        return


HOARD: list[bytes] = []


@duties.task(effects="idempotent", retry=SOON)
def grow(mib: int) -> None:
    """Keeps so much memory, as a leak does."""
    HOARD.append(os.urandom(1024) * 1024 * mib)


@duties.task(effects="idempotent", retry=SOON)
def look_around() -> None:
    """Who imported the app, and what the garbage collector leaves alone."""
    app = sys.modules["tests.faults.app"]
    note_down("around", imported_by=app.IMPORTED_BY, frozen=gc.get_freeze_count())
    rest(0.2)


@duties.task(effects="transactional", retry=SOON)
def effect_at_gate(gate: str, *, ctx: Context = given, session: Session = given) -> None:
    """Writes, then waits with its transaction open."""
    write_effect(session.connection(), ctx)
    note_down("written", job=str(ctx.job_id), worker=ctx.worker)
    wait_at_gate(gate)


@duties.task(effects="idempotent", max_attempts=1)
def terminate_a_program() -> None:
    """As a task does that runs some tool and has had enough of it."""
    sleeper = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
    with subprocess.Popen(sleeper, stdout=subprocess.PIPE) as program:
        assert program.stdout
        program.stdout.readline()
        program.terminate()
        try:
            note_down("terminated", code=program.wait(5))
        finally:
            program.kill()


@duties.task(effects="idempotent", max_attempts=1)
def terminate_a_process() -> None:
    """As the pools of ``multiprocessing`` do with their processes."""
    ready = multiprocessing.Event()
    process = multiprocessing.get_context("fork").Process(target=_sleep, args=(ready,), daemon=True)
    process.start()
    try:
        ready.wait(30)
        process.terminate()
        process.join(5)
        note_down("terminated", code=process.exitcode)
    finally:
        process.kill()
        process.join()


def _sleep(ready: Any) -> None:
    ready.set()
    rest(60)
