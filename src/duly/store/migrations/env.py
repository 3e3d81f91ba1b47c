"""What Alembic runs: the revisions, on the connection and under the names it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic import context

if TYPE_CHECKING:
    from duly.store.store import Store

store: Store = context.config.attributes["store"]
context.configure(
    connection=context.config.attributes["connection"],
    version_table=store.tables.version.name,
    version_table_schema=store.names.schema,
)
with context.begin_transaction():
    context.run_migrations()
