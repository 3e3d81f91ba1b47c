"""Knowing one's tasks: ``duly audit``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duly.cli import show
from duly.cli.actor import actor
from duly.cli.exits import DONE, NO, Usage, complain
from duly.cli.locate import opened
from duly.cli.options import FLAG, AppOption, JsonOption, add
from duly.observe.durations import duration
from duly.observe.text import one_line

if TYPE_CHECKING:
    from rich.console import RenderableType

    from duly.proof.audit import Entry, Gap, Report
    from duly.proof.finding import Finding

MarkdownOption = Annotated[
    bool,
    typer.Option("--markdown", metavar=FLAG, help="Print a document with a section for each task."),
]
StrictOption = Annotated[
    bool,
    typer.Option(
        "--strict", metavar=FLAG, help="Print the gaps alone, a line each; exit with 1 if there are any."
    ),
]
ProofsOption = Annotated[
    bool,
    typer.Option("--proofs", metavar=FLAG, help="Count a task without a valid proof as a gap."),
]


def add_to(program: typer.Typer) -> None:
    """Put the command into the program."""
    add(
        program,
        "Tasks",
        audit,
        "duly audit",
        "duly audit --strict --proofs",
        "duly audit --markdown > docs/tasks.md",
    )


def audit(
    app: AppOption = None,
    strict: StrictOption = False,
    proofs: ProofsOption = False,
    markdown: MarkdownOption = False,
    json: JsonOption = False,
) -> int:
    """Show what each task states, uses and lacks: effects, key, guards, expiry, proof.

    A gap is a task that states no effects, that is called idempotent and uses neither key nor guard, whose
    code looks wrong for what it states, or that has no docstring. A comment "# duly: reviewed (why)" accepts
    what was found in the code. That an audit was made is recorded.
    """
    from duly.proof.audit import audit as look
    from duly.proof.markdown import markdown as document

    if json and markdown:
        raise Usage("give --json or --markdown, not both")
    with opened(app, tasks=True) as found:
        report = look(found, actor=actor(), proofs=proofs)
    if report.unrecorded is not None:
        complain(f"this audit was not recorded, and no proofs are known: {report.unrecorded}")
    if json:
        show.as_json(_report(report))
    elif markdown:
        typer.echo(document(report, show.near), nl=False)
    elif strict:
        _print_gaps(report)
    else:
        _print_all(report)
    return NO if strict and report.gaps else DONE


# ── for scripts ───────────────────────────────────────────────────────────────────────────────


def _report(report: Report) -> dict[str, Any]:
    last = report.previous
    return {
        "tasks": [_task(entry) for entry in report.entries],
        "gaps": report.gaps,
        "reviewed": report.reviewed,
        "last_audit": last
        and {"at": last.at.isoformat(), "actor": last.actor, "tasks": last.tasks, "gaps": last.gaps},
        "overdue": report.overdue is not None,
        "recorded": report.unrecorded is None,
    }


def _task(entry: Entry) -> dict[str, Any]:
    options, proof = entry.options, entry.proof
    return {
        "name": entry.task,
        "where": show.near(entry.where),
        "kind": entry.kind,
        "docstring": entry.docstring,
        "effects": entry.effects,
        "idempotency_key": entry.key,
        "guards": entry.guards,
        "queue": options.queue,
        "priority": options.priority,
        "expires_at": options.expires.isoformat() if isinstance(options.expires, datetime) else None,
        "expires_in_seconds": show.seconds(options.expires)
        if isinstance(options.expires, timedelta)
        else None,
        "max_attempts": options.max_attempts,
        "retry": options.retry and asdict(options.retry),
        "retry_on": entry.retry_on,
        "give_up_on": entry.give_up_on,
        "max_run_time_seconds": show.seconds(options.max_run_time),
        "isolated": entry.isolated,
        "arguments": entry.arguments,
        "given": entry.given,
        "sensitivity": entry.sensitivity,
        "policy": entry.policy,
        "proof": proof and {**asdict(proof), "at": proof.at.isoformat()},
        "gaps": [_placed(gap) for gap in entry.gaps],
        "reviewed": [_placed(finding) for finding in entry.reviewed],
    }


def _placed(found: Gap | Finding) -> dict[str, Any]:
    return {**asdict(found), "where": show.near(found.where)}


# ── for people ────────────────────────────────────────────────────────────────────────────────


def _print_gaps(report: Report) -> None:
    for entry in report.entries:
        for gap in entry.gaps:
            show.say(f"{show.near(gap.where)}: {entry.task} {gap.what}. Remedy: {gap.remedy}")
    show.say(_counted(report))


def _print_all(report: Report) -> None:
    if not report.entries:
        show.say("This app has no tasks; modules that declare some are named in Duly(include=[…]).")
        return
    console = show.console()
    console.print(_table(report))
    for entry in report.entries:
        if entry.gaps or entry.reviewed:
            console.print(f"\n{entry.task}", style="bold")
            console.print(_found(entry))
    console.print()
    console.print(_counted(report), style="bold red" if report.gaps else "bold green")
    if report.overdue:
        console.print(report.overdue.capitalize(), style="yellow")


def _table(report: Report) -> RenderableType:
    """A row for each task, below its module, so that names find room in a narrow terminal."""
    from rich.text import Text

    columns = ("Task", "Effects", "Guards", "Expires", "Attempts", "Limit", "Proof", "Gaps")
    table, above = show.table(*columns, numbers=("Attempts", "Gaps")), ""
    for entry in report.entries:
        module, _, name = entry.task.rpartition(".")
        if module != above:
            table.add_row(Text(module, style="dim"))
            above = module
        table.add_row(f"  {name}" if module else name, *_row(entry))
    return table


def _row(entry: Entry) -> Iterator[RenderableType]:
    options, implied = entry.options, {"transaction", "mark"}
    yield entry.effects or _red("not stated")
    guards = [guard for guard in entry.guards if guard not in implied]
    yield ", ".join(["key"] * bool(entry.key) + guards) or show.NOTHING
    expires = options.expires
    yield f"{expires:%Y-%m-%d}" if isinstance(expires, datetime) else show.age(expires)
    yield str(options.max_attempts)
    yield show.age(options.max_run_time)
    yield _proof(entry)
    yield show.count(len(entry.gaps), bad=True)


def _proof(entry: Entry) -> RenderableType:
    from rich.text import Text

    proof = entry.proof
    if proof is None:
        return show.NOTHING
    if proof.stale:
        return Text(f"{proof.verdict}, stale", style="yellow")
    return Text(proof.verdict, style="green" if proof.verdict == "proved" else "bold red")


def _found(entry: Entry) -> RenderableType:
    """The task's gaps, and what was reviewed: where, what, and what to do or why it is right."""
    from rich.table import Table
    from rich.text import Text

    found = Table.grid(padding=(0, 2))
    found.add_column(style="dim", no_wrap=True)
    found.add_column(overflow="fold")
    for gap in entry.gaps:
        found.add_row(show.near(gap.where), Text(one_line(gap.what), style="red"))
        found.add_row("", f"→ {one_line(gap.remedy)}")
    for finding in entry.reviewed:
        found.add_row(show.near(finding.where), Text(one_line(finding.what), style="dim"))
        found.add_row("", Text(f"reviewed: {one_line(finding.reviewed or '')}", style="green"))
    return found


def _red(text: str) -> RenderableType:
    from rich.text import Text

    return Text(text, style="red")


def _counted(report: Report) -> str:
    found = (
        f"{show.many(len(report.entries), 'task')}, {show.many(report.gaps, 'gap')}, "
        f"{show.many(report.reviewed, 'reviewed finding')}."
    )
    if report.unrecorded is not None:
        return found
    last = report.previous
    if last is None or report.since is None:
        return f"{found} Never audited before."
    return (
        f"{found} Last audited {duration(report.since)} ago by {last.actor}: {show.many(last.gaps, 'gap')}."
    )
