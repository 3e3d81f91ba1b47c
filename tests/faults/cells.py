"""Isolated tasks of the fault tests, and the app that has them beside the others."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import re
import signal
import subprocess
import sys
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from duly import Context, Tasks, given
from tests.faults.tasks import SOON, note_down, rest, wait_at_gate, write_effect

MEGABYTE = 1024**2
SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]

apart = Tasks(max_attempts=1)


def here(ctx: Context, **facts: Any) -> None:
    """Write down which process this is, whose group it leads, and who its parent is."""
    note_down("here", job=str(ctx.job_id), group=os.getpgid(0), nursery=os.getppid(), **facts)


@apart.task(isolated=True, keep_result=True)
def process_of(n: int) -> int:
    return os.getpid()


@apart.task(isolated=True, keep_result=True)
async def aprocess_of(n: int) -> int:
    await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=0.01)
    return os.getpid()


@apart.task(isolated=True)
def stay(gate: str, *, ctx: Context = given) -> None:
    here(ctx)
    wait_at_gate(gate)


@apart.task(isolated=True, retry=SOON, max_attempts=25)
def stay_again(gate: str, *, ctx: Context = given) -> None:
    here(ctx)
    wait_at_gate(gate)


@apart.task(isolated=True)
async def astay(*, ctx: Context = given) -> None:
    here(ctx)
    await asyncio.get_running_loop().create_future()


def hold_interpreter() -> None:
    """In one C call, for ages: no other thread runs, no signal handler, no exception."""
    re.match(r"(a+)+$", "a" * 64 + "b")


@apart.task(isolated=True, max_run_time=0.3)
def hold_the_interpreter(*, ctx: Context = given) -> None:
    here(ctx)
    hold_interpreter()


@apart.task(isolated=True)
def hold_it_for_ages(*, ctx: Context = given) -> None:
    """Deaf to everything but SIGKILL, and so is the program it has started."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    program = subprocess.Popen(SLEEPER)
    here(ctx, program=program.pid)
    hold_interpreter()


@apart.task(isolated=True)
def leave_a_program(*, ctx: Context = given) -> None:
    here(ctx, program=subprocess.Popen(SLEEPER).pid)


@apart.task(isolated=True, max_run_time=0.3)
def tidy_up(*, ctx: Context = given) -> None:
    try:
        rest(60)
    finally:
        note_down("tidied", job=str(ctx.job_id))


@apart.task(isolated=True, max_memory=64 * MEGABYTE)
def hog() -> None:
    taken = [bytearray(MEGABYTE) for _ in range(4096)]
    note_down("hogged", megabytes=len(taken))


@apart.task(isolated=True, max_memory=64 * MEGABYTE, effects="transactional")
def hog_in_transaction(*, ctx: Context = given, session: Session = given) -> None:
    write_effect(session.connection(), ctx)
    taken: list[object] = []
    while True:
        taken.append([taken[-1:]])


@apart.task(isolated=True, max_cpu=1)
def burn() -> None:
    while True:
        pass


@apart.task(isolated=True)
def crash(how: str) -> None:
    match how:
        case "abort":
            os.abort()
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(7)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)


@apart.task(isolated=True)
def leave_politely() -> None:
    sys.exit(7)


@apart.task(isolated=True)
def speak() -> None:
    """Into a buffer, which nobody but its process can write out."""
    print("a word of", end=" the cell\n")
    logging.getLogger("cells").warning("a line of its log")


@apart.task(isolated=True)
async def leave_a_thread(*, ctx: Context = given) -> None:
    """A loop that ends in order waits for its threads."""
    here(ctx)
    asyncio.get_running_loop().run_in_executor(None, rest, 600)


@apart.task(isolated=True)
def ask(*, ctx: Context = given) -> None:
    """Asks its context, and does as it is told."""
    here(ctx)
    while not ctx.cancelled:
        rest(0.01)
    note_down("heard", job=str(ctx.job_id))
    ctx.check()


@apart.task(isolated=True, effects="transactional", retry=SOON, max_attempts=25)
def effect_apart(pause: float = 0.0, *, ctx: Context = given, session: Session = given) -> None:
    write_effect(session.connection(), ctx)
    here(ctx)
    rest(pause)


@apart.task(isolated=True, effects="transactional", retry=SOON, max_attempts=25)
async def aeffect_apart(*, ctx: Context = given, session: AsyncSession = given) -> None:
    await (await session.connection()).run_sync(write_effect, ctx)


@apart.task(isolated=True, effects="transactional")
def effect_until_the_gate(gate: str, *, ctx: Context = given, connection: Connection = given) -> None:
    write_effect(connection, ctx)
    here(ctx)
    wait_at_gate(gate)


@apart.task(isolated=True, effects="transactional", retry=SOON, max_attempts=25)
def crash_after_commit(*, ctx: Context = given, session: Session = given) -> None:
    """Dies as soon as its transaction has committed, before anybody was told."""
    from duly.worker.wire import Wire

    write_effect(session.connection(), ctx)
    say = Wire.say

    def say_or_die(self: Wire, message: Any) -> None:
        if type(message).__name__ == "Recorded":
            os.abort()
        say(self, message)

    Wire.say = say_or_die  # type: ignore[method-assign]
