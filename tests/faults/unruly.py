"""Tasks that do not behave: they hang, swallow, hold the interpreter, leave, fork."""

from __future__ import annotations

import asyncio
import os
import re
import sys

from sqlalchemy import Connection

from duly import Context, Tasks, given
from tests.faults.tasks import SOON, note_down, wait_at_gate, write_effect

unruly = Tasks(retry=SOON)


@unruly.task(max_run_time=0.3, max_attempts=1)
def hang(gate: str) -> None:
    """Where no exception reaches it: in one long call that is not Python's."""
    while True:
        try:
            wait_at_gate(gate)
        except BaseException:
            continue
        return


@unruly.task(max_run_time=0.3, max_attempts=1, effects="transactional")
def hang_in_transaction(gate: str, *, ctx: Context = given, connection: Connection = given) -> None:
    write_effect(connection, ctx)
    hang.function(gate)


@unruly.task(max_run_time=0.3, max_attempts=1)
async def swallow(gate: str) -> None:
    """Whatever cancels it."""
    while True:
        try:
            await asyncio.to_thread(wait_at_gate, gate)
        except asyncio.CancelledError:
            continue
        return


@unruly.task(max_attempts=1)
def hog(length: int) -> None:
    """A regular expression that backtracks: one call that lets no other thread in."""
    re.match(r"(a+)+$", "a" * length + "b")


@unruly.task
def spin() -> None:
    """Python code without end."""
    while True:
        pass


@unruly.task(max_attempts=1)
def leave_by_exit(code: int) -> None:
    sys.exit(code)


@unruly.task(effects="transactional")
def fork_and_return(*, ctx: Context = given, connection: Connection = given) -> None:
    """Both come back from here: the worker's process, and its copy."""
    write_effect(connection, ctx)
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        note_down("forked", code=os.waitstatus_to_exitcode(status))
