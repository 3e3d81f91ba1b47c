"""What was measured: figures with their spread, what stands beside them, and what they should come to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure should come to: at least, at most, or less than a bound. Its ratio, where it has one."""

    sign: str
    bound: float

    def __str__(self) -> str:
        return f"{self.sign} {self.bound:g}"

    def reached(self, value: float) -> bool:
        """Whether *value* is on the right side."""
        match self.sign:
            case "≥":
                return value >= self.bound
            case "≤":
                return value <= self.bound
            case _:
                return value < self.bound


def at_least(bound: float) -> Target:
    """The bound or more."""
    return Target("≥", bound)


def at_most(bound: float) -> Target:
    """The bound or less."""
    return Target("≤", bound)


def below(bound: float) -> Target:
    """Less than the bound."""
    return Target("<", bound)


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing measured in several rounds, in ``unit``; ``beside`` is what the same rounds gave for comparison."""

    name: str
    unit: str
    values: Sequence[float]
    beside_name: str = ""
    beside: Sequence[float] = field(default_factory=tuple)
    target: Target | None = None

    @property
    def ratios(self) -> list[float]:
        """The figure through what stands beside it, round by round."""
        return (
            [ours / other for ours, other in zip(self.values, self.beside, strict=True)]
            if self.beside
            else []
        )

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        found = {"name": self.name, "unit": self.unit, **spread(self.values), "values": list(self.values)}
        if self.beside:
            found["beside"] = {"name": self.beside_name, **spread(self.beside), "values": list(self.beside)}
            found["ratio"] = spread(self.ratios)
        if self.target:
            decides = median(self.ratios or self.values)
            found["target"] = {"bound": str(self.target), "reached": self.target.reached(decides)}
        return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Least, median, greatest."""
    return {"min": min(values), "median": median(values), "max": max(values)}


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that *percent* of all are not above (nearest rank)."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)]


def rate_between(start: datetime, endings: Sequence[tuple[datetime, int]], first: int, last: int) -> float:
    """Jobs a second between the record of the *first* job and that of the *last*.

    *endings* says how many jobs were recorded at each moment, in order. Jobs are recorded by the batch, so
    the window opens and closes with one; where a single batch holds all of it, it opens with the *start*.
    """
    counts = [(start, 0)]
    for moment, count in endings:
        counts.append((moment, counts[-1][1] + count))
    closing = max(place for place, (_, total) in enumerate(counts) if total <= last or place == 1)
    opening = min(place for place, (_, total) in enumerate(counts) if total >= first or place == closing)
    if opening == closing:
        opening = 0
    (began, before), (ended, after) = counts[opening], counts[closing]
    return (after - before) / max((ended - began).total_seconds(), 0.001)
