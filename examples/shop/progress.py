"""How far the day has come: a live bar on a terminal, a line for each quarter in a log."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


class DayProgress:
    """Shows how many of *total* jobs have ended, from ``with`` to the end of its block."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._quarter = 0
        self._bar = Progress(
            TextColumn("  "),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("jobs", total=total)

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the bar as it stands."""
        self._bar.stop()

    def show(self, ended: int, words: str) -> None:
        """Say that so many jobs have ended, and *words* on what else is seen."""
        self._bar.update(self._task, completed=ended, description=f"jobs, {words}")
        quarter = 4 * ended // self._total
        if quarter > self._quarter and not self._console.is_terminal:
            self._console.print(f"   {ended} of {self._total} jobs have ended, {words}")
        self._quarter = quarter
