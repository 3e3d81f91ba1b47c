"""Looking after queues: ``duly status``, ``check`` and ``clear``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duly.cli import show
from duly.cli.actor import actor
from duly.cli.exits import DONE, NO, Refused, Usage
from duly.cli.locate import opened
from duly.cli.options import FLAG, AppOption, JsonOption, add
from duly.model.states import Outcome, State
from duly.observe.durations import duration

if TYPE_CHECKING:
    from rich.console import RenderableType

    from duly.app import Duly
    from duly.manage.manage import Overview, Queue, WorkerInfo

_LONGEST = 10**9
_BAD = {Outcome.FAILED, Outcome.REJECTED, Outcome.UNCERTAIN}


def add_to(program: typer.Typer) -> None:
    """Put the commands into the program."""
    add(program, "Queues", status, "duly status", "duly status --json | jq .queues")
    add(program, "Queues", check, "duly check --max-age 300 || page-somebody")
    add(
        program, "Queues", clear, "duly clear --queue mail", "duly clear --task shop.tasks.send_welcome --yes"
    )


# ── status ────────────────────────────────────────────────────────────────────────────────────


def status(app: AppOption = None, json: JsonOption = False) -> None:
    """Show queues, outcomes and workers."""
    with opened(app) as found:
        overview, queues, workers = found.manage.overview(), found.manage.queues(), found.manage.workers()
        database, beats = found.store.describe()["database"], found.store.dialect.beats
    if json:
        show.as_json(_status(database, overview, queues, workers, beats=beats))
        return
    console = show.console()
    console.print(database, style="dim")
    for part in (_queues(queues), _outcomes(overview), _workers(workers, beats=beats)):
        console.print()
        console.print(part)


def _status(
    database: str, overview: Overview, queues: list[Queue], workers: list[WorkerInfo], *, beats: bool
) -> dict[str, Any]:
    return {
        "database": database,
        "enqueued": overview.enqueued,
        "states": {state.value: overview.states.get(state, 0) for state in State},
        "outcomes": {outcome.value: overview.outcomes.get(outcome, 0) for outcome in Outcome},
        "retried": overview.retried,
        "rescued": overview.rescued,
        "queues": [
            {
                "name": queue.name,
                "scheduled": queue.scheduled,
                "available": queue.available,
                "running": queue.running,
                "suspect": queue.suspect,
                "oldest_seconds": show.seconds(queue.age),
            }
            for queue in queues
        ],
        "workers": [
            {
                "id": worker.id,
                "host": worker.host,
                "pid": worker.pid,
                "queues": worker.queues,
                "started_at": worker.started_at.isoformat(),
                "silent_seconds": show.seconds(worker.silent) if beats else None,
            }
            for worker in workers
        ],
    }


def _queues(queues: list[Queue]) -> RenderableType:
    if not queues:
        return "No unfinished jobs."
    numbers = ("Scheduled", "Available", "Running", "Suspect")
    table = show.table("Queue", *numbers, "Oldest waits", numbers=(*numbers, "Oldest waits"))
    for queue in queues:
        counts = (show.count(n) for n in (queue.scheduled, queue.available, queue.running))
        table.add_row(queue.name, *counts, show.count(queue.suspect, bad=True), show.age(queue.age))
    return table


def _outcomes(overview: Overview) -> RenderableType:
    if not overview.outcomes:
        return "No jobs have ended."
    names = tuple(outcome.value.capitalize() for outcome in Outcome)
    table = show.table(*names, numbers=names)
    table.add_row(*(show.count(overview.outcomes.get(o, 0), bad=o in _BAD) for o in Outcome))
    if not overview.retried and not overview.rescued:
        return table
    return show.stack(
        table, f"Took more than one attempt: {overview.retried}. Were rescued: {overview.rescued}."
    )


def _workers(workers: list[WorkerInfo], *, beats: bool) -> RenderableType:
    if not workers:
        return "No workers; `duly work` starts some."
    table = show.table("Worker", "Queues", "Started", *(["Silent"] if beats else []), numbers=("Silent",))
    for worker in workers:
        silent = [show.age(worker.silent)] if beats else []
        table.add_row(worker.id, worker.queues, f"{worker.started_at:%Y-%m-%d %H:%M:%S}", *silent)
    return table


# ── check ─────────────────────────────────────────────────────────────────────────────────────


def check(
    max_age: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="How long a job that could run may wait.", show_default=False),
    ],
    app: AppOption = None,
    json: JsonOption = False,
) -> int:
    """Exit with 1 when a job that could run has waited too long.

    For monitoring. It names the queue; jobs whose time has not come do not count.
    """
    bound = _bound(max_age)
    with opened(app) as found:
        oldest = found.manage.oldest_waiting()
    waited = timedelta(0) if oldest is None or oldest.age is None else oldest.age
    late = oldest is not None and waited > bound
    if json:
        name, age = (None, None) if oldest is None else (oldest.name, show.seconds(oldest.age))
        show.as_json({"ok": not late, "max_age_seconds": max_age, "queue": name, "oldest_seconds": age})
    else:
        show.say(_verdict(oldest, waited, bound, late=late))
    return NO if late else DONE


def _bound(max_age: float) -> timedelta:
    if not 0 <= max_age <= _LONGEST:
        raise Usage(f"--max-age must be a number of seconds from 0 to {_LONGEST}, not {max_age:g}")
    return timedelta(seconds=max_age)


def _verdict(oldest: Queue | None, waited: timedelta, bound: timedelta, *, late: bool) -> str:
    if oldest is None:
        return "OK: no job is waiting that could run"
    fact = f"in queue {oldest.name} the oldest job that could run has waited {show.age(waited)}"
    return (
        f"LATE: {fact}, longer than {duration(bound)}"
        if late
        else f"OK: {fact}, at most {duration(bound)} is allowed"
    )


# ── clear ─────────────────────────────────────────────────────────────────────────────────────


def clear(
    queue: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only the jobs of this queue.", show_default=False)
    ] = None,
    task: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only the jobs of this task.", show_default=False)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", metavar=FLAG, help="Do not ask.")] = False,
    app: AppOption = None,
) -> None:
    """Cancel waiting jobs: all, or those of one queue or task.

    Running jobs are left alone. On a terminal it asks first, with the number that it will touch;
    elsewhere it needs --yes.
    """
    which = "".join(_which(queue, task))
    with opened(app) as found:
        if not yes:
            _ask(found, queue, task, which)
        number = found.manage.clear(queue=queue, task=task, actor=actor())
    show.say(f"cancelled {show.many(number, 'waiting job')}{which}")


def _which(queue: str | None, task: str | None) -> Iterator[str]:
    if task is not None:
        yield f" of task {task}"
    if queue is not None:
        yield f" in queue {queue}"


def _ask(app: Duly, queue: str | None, task: str | None, which: str) -> None:
    """Ask with the number it will touch. Which task a waiting job is of is not counted: then it is a bound."""
    waiting = sum(
        q.scheduled + q.available + q.suspect for q in app.manage.queues() if queue in {None, q.name}
    )
    number = f"{'up to ' if task else ''}{show.many(waiting, 'waiting job')}{which}"
    if not sys.stdin.isatty():
        raise Usage(f"this cancels {number}: say --yes, since there is no terminal to ask on")
    if waiting and not typer.confirm(f"Cancel {number} on {app.store.describe()['database']}?"):
        raise Refused("nothing was cancelled")
