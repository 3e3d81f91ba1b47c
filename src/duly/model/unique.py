"""Keys that jobs hold, so that there is one job where there could be many.

A key is kept as a digest, in one table for all tasks. Who holds it is a job; what releases it is one of the
words of ``Until``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal
from uuid import UUID

from duly.model.job import HOLDS_TO_CLAIM, HOLDS_TO_END, NewJob

Unique = str | bool | Callable[..., str]
"""What ``unique=`` takes: a key, True for one made of all arguments, or a function that makes it of them."""

Scope = Literal["waiting", "unfinished"] | timedelta
"""How long a job has its unique key: while it waits, until it ends, or for a time from its enqueue."""

OnConflict = Literal["existing", "replace", "error"]
"""What an enqueue does whose unique key another job has."""

Stored = tuple[bytes, str | None]
"""The digest of a job, and the id of the key that made it."""

BY_UNIQUE, BY_IDEMPOTENCY_KEY, BY_ONCE = "unique", "idempotency key", "once"
"""Kinds of keys: equal texts of two kinds are two keys."""


class Until(StrEnum):
    """What releases a key."""

    CLAIM = "claim"
    """The first claim of its job."""
    END = "end"
    """The end of its job."""
    WINDOW = "window"
    """A time, counted from the enqueue."""
    EXPIRY = "expiry"
    """The ``expires_at`` of the last job with the same origin."""
    EVER = "ever"
    """Nothing, or a time that the task says: it is no job's, but that of ``ctx.once``."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key that a job takes as it is enqueued."""

    digest: str
    until: Until
    until_at: datetime | None = None
    """When it is released, where a time does that."""
    on_conflict: OnConflict = "existing"

    @property
    def place(self) -> tuple[bool, str]:
        """Its place in the order in which all take keys: what may end another job comes last."""
        return self.until is not Until.EXPIRY, self.digest

    @property
    def holds(self) -> int:
        """The bit of ``NewJob.holds`` that says who releases it."""
        return {Until.CLAIM: HOLDS_TO_CLAIM, Until.END: HOLDS_TO_END}.get(self.until, 0)

    @classmethod
    def scoped(cls, digest: str, scope: Scope, enqueued_at: datetime, on_conflict: OnConflict) -> Key:
        """A unique key, held for as long as *scope* says."""
        if isinstance(scope, timedelta):
            return cls(digest, Until.WINDOW, enqueued_at + scope, on_conflict)
        until = Until.CLAIM if scope == "waiting" else Until.END
        return cls(digest, until, None, on_conflict)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who enqueues: what decides about keys besides the jobs themselves."""

    compare: Callable[[NewJob, Stored | None], None]
    """Raises ``IdTaken`` unless a job is the one that is stored."""
    joined: bool = False
    """In the caller's own transaction, which may last."""
    again: bool = False
    """The ids of the jobs may be known already."""
    running: UUID | None = None
    """The job whose code enqueues."""

    def repeating(self) -> Caller:
        """The same once more, after a try of which nobody knows whether it has landed."""
        return replace(self, again=True)


def stored_key(kind: str, task: str, text: str | bytes) -> str:
    """A key as the table has it: 64 hexadecimal digits of a SHA-256, each part with its length in front."""
    body = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    parts = (kind.encode(), task.encode(), body)
    return hashlib.sha256(b"".join(len(part).to_bytes(8) + part for part in parts)).hexdigest()
