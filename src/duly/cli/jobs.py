"""Looking after one job: ``duly job``, ``retry``, ``resolve`` and ``cancel``."""

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
    add(
        program, "Jobs", resolve, f"duly resolve {_SOME_ID} --failed --reason 'the bank has no such transfer'"
    )
    add(program, "Jobs", cancel, f"duly cancel {_SOME_ID}")


def read_id(text: str) -> UUID:
    """The id of a job, as somebody typed it."""
    try:
        return job_id(text)
    except ValueError:
        raise Usage(f"{text!r} is no job id; ids look like {_SOME_ID}") from None


# ── job ───────────────────────────────────────────────────────────────────────────────────────


def job(
    identity: JobArgument, app: AppOption = None, traceback: TracebackOption = False, json: JsonOption = False
) -> None:
    """Show one job: where it stands, and what went wrong."""
    wanted = read_id(identity)
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
            "Resolved": _resolution(status, now),
        }
    )


def _resolution(status: JobStatus, now: datetime) -> str | None:
    found = status.resolution
    if found is None:
        return None
    verdict = f"again, as {found.again}" if found.again else str(found.verdict)
    reason = f": {found.reason}" if found.reason else ""
    return f"{verdict}, by {found.actor}, {show.moment(found.at, now)}{reason}"


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


# ── retry, resolve, cancel ────────────────────────────────────────────────────────────────────


def retry(identity: JobArgument, app: AppOption = None, json: JsonOption = False) -> None:
    """Enqueue an ended job again, as a new job with the same origin.

    For jobs that ended failed, uncertain or rejected: of the others no arguments are kept. Asked twice,
    it makes one job.
    """
    wanted = read_id(identity)
    with opened(app) as found:
        fresh = found.manage.retry(wanted, actor=actor())
    if json:
        show.as_json({"id": str(fresh.id), "retry_of": str(wanted)})
    else:
        show.say(f"enqueued again as {fresh.id}")


def resolve(
    identity: JobArgument,
    succeeded: Annotated[
        bool, typer.Option("--succeeded", metavar=FLAG, help="Its effect is there.")
    ] = False,
    failed: Annotated[bool, typer.Option("--failed", metavar=FLAG, help="Its effect is not there.")] = False,
    again: Annotated[
        bool, typer.Option("--again", metavar=FLAG, help="Its effect is not there: enqueue it again.")
    ] = False,
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="How you know, for the record.", show_default=False)
    ] = None,
    app: AppOption = None,
    json: JsonOption = False,
) -> None:
    """Say what became of a job that ended uncertain.

    The first verdict stands. The outcome in the ledger stays uncertain, with the verdict beside it.
    """
    wanted = read_id(identity)
    said = [
        word for word, chosen in (("succeeded", succeeded), ("failed", failed), ("again", again)) if chosen
    ]
    if len(said) != 1:
        raise Usage("say what became of it: one of --succeeded, --failed, --again")
    with opened(app) as found:
        resolution = found.manage.resolve(wanted, said[0], reason=reason, actor=actor())
    if json:
        show.as_json({"id": str(wanted), **resolution.public()})
    elif resolution.again:
        show.say(f"resolved {wanted}: enqueued again as {resolution.again}")
    else:
        show.say(f"resolved {wanted}: {resolution.verdict}")


def cancel(identity: JobArgument, app: AppOption = None, json: JsonOption = False) -> int:
    """Cancel a job: at once if it waits; if it runs, its worker is asked to stop it.

    A job that has ended is left as it is, and the exit code is 1.
    """
    wanted = read_id(identity)
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
