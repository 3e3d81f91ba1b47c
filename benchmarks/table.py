"""The report for people, 80 columns wide."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def show(report: dict[str, Any], console: Console) -> None:
    """Everything that was measured, and what was not run."""
    here = report["environment"]
    loads = " → ".join(f"{load[0]:g}" for load in (here["load"], here["load_after"]))
    console.print(
        f"duly {here['duly']}, Python {here['python']}, SQLAlchemy {here['sqlalchemy']}, psycopg {here['psycopg']}; "
        f"{here['cores']} cores ({here['processor']}), load before and after: {loads}; {here['date']}",
        highlight=False,
    )
    for database in report["databases"]:
        console.print(_table(database))
        settings = ", ".join(f"{name} {value}" for name, value in database["settings"].items())
        console.print(f"[dim]{settings}[/dim]", highlight=False)
        took = ", ".join(f"{part} {seconds:.0f} s" for part, seconds in database["took"].items())
        console.print(f"[dim]measuring took: {took}[/dim]", highlight=False)
        for reason in database["not_measured"]:
            console.print(f"NOT MEASURED: {reason}", style="yellow", highlight=False, markup=False)
    console.print(
        f"{report['rounds']} rounds of drain and enqueue, {report['backlog_rounds']} of backlog; median, and least-"
        "greatest where there are several. Ratio: through the line below it, of the same round. Only ratios travel "
        "from one machine to another; when others use its cores, seconds and rates mean little.",
        highlight=False,
    )
    for reason in report["not_run"]:
        console.print(f"NOT RUN: {reason}", style="yellow", highlight=False, markup=False)


def _table(database: dict[str, Any]) -> Table:
    table = Table(
        title=database["name"], title_justify="left", box=None, width=80, pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column("", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("ratio", justify="right", no_wrap=True)
    table.add_column("target", no_wrap=True)
    for figure in database["figures"]:
        beside, target = figure.get("beside"), figure.get("target")
        table.add_row(
            figure["name"],
            *_numbers(figure),
            figure["unit"],
            _number(figure["ratio"]["median"]) if beside else "",
            f"{target['bound']} {'reached' if target['reached'] else 'NO'}" if target else "",
        )
        if beside:
            table.add_row(f"  {beside['name']}", *_numbers(beside), figure["unit"], style="dim")
    return table


def _numbers(figure: dict[str, Any]) -> tuple[str, str]:
    """The median, and the spread where there is one."""
    several = len(figure["values"]) > 1
    return (
        _number(figure["median"]),
        f"{_number(figure['min'])}-{_number(figure['max'])}" if several else "",
    )


def _number(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:.1f}k"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
