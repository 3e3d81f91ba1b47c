"""How answers look: tables for people, JSON for scripts."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from duly.observe.durations import duration
from duly.observe.text import one_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

NOTHING = "-"
_UNBOUND = 10_000


def say(text: str) -> None:
    """One line on stdout."""
    typer.echo(one_line(text))


def as_json(data: object) -> None:
    """One JSON document on stdout, in ASCII."""
    typer.echo(json.dumps(data, indent=2))


def console() -> Console:
    """Stdout: as wide as the terminal; in a pipe, where nobody turns lines, as wide as what is printed."""
    from rich.console import Console

    plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
    found = Console(**plain)
    return found if found.is_terminal else Console(**plain, width=_UNBOUND)


def table(*columns: str, numbers: tuple[str, ...] = ()) -> Table:
    """An empty table; the columns named in *numbers* stand to the right."""
    from rich import box
    from rich.table import Table

    made = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold"
    )
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return made


def pairs(rows: dict[str, str | None]) -> Table:
    """Names and values under each other, without those that are None."""
    from rich.table import Table

    made = Table.grid(padding=(0, 2))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows.items():
        if value is not None:
            made.add_row(name, one_line(value))
    return made


def stack(*parts: RenderableType) -> RenderableType:
    """Things under each other, without a gap."""
    from rich.console import Group

    return Group(*parts)


def many(number: int, noun: str) -> str:
    """``1 job``, ``2 jobs``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def count(number: int, *, bad: bool = False) -> RenderableType:
    """A number; nothing is dim, and what somebody should look at is red."""
    from rich.text import Text

    return Text(str(number), style="dim" if not number else "bold red" if bad else "")


def age(span: timedelta | None) -> str:
    """A duration that is never below nothing: clocks of a database and its transactions differ a little."""
    return NOTHING if span is None else duration(timedelta(seconds=round(max(span.total_seconds(), 0), 1)))


def near(where: str) -> str:
    """A place, from the current directory where it is inside."""
    path = Path(where)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else where


def moment(at: datetime | None, now: datetime) -> str | None:
    """An instant in UTC, and how far it is from now."""
    if at is None:
        return None
    distance = f"in {age(at - now)}" if at > now else f"{age(now - at)} ago"
    return f"{at:%Y-%m-%d %H:%M:%S} UTC ({distance})"


def seconds(span: timedelta | None) -> float | None:
    """A duration for JSON."""
    return None if span is None else round(max(span.total_seconds(), 0.0), 3)
