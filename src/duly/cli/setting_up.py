"""Before there are jobs: ``duly migrate``, ``tasks`` and ``keys new``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from duly.cli import show
from duly.cli.locate import opened
from duly.cli.options import AppOption, JsonOption, add

if TYPE_CHECKING:
    from duly.app import Duly
    from duly.task.task import Task

keys = typer.Typer(help="Keys that seal envelopes.")


def add_to(program: typer.Typer) -> None:
    """Put the commands into the program."""
    panel = "Setting up"
    add(program, panel, migrate, "duly migrate", "DULY_DATABASE_URL=postgresql://db/shop duly migrate")
    add(program, panel, tasks, "duly tasks --app shop.tasks:jobs")
    add(keys, panel, new_key, 'export DULY_KEYS="$(duly keys new)"', name="new")
    program.add_typer(keys, name="keys", rich_help_panel=panel)


def migrate(app: AppOption = None, json: JsonOption = False) -> None:
    """Make Duly's tables, or bring them to this release.

    Safe to run again, and on several machines at once. Tables that are newer are refused.
    """
    with opened(app, fresh=True) as found:
        before, after = found.migrate()
        database = found.store.describe()["database"]
    if json:
        show.as_json({"database": database, "before": before, "after": after})
    elif before == after:
        show.say(f"{database}: nothing to do, the tables are at revision {after}")
    elif before is None:
        show.say(f"{database}: made the tables, at revision {after}")
    else:
        show.say(f"{database}: brought the tables from revision {before} to {after}")


# ── tasks ─────────────────────────────────────────────────────────────────────────────────────


def tasks(app: AppOption = None, json: JsonOption = False) -> None:
    """List the app's tasks.

    With their queue, what they state of their effects, their kind, and where they are declared.
    """
    with opened(app, tasks=True) as found:
        rows = [_task(found, task) for task in sorted(found.tasks, key=lambda task: task.name)]
    if json:
        show.as_json(rows)
        return
    if not rows:
        show.say("This app has no tasks; modules that declare some are named in Duly(include=[…]).")
        return
    table = show.table("Task", "Queue", "Effects", "Kind", "Where")
    for row in rows:
        table.add_row(
            row["name"], row["queue"], row["effects"] or show.NOTHING, row["kind"], show.near(row["where"])
        )
    show.console().print(table)


def _task(app: Duly, task: Task[..., Any]) -> dict[str, Any]:
    return {
        "name": task.name,
        "queue": app.options_of(task, None).queue,
        "effects": task.effects,
        "kind": "async" if task.signature.is_async else "sync",
        "where": task.where,
    }


# ── keys ──────────────────────────────────────────────────────────────────────────────────────


def new_key() -> None:
    """Print a fresh key for DULY_KEYS, on one line.

    It is kept nowhere: store it as you store passwords.
    """
    from duly.envelope.keys import new_key as fresh_key

    typer.echo(fresh_key())
