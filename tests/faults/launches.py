"""Unrepeatable tasks of the fault tests. What they do is a line of the journal, which no database takes back."""

from __future__ import annotations

import asyncio

from duly import Context, Tasks, given
from tests.faults.tasks import SOON, note_down, rest, wait_at_gate

launches = Tasks(retry=SOON)


class NotReady(Exception):
    """Raised before anything was done, so it is safe to try again."""


class Stumble(Exception):
    """Raised when it was done already."""


def lift_off(ctx: Context) -> None:
    """The effect."""
    note_down("launched", job=str(ctx.job_id), attempt=ctx.attempt)


@launches.task(effects="unrepeatable")
def launch(pause: float, *, ctx: Context = given) -> None:
    """Takes a while before and after."""
    rest(pause / 2)
    lift_off(ctx)
    rest(pause / 2)


@launches.task(effects="unrepeatable")
async def alaunch(pause: float, *, ctx: Context = given) -> None:
    """The same on the loop."""
    await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=pause / 2)
    lift_off(ctx)
    await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=pause / 2)


@launches.task(effects="unrepeatable", retry_on=(NotReady,))
def launch_when_ready(*, ctx: Context = given) -> None:
    """Not ready at its first attempt, and says so by an exception that is named as safe."""
    if ctx.attempt == 1:
        raise NotReady
    lift_off(ctx)


@launches.task(effects="unrepeatable")
def launch_and_stumble(*, ctx: Context = given) -> None:
    """What it raises is not named: nobody knows how far it came."""
    lift_off(ctx)
    raise Stumble


@launches.task(effects="unrepeatable")
def launch_at_gate(gate: str, *, ctx: Context = given) -> None:
    """Done at once, and then it runs until the gate opens."""
    lift_off(ctx)
    wait_at_gate(gate)
