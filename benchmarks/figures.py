"""What was measured: figures with their spread, and the bare figures of the same rounds beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing measured in several rounds, in ``unit``; ``bare`` has the same rounds done by hand."""

    name: str
    unit: str
    values: Sequence[float]
    bare_name: str = ""
    bare: Sequence[float] = field(default_factory=tuple)

    @property
    def ratios(self) -> list[float]:
        """Duly's figure through the bare one, round by round."""
        return [ours / bare for ours, bare in zip(self.values, self.bare, strict=True)] if self.bare else []

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        found = {"name": self.name, "unit": self.unit, **spread(self.values), "values": list(self.values)}
        if self.bare:
            found["bare"] = {"name": self.bare_name, **spread(self.bare), "values": list(self.bare)}
            found["ratio"] = spread(self.ratios)
        return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Least, median, greatest."""
    return {"min": min(values), "median": median(values), "max": max(values)}


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that *percent* of all are not above (nearest rank)."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)]
