"""What a person found out about a job that ended ``uncertain``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID


class Verdict(StrEnum):
    """What became of the job: it did happen, it did not, or it did not and shall be tried again."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    AGAIN = "again"


@dataclass(frozen=True, slots=True)
class Resolution:
    """A verdict that stands. The job's outcome stays ``uncertain``: the ledger says what Duly knew."""

    at: datetime
    actor: str
    verdict: Verdict
    again: UUID | None = None
    """The new job, where the verdict is *again*."""
    reason: str | None = None

    def public(self) -> dict[str, Any]:
        """As ``JobStatus.public`` shows it."""
        return {
            "verdict": str(self.verdict),
            "actor": self.actor,
            "at": self.at.isoformat(),
            "again": self.again and str(self.again),
            "reason": self.reason,
        }
