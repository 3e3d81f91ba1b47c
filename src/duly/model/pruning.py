"""How the ledger ages: how long its rows are kept whole, and what a pruning has done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from duly.model.states import KEEPS_ENVELOPE, Outcome

ORDERS = ("succeeded", "failed", "other")
"""The three kinds of outcomes that are kept for times of their own."""


def order_of(outcome: Outcome) -> str:
    """Which of the three an outcome is: ``failed`` are those that a person may want to look at."""
    if outcome is Outcome.SUCCEEDED:
        return "succeeded"
    return "failed" if outcome in KEEPS_ENVELOPE else "other"


@dataclass(frozen=True, slots=True)
class Keep:
    """How long after the end of a job its ledger row is kept whole."""

    succeeded: timedelta
    failed: timedelta
    """``failed``, ``uncertain`` and ``rejected`` ones."""
    other: timedelta
    """``expired`` and ``cancelled`` ones."""

    @classmethod
    def days(cls, succeeded: float, failed: float, other: float) -> Keep:
        """As the settings say it."""
        return cls(timedelta(days=succeeded), timedelta(days=failed), timedelta(days=other))

    @property
    def by_order(self) -> Mapping[str, timedelta]:
        """The three by name, as in ``ORDERS``."""
        return {"succeeded": self.succeeded, "failed": self.failed, "other": self.other}


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was done, or, asked before, would be done."""

    emptied: int = 0
    """Rows of the ledger that have lost cause, result, arguments and trace; their keys stay."""
    removed: int = 0
    """Rows of the ledger that are gone."""
    keys: int = 0
    """Keys whose time was over."""
    steps: int = 0
    """Origins whose durable steps are gone."""
    more: bool = False
    """Whether there may be more to do now."""

    def __add__(self, other: Pruned) -> Pruned:
        """Both together."""
        return Pruned(
            self.emptied + other.emptied,
            self.removed + other.removed,
            self.keys + other.keys,
            self.steps + other.steps,
            self.more or other.more,
        )
