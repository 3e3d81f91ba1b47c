"""Which ended jobs somebody asks the ledger for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from duly.model.states import Outcome


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is None says nothing. ``since`` and ``until`` bound the end of the jobs: from, and before."""

    task: str | None = None
    queue: str | None = None
    outcome: Outcome | None = None
    since: datetime | None = None
    until: datetime | None = None
    jobs: Sequence[UUID] | None = None
    """These alone, where they have ended."""
