"""Looking through the ledger, and pruning it: ``duly ledger`` and ``duly prune``."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from duly.cli import show
from duly.cli.actor import actor
from duly.cli.exits import Usage
from duly.cli.jobs import read_id
from duly.cli.locate import opened
from duly.cli.options import FLAG, AppOption, JsonOption, add
from duly.model.states import Outcome
from duly.observe.durations import duration
from duly.observe.text import one_line

if TYPE_CHECKING:
    from rich.table import Table

    from duly.model.job import JobStatus
    from duly.model.pruning import Pruned

_AGO = re.compile(r"(\d{1,6})([smhdw])\Z")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_INSTANTS = "2026-07-21, 2026-07-21T09:30 (UTC where it names no zone), or how long ago: 90m, 12h, 7d"

TaskOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Only jobs of this task.", show_default=False)
]
QueueOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Only jobs of this queue.", show_default=False)
]
OutcomeOption = Annotated[Outcome | None, typer.Option(help="Only jobs that ended so.", show_default=False)]
SinceOption = Annotated[
    str | None,
    typer.Option(metavar="WHEN", help=f"Only jobs that ended from then on: {_INSTANTS}.", show_default=False),
]
UntilOption = Annotated[
    str | None, typer.Option(metavar="WHEN", help="Only jobs that ended before then.", show_default=False)
]
OriginOption = Annotated[
    str | None,
    typer.Option(metavar="ID", help="Only this job and its manual retries; any of them.", show_default=False),
]
BeforeOption = Annotated[
    str | None,
    typer.Option(metavar="ID", help="Go on behind this job, the last that was shown.", show_default=False),
]
LimitOption = Annotated[
    int, typer.Option(metavar="N", min=1, max=100_000, help="How many jobs to show at most.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", metavar=FLAG, help="Only count what it would do.")]


def add_to(program: typer.Typer) -> None:
    """Put the commands into the program."""
    add(
        program, "Ledger", ledger,
        "duly ledger --outcome failed --since 24h",
        "duly ledger --task shop.tasks.charge --json | jq .jobs[].cause",
    )  # fmt: skip
    add(program, "Ledger", prune, "duly prune --dry-run")


# ── ledger ────────────────────────────────────────────────────────────────────────────────────


def ledger(
    task: TaskOption = None,
    queue: QueueOption = None,
    outcome: OutcomeOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    origin: OriginOption = None,
    before: BeforeOption = None,
    limit: LimitOption = 20,
    app: AppOption = None,
    json: JsonOption = False,
) -> None:
    """Look through the jobs that have ended, the last ended first."""
    with opened(app) as found:
        now = found.store.clock.now()
        jobs = found.manage.ledger(
            task=task,
            queue=queue,
            outcome=outcome,
            since=_instant(since, now),
            until=_instant(until, now),
            origin=None if origin is None else read_id(origin),
            before=None if before is None else read_id(before),
            limit=limit + 1,
        )
    more = str(jobs[limit - 1].id) if len(jobs) > limit else None
    jobs = jobs[:limit]
    if json:
        show.as_json({"jobs": [job.public() for job in jobs], "before": more})
        return
    if not jobs:
        show.say("No such jobs have ended.")
        return
    show.console().print(_jobs(jobs))
    if more:
        show.say(f"There are more: --before {more}")


def _instant(text: str | None, now: datetime) -> datetime | None:
    """An instant as people write it: a date, a time, or how long ago."""
    if text is None:
        return None
    if ago := _AGO.match(text):
        return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise Usage(f"{text!r} is no instant: write {_INSTANTS}") from None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _jobs(jobs: list[JobStatus]) -> Table:
    numbers = ("Attempts", "Took")
    table = show.table("Ended (UTC)", "Job", "Task", "Outcome", *numbers, "Cause", numbers=numbers)
    for job in jobs:
        took = show.NOTHING
        if job.started_at is not None and job.ended_at is not None:
            took = duration(max(job.ended_at - job.started_at, timedelta(0)))
        cause = show.NOTHING if job.cause is None else one_line(job.cause)
        table.add_row(
            f"{job.ended_at:%Y-%m-%d %H:%M:%S}",
            str(job.id),
            job.task,
            _outcome(job),
            str(job.attempts),
            took,
            cause,
        )
    return table


def _outcome(job: JobStatus) -> str:
    return f"{job.outcome}, {job.resolution.verdict}" if job.resolution else str(job.outcome)


# ── prune ─────────────────────────────────────────────────────────────────────────────────────


def prune(dry_run: DryRunOption = False, app: AppOption = None, json: JsonOption = False) -> None:
    """Empty and remove what the ledger has kept for long enough, as workers do by and by.

    How long that is, DULY_KEEP_SUCCEEDED, DULY_KEEP_FAILED and DULY_KEEP_OTHER say, in days. The id of a job
    stays until a day after the job expires.
    """
    with opened(app) as found:
        pruned = found.manage.prune(dry_run=dry_run, actor=actor())
    if json:
        numbers = {
            "emptied": pruned.emptied,
            "removed": pruned.removed,
            "keys": pruned.keys,
            "steps": pruned.steps,
        }
        show.as_json({"dry_run": dry_run, **numbers})
    else:
        show.say(_told(pruned, dry_run=dry_run))


def _told(pruned: Pruned, *, dry_run: bool) -> str:
    emptied, removed = ("would empty", "remove") if dry_run else ("emptied", "removed")
    jobs = f"{emptied} {show.many(pruned.emptied, 'ended job')}, {removed} {pruned.removed}"
    keys = [show.many(pruned.keys, "key")] if pruned.keys else []
    steps = [f"the steps of {show.many(pruned.steps, 'job')}"] if pruned.steps else []
    return ", ".join([jobs, *keys]) + "".join(f" and {some}" for some in steps)
