"""The report for people, 80 columns wide."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def show(report: dict[str, Any], console: Console) -> None:
    """Everything that was measured, and what was not run."""
    here = report["environment"]
    console.print(
        f"duly {here['duly']}, Python {here['python']}, SQLAlchemy {here['sqlalchemy']}, psycopg {here['psycopg']}; "
        f"{here['cores']} cores ({here['machine']}), load {here['load'][0]:g}; {here['date']}",
        highlight=False,
    )
    for database in report["databases"]:
        console.print(_table(database))
        settings = ", ".join(f"{name} {value}" for name, value in database["settings"].items())
        console.print(f"[dim]{settings}[/dim]", highlight=False)
    console.print(
        f"{report['jobs']:,} jobs to drain, {report['rounds']} rounds, median (least-greatest); "
        "ratio: Duly through the bare statement of the same round",
        highlight=False,
    )
    for reason in report["not_run"]:
        console.print(f"NOT RUN: {reason}", style="yellow", highlight=False)


def _table(database: dict[str, Any]) -> Table:
    table = Table(title=database["name"], title_justify="left", box=None, width=80, pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("Duly", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("bare", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("ratio", justify="right", no_wrap=True)
    for figure in database["figures"]:
        bare = figure.get("bare")
        table.add_row(
            figure["name"],
            _spread(figure),
            figure["unit"],
            _number(bare["median"]) if bare else "",
            bare["name"] if bare else "",
            f"{figure['ratio']['median']:.2f}" if bare else "",
        )
    return table


def _spread(figure: dict[str, Any]) -> str:
    middle = _number(figure["median"])
    if len(figure["values"]) == 1:
        return middle
    return f"{middle} ({_number(figure['min'])}-{_number(figure['max'])})"


def _number(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:.1f}k"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
