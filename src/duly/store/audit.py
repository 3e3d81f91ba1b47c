"""The audit log: what was done to jobs, by whom."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from sqlalchemy import Connection, insert

from duly.model.ids import new_id
from duly.store.dialect.base import StoreDialect
from duly.store.schema import Tables


class Audit:
    """Entries are added, and never changed."""

    def __init__(self, tables: Tables, dialect: StoreDialect) -> None:
        self.tables = tables
        self.dialect = dialect

    def note(
        self, connection: Connection, actor: str, action: str, ids: Iterable[UUID | None], details: str = ""
    ) -> None:
        """Enter that *actor* did *action* to these jobs; None stands for no job in particular."""
        entries = [
            {"id": new_id(), "actor": actor[:200], "action": action, "job_id": one, "details": details}
            for one in ids
        ]
        if entries:
            connection.execute(insert(self.tables.audit).values(at=self.dialect.clock), entries)
