"""What was found out about tasks: verdicts of the prover, and the audits that were made."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, insert, select

from duly.model.ids import new_id
from duly.store.dialect.base import StoreDialect
from duly.store.schema import Tables


@dataclass(frozen=True, slots=True)
class Proof:
    """A verdict of the prover, as it was saved."""

    task: str
    source: str
    """The fingerprint of the task's source at that time, 64 hex digits."""
    at: datetime
    verdict: str
    points: int
    """At how many points it was crashed."""
    details: str | None


@dataclass(frozen=True, slots=True)
class AuditRun:
    """An audit that was made."""

    at: datetime
    actor: str
    tasks: int
    gaps: int


class Proofs:
    """Verdicts and audits are added, and never changed."""

    def __init__(self, tables: Tables, dialect: StoreDialect) -> None:
        self.tables = tables
        self.dialect = dialect

    def save(
        self,
        connection: Connection,
        *,
        task: str,
        source: str,
        verdict: str,
        points: int,
        details: str | None = None,
    ) -> None:
        """Keep a verdict on *task*, as its *source* (``source_of``) stands."""
        values = {"task": task, "source": source, "verdict": verdict, "points": points, "details": details}
        connection.execute(insert(self.tables.proofs).values(id=new_id(), at=self.dialect.clock, **values))

    def last(self, connection: Connection) -> dict[str, Proof]:
        """The last verdict on each task that has one, by the task's name."""
        proofs = self.tables.proofs.c
        newest = select(proofs.task, func.max(proofs.at).label("at")).group_by(proofs.task).subquery()
        rows = connection.execute(
            select(proofs.task, proofs.source, proofs.at, proofs.verdict, proofs.points, proofs.details)
            .join(newest, (proofs.task == newest.c.task) & (proofs.at == newest.c.at))
            .order_by(proofs.id)  # of two at the same instant the later one counts
        )
        return {row.task: Proof(*row) for row in rows}

    def note_audit(self, connection: Connection, *, actor: str, tasks: int, gaps: int) -> None:
        """Enter that *actor* made an audit of so many tasks, which found so many gaps."""
        values = {"actor": actor[:200], "tasks": tasks, "gaps": gaps}
        connection.execute(insert(self.tables.audits).values(id=new_id(), at=self.dialect.clock, **values))

    def last_audit(self, connection: Connection) -> AuditRun | None:
        """The last audit; None where none was ever made."""
        audits = self.tables.audits.c
        row = connection.execute(
            select(audits.at, audits.actor, audits.tasks, audits.gaps)
            .order_by(audits.at.desc(), audits.id.desc())
            .limit(1)
        ).first()
        return None if row is None else AuditRun(*row)
