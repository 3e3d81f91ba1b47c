"""Looking after one job: ``duly job``, ``retry`` and ``cancel``."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from duly.cli import show
from duly.cli.actor import actor
from duly.cli.exits import DONE, NO, Usage, complain
from duly.cli.locate import opened
from duly.cli.options import FLAG, AppOption, JobArgument, JsonOption, add
from duly.model.ids import job_id
from duly.model.states import State
from duly.observe.durations import duration
from duly.observe.text import one_line

if TYPE_CHECKING:
    from rich.table import Table

    from duly.manage.manage import AttemptInfo
    from duly.model.job import JobStatus

_SOME_ID = "0198a1c2-8d3e-7f40-9c55-2b1f6f0f9a01"
TracebackOption = Annotated[
    bool, typer.Option("--traceback", metavar=FLAG, help="Show the tracebacks of its attempts.")
]


def add_to(program: typer.Typer) -> None:
    """Put the commands into the program."""
    add(program, "Jobs", job, f"duly job {_SOME_ID}", f"duly job {_SOME_ID} --traceback")
    add(program, "Jobs", retry, f"duly retry {_SOME_ID}")
    add(program, "Jobs", cancel, f"duly cancel {_SOME_ID}")


def _read_id(text: str) -> UUID:
    try:
        return job_id(text)
    except ValueError:
        raise Usage(f"{text!r} is no job id; ids look like {_SOME_ID}") from None


# ── job ───────────────────────────────────────────────────────────────────────────────────────


def job(
    identity: JobArgument, app: AppOption = None, traceback: TracebackOption = False, json: JsonOption = False
) -> None:
    """Show one job: where it stands, and what went wrong."""
    wanted = _read_id(identity)
    with opened(app) as found:
        status, attempts, now = (
            found.manage.job(wanted),
            found.manage.attempts(wanted),
            found.store.clock.now(),
        )
    if json:
        show.as_json({**status.public(), "history": [_attempt(one, traceback=traceback) for one in attempts]})
        return
    console = show.console()
    console.print(_job(status, now))
    if attempts:
        console.print()
        console.print(_attempts(attempts))
    for one in attempts if traceback else ():
        console.print(f"\nAttempt {one.number}:", style="bold")
        for line in _traceback(one):
            console.print(line, soft_wrap=True)


def _attempt(attempt: AttemptInfo, *, traceback: bool) -> dict[str, Any]:
    error = attempt.error
    shown: dict[str, Any] = {
        "attempt": attempt.number,
        "claim": attempt.claim,
        "worker": attempt.worker,
        "started_at": attempt.started_at and attempt.started_at.isoformat(),
        "ended_at": attempt.ended_at.isoformat(),
        "cause": attempt.cause,
        "error": error and {"type": error.type, "message": error.message},
    }
    return {**shown, "traceback": error and error.traceback} if traceback else shown


def _job(status: JobStatus, now: datetime) -> Table:
    rescued = f", rescued {show.many(status.rescues, 'time')}" if status.rescues else ""
    return show.pairs(
        {
            "Job": str(status.id),
            "Task": status.task,
            "Queue": f"{status.queue}, priority {status.priority}",
            "State": status.state and str(status.state),
            "Outcome": status.outcome and str(status.outcome),
            "Cause": status.cause,
            "Attempts": f"{status.attempts}{rescued}",
            "Worker": status.worker,
            "Enqueued": show.moment(status.enqueued_at, now),
            "Runs at": show.moment(status.run_at, now),
            "Started": show.moment(status.started_at, now),
            "Ended": show.moment(status.ended_at, now),
            "Expires": show.moment(status.expires_at, now) if status.outcome is None else None,
            "Origin": str(status.origin) if status.origin != status.id else None,
            "Principal": status.principal,
        }
    )


def _attempts(attempts: list[AttemptInfo]) -> Table:
    table = show.table("Attempt", "Ended (UTC)", "Took", "What went wrong", numbers=("Attempt", "Took"))
    for one in attempts:
        took = show.NOTHING if one.started_at is None else duration(one.ended_at - one.started_at)
        wrong = one.cause if one.error is None else f"{one.error.type}: {one.error.message}"
        table.add_row(str(one.number), f"{one.ended_at:%Y-%m-%d %H:%M:%S}", took, one_line(wrong))
    return table


def _traceback(attempt: AttemptInfo) -> list[str]:
    text = "" if attempt.error is None else attempt.error.traceback
    return [one_line(line) for line in text.splitlines()] or ["  no traceback was kept"]


# ── retry, cancel ─────────────────────────────────────────────────────────────────────────────


def retry(identity: JobArgument, app: AppOption = None, json: JsonOption = False) -> None:
    """Enqueue an ended job again, as a new job with the same origin.

    For jobs that ended failed, uncertain or rejected: of the others no arguments are kept. Asked twice,
    it makes one job.
    """
    wanted = _read_id(identity)
    with opened(app) as found:
        fresh = found.manage.retry(wanted, actor=actor())
    if json:
        show.as_json({"id": str(fresh.id), "retry_of": str(wanted)})
    else:
        show.say(f"enqueued again as {fresh.id}")


def cancel(identity: JobArgument, app: AppOption = None, json: JsonOption = False) -> int:
    """Cancel a job: at once if it waits; if it runs, its worker is asked to stop it.

    A job that has ended is left as it is, and the exit code is 1.
    """
    wanted = _read_id(identity)
    with opened(app) as found:
        cancelled = found.manage.cancel(wanted, actor=actor())
        status = found.manage.job(wanted)
    if json:
        stands = {
            "state": status.state and str(status.state),
            "outcome": status.outcome and str(status.outcome),
        }
        show.as_json({"id": str(wanted), "cancelled": cancelled, **stands})
    elif cancelled and status.state is State.RUNNING:
        show.say(f"asked the worker of {wanted} to stop it; it ends when its task has noticed")
    elif cancelled:
        show.say(f"cancelled {wanted}")
    if not cancelled:
        complain(f"job {wanted} was not cancelled: it has ended {status.outcome}")
    return DONE if cancelled else NO
