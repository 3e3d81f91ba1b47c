"""What the prover found out: *proved*, *diverges*, or *cannot tell*; and where."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from duly.proof.difference import Difference
from duly.proof.points import Moment, Point

LIMITS = (
    "one input: other arguments, and other data, may go other ways",
    "the points that were seen: what a C library does past Python is not among them",
    "death and delay of worker processes; not of the database, nor of whom the task speaks to",
)
"""What a verdict does not say."""


class Word(StrEnum):
    """The verdict in a word."""

    PROVED = "proved"
    DIVERGES = "diverges"
    CANNOT_TELL = "cannot tell"


class Trial(StrEnum):
    """What was done to the task."""

    KILLED = "killed"
    FROZEN = "frozen"
    DOUBLED = "doubled"


@dataclass(frozen=True, slots=True)
class Divergence:
    """A run that did not end as the clean one."""

    trial: Trial
    point: Point | None
    """Where; None for two deliveries at once."""
    moment: Moment | None
    outcome: str | None
    """How the job ended."""
    attempts: int
    differences: tuple[Difference, ...]
    hint: str

    @property
    def how(self) -> str:
        """``killed after point 3``."""
        if self.point is None or self.moment is None:
            return "delivered twice at once"
        return f"{self.trial} {self.moment} point {self.point.number}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one call of one task."""

    word: Word
    task: str
    arguments: Mapping[str, Any]
    effects: str | None
    """What the task states of its effects."""
    points: tuple[Point, ...]
    runs: int
    """How often the task was crashed, frozen or doubled."""
    seconds: float
    divergences: tuple[Divergence, ...] = ()
    reasons: tuple[str, ...] = ()
    """Why it cannot tell."""
    remedies: tuple[str, ...] = ()
    """What to write so that it could, as columns to declare free."""
    relies_on: tuple[str, ...] = ()
    """Receivers that were sent something twice, and must know it by the job's idempotency key."""

    @property
    def summary(self) -> str:
        """One line, without arguments or data: what is saved of it."""
        match self.word:
            case Word.PROVED:
                return f"{len(self.points)} points, {self.runs} runs"
            case Word.DIVERGES:
                first = self.divergences[0]
                where = f" ({first.point.kind} at {first.point.where})" if first.point else ""
                return f"{len(self.divergences)} of {self.runs} runs; first: {first.how}{where}"
        return f"{len(self.reasons)} reasons; prove it again to read them"

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "verdict": self.word.value,
            "task": self.task,
            "effects": self.effects,
            "runs": self.runs,
            "seconds": round(self.seconds, 3),
            "points": [
                {"number": point.number, "kind": point.kind, "what": point.what, "where": point.where}
                for point in self.points
            ],
            "divergences": [_divergence(found) for found in self.divergences],
            "reasons": list(self.reasons),
            "free": list(self.remedies),
            "relies_on": list(self.relies_on),
            "limits": list(LIMITS),
        }


def _divergence(found: Divergence) -> dict[str, Any]:
    return {
        "trial": found.trial.value,
        "moment": None if found.moment is None else found.moment.value,
        "point": None if found.point is None else found.point.number,
        "where": None if found.point is None else found.point.where,
        "outcome": found.outcome,
        "attempts": found.attempts,
        "differences": [
            {"kind": one.kind, "where": one.where, "fault": one.fault.value, "lines": list(one.lines)}
            for one in found.differences
        ],
        "hint": found.hint,
    }


def untold(task: str, arguments: Mapping[str, Any], reasons: Collection[str]) -> Verdict:
    """The verdict where nothing could be tried."""
    return Verdict(Word.CANNOT_TELL, task, arguments, None, (), 0, 0.0, reasons=tuple(dict.fromkeys(reasons)))
