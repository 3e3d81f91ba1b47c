"""The keys that jobs hold: the only place of uniqueness.

A key is released by the job that holds it, never by the key alone: whoever has taken it since keeps it. Locks go
job first, then key; several keys are taken in their order. So nobody waits for each other in a circle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, case, or_, select, update

from duly.model.unique import Key, Until
from duly.store.dialect.base import StoreDialect
from duly.store.schema import Tables
from duly.store.statements import WAITING, parts

OF_A_JOB = (Until.CLAIM.value, Until.END.value)
"""Words of keys that go with their job, at the latest when it ends."""


class Held(NamedTuple):
    """A key as it stands: whose it is, and whether it still counts."""

    key: str
    job_id: UUID
    until: Until
    over: bool
    """Its time has passed, or its job is gone: the next one may have it."""
    waits: bool
    """Its job waited when it was looked at."""


class Keys:
    """The keys table."""

    def __init__(self, tables: Tables, dialect: StoreDialect) -> None:
        self.tables = tables
        self.dialect = dialect

    # ── looking ───────────────────────────────────────────────────────────────────────────────

    def look(self, connection: Connection, keys: Sequence[str]) -> dict[str, Held]:
        """The keys that somebody holds, and how their jobs stand; nothing is locked."""
        held, jobs, now = self.tables.keys.c, self.tables.jobs.c, self.dialect.clock
        found: dict[str, Held] = {}
        for some in parts(keys):
            state = case((jobs.state.in_(WAITING), "waits"), (jobs.id.is_not(None), "is there"))
            seen = (
                select(held.key, held.job_id, held.until, _passed(held, now), state.label("state"))
                .select_from(self.tables.keys.outerjoin(self.tables.jobs, jobs.id == held.job_id))
                .where(held.key.in_(some))
            )
            for row in connection.execute(seen):
                # A row that somebody has deleted past Duly must not keep its key for ever.
                gone = row.until in OF_A_JOB and row.state is None
                waits = row.state == "waits"
                over = bool(row.passed) or gone or (row.until == Until.CLAIM and not waits)
                found[row.key] = Held(row.key, row.job_id, Until(row.until), over, waits)
        return found

    def met(self, connection: Connection, keys: Sequence[str]) -> dict[str, Held]:
        """These keys as they are now, however old the caller's view is: asked after an insert that has met them."""
        held = self.tables.keys.c
        found: dict[str, Held] = {}
        for some in parts(keys):
            seen = select(held.key, held.job_id, held.until, _passed(held, self.dialect.clock)).where(
                held.key.in_(some)
            )
            for row in connection.execute(self.dialect.as_they_are(seen)):
                found[row.key] = Held(row.key, row.job_id, Until(row.until), bool(row.passed), waits=True)
        return found

    # ── taking ────────────────────────────────────────────────────────────────────────────────

    def take(self, connection: Connection, wanted: Mapping[str, tuple[Key, UUID]]) -> dict[str, Held]:
        """Take, in their order, keys that nobody holds; whose they are now, which may be somebody else.

        Waits for whoever is taking one of them at the moment.
        """
        rows = [_row(key, job) for key, job in sorted(wanted.values(), key=lambda want: want[0].place)]
        connection.execute(self.dialect.insert_or_ignore(self.tables.keys), rows)
        return self.met(connection, list(wanted))

    def move(self, connection: Connection, held: Held, key: Key, job: UUID) -> bool:
        """Give a key that another job holds to *job*; False where somebody was quicker."""
        keys = self.tables.keys
        same = [keys.c.key == held.key, keys.c.job_id == held.job_id, keys.c.until == held.until.value]
        if held.until not in OF_A_JOB and held.over:
            same.append(keys.c.until_at <= self.dialect.clock)
        return connection.execute(update(keys).where(*same).values(**_row(key, job))).rowcount == 1

    # ── releasing ─────────────────────────────────────────────────────────────────────────────

    def begun(self, connection: Connection, jobs: Sequence[UUID]) -> None:
        """These jobs were claimed for the first time: release what they held while they waited."""
        self._release(connection, jobs, (Until.CLAIM.value,))

    def ended(self, connection: Connection, jobs: Sequence[UUID]) -> None:
        """These jobs have ended: release what they held until then."""
        self._release(connection, jobs, OF_A_JOB)

    def forget(self, connection: Connection, jobs: Sequence[UUID]) -> None:
        """Release all that these jobs hold: they have never been. What a job has done once stays done."""
        self._release(connection, jobs, [word.value for word in Until if word is not Until.EVER])

    def extend(self, connection: Connection, origin: UUID, until_at: datetime) -> None:
        """Another job of the same origin was enqueued: its idempotency key stands until that one expires."""
        keys = self.tables.keys
        its = (keys.c.job_id == origin, keys.c.until == Until.EXPIRY.value, keys.c.until_at < until_at)
        connection.execute(update(keys).where(*its).values(until_at=until_at))

    def _release(self, connection: Connection, jobs: Sequence[UUID], words: Iterable[str]) -> None:
        keys = self.tables.keys
        for some in parts(jobs):
            released = keys.c.until.in_(list(words))
            self.dialect.remove_owned(connection, keys.c.job_id, some, released, by="keys_job")


def _passed(held: Any, now: Any) -> Any:
    return case((or_(held.until_at.is_(None), held.until_at > now), 0), else_=1).label("passed")


def _row(key: Key, job: UUID) -> dict[str, Any]:
    return {"key": key.digest, "job_id": job, "until": key.until.value, "until_at": key.until_at}
