"""What must agree at the end of the day: what was due, what Duly's ledger says, and what the world has seen.

``compare`` is pure: figures in, lines out. ``count.py`` takes the figures.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from .sink import Receipt


class Delivery(NamedTuple):
    """What tells one mail that is due from another."""

    to: str
    subject: str


@dataclass(frozen=True, slots=True)
class Due:
    """What the shop owes. *late* and *unsold* are mails that nobody may ever get."""

    jobs: int
    mails: frozenset[Delivery]
    late: Delivery
    unsold: Delivery
    rows: int
    thumbnails: int


@dataclass(frozen=True, slots=True)
class Ledger:
    """What became of the jobs, as Duly says. *unsold*: whether it knows the job that was rolled back."""

    enqueued: int
    unfinished: int
    outcomes: Mapping[str, int]
    retried: int
    rescued: int
    unsold: bool


@dataclass(frozen=True, slots=True)
class World:
    """What is seen from outside: by the mail server, in the shop's own table, on the disk, by who kills and stops.

    *killed* is the process that was killed, *exit_code* what the supervisor returned at the end.
    """

    mails: tuple[Receipt, ...]
    refused: int
    rows: int
    different_rows: int
    thumbnails: int
    killed: int | None
    exit_code: int

    @property
    def deliveries(self) -> Counter[Delivery]:
        """How many mails came for each delivery. One that came again with its Message-ID counts once."""
        different = {(mail.message_id, Delivery(mail.to, mail.subject)) for mail in self.mails}
        return Counter(delivery for _, delivery in different)

    @property
    def repeats(self) -> list[list[Receipt]]:
        """The mails that came more than once under one Message-ID."""
        by_id: dict[str, list[Receipt]] = {}
        for mail in self.mails:
            by_id.setdefault(mail.message_id, []).append(mail)
        return [mails for mails in by_id.values() if len(mails) > 1]


@dataclass(frozen=True, slots=True)
class Line:
    """One figure: what was due (one number, or from *least* to *most*), and what was seen."""

    figure: str
    least: int
    most: float
    seen: int

    @property
    def agrees(self) -> bool:
        """Whether what was seen is what was due."""
        return self.least <= self.seen <= self.most

    @property
    def due(self) -> str:
        """What was due, in words."""
        if self.most == inf:
            return f"{self.least:,} or more"
        return f"{self.least:,}" if self.least == self.most else f"{self.least:,} to {self.most:,}"


def compare(due: Due, ledger: Ledger, world: World) -> tuple[list[Line], list[Line]]:
    """The figures of the ledger and those of the outside world, each beside what was due."""
    return list(_ledger(due, ledger, world)), list(_world(due, world))


def show(console: Console, due: Due, ledger: Ledger, world: World) -> bool:
    """Print the comparison, and what was mailed twice. False when a figure is not what was due."""
    inside, outside = compare(due, ledger, world)
    console.print("", _table(inside, outside), "", sep="\n")
    for repeat in _repeats(world):
        console.print(repeat)
    wrong = [line for line in (*inside, *outside) if not line.agrees]
    for line in wrong:
        console.print(f"[bold red]✗ {line.figure}: due {line.due}, seen {line.seen:,}")
    return not wrong


def _table(ledger: list[Line], world: list[Line]) -> Table:
    result = Table(title="What was due, and what became of it", title_justify="left")
    result.add_column("")
    for heading in ("due", "seen", ""):
        result.add_column(heading, justify="right")
    for title, lines in (("Duly's ledger", ledger), ("The outside world", world)):
        result.add_section()
        result.add_row(f"[bold]{title}")
        for line in lines:
            mark = "[green]✓" if line.agrees else "[bold red]✗"
            result.add_row(line.figure, line.due, f"{line.seen:,}", mark)
    return result


def _repeats(world: World) -> Iterator[str]:
    if world.repeats:
        yield "These mails came more than once, each with one Message-ID, so each counts once:"
    for mails in world.repeats:
        senders = ", ".join(f"{m.process}{' (killed)' if m.process == world.killed else ''}" for m in mails)
        yield f"   {mails[0].to}, from processes {senders}\n   {mails[0].message_id}"


def _ledger(due: Due, ledger: Ledger, world: World) -> Iterator[Line]:
    succeeded, expired = ledger.outcomes.get("succeeded", 0), ledger.outcomes.get("expired", 0)
    ended = sum(ledger.outcomes.values())
    yield _exactly("jobs enqueued", due.jobs, ledger.enqueued)
    yield _exactly("… that succeeded", due.jobs - 1, succeeded)
    yield _exactly("… that expired (the flash sale)", 1, expired)
    yield _exactly("… that ended in any other way", 0, ended - succeeded - expired)
    yield _exactly("… that have not ended", 0, ledger.unfinished)
    yield Line("jobs rescued from the killed worker", 1, inf, ledger.rescued)
    least, most = max(world.refused - ledger.rescued, 0), world.refused + ledger.rescued
    yield Line("jobs retried (refused mails, rescued jobs)", least, most, ledger.retried)
    yield _exactly("jobs of the order that was rolled back", 0, int(ledger.unsold))


def _world(due: Due, world: World) -> Iterator[Line]:
    came = world.deliveries
    yield _exactly("different mails received", len(due.mails), came.total())
    yield _exactly("… those that were due, each once", len(due.mails), sum(came[d] == 1 for d in due.mails))
    kill = sum(mails[0].process == world.killed for mails in world.repeats)
    yield Line("… that came again because of the kill", 1, inf, kill)
    yield _exactly("… that came again for no reason", 0, len(world.repeats) - kill)
    yield _exactly("mails about the flash sale that was over", 0, came[due.late])
    yield _exactly("mails about the order that was rolled back", 0, came[due.unsold])
    yield _exactly("rows imported, of those in the file", due.rows, world.rows)
    yield _exactly("… that differ from one another", due.rows, world.different_rows)
    yield _exactly("thumbnails on disk, whole", due.thumbnails, world.thumbnails)
    yield _exactly("exit code of the supervisor", 0, world.exit_code)


def _exactly(figure: str, due: int, seen: int) -> Line:
    return Line(figure, due, due, seen)
