"""What a person asks of a running job, whether a worker wants to be woken, and suspects found quickly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from alembic import context, op

if TYPE_CHECKING:
    from duly.store.store import Store

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add both columns, and an index (on MySQL, which has no partial ones, another one does)."""
    store: Store = context.config.attributes["store"]
    prefix, schema = store.names.prefix, store.names.schema
    for table, name in (("jobs", "cancelling"), ("workers", "asleep")):
        if store.dialect.name == "mysql" and name in columns_of(prefix + table):
            continue  # made by a migration that was cut off: MySQL commits with every column
        column = sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false())
        op.add_column(prefix + table, column, schema=schema)
    if store.dialect.name != "mysql":
        suspect = sa.text("state = 'suspect'")
        op.create_index(
            f"{prefix}jobs_suspects", f"{prefix}jobs", ["queue"],
            schema=schema, postgresql_where=suspect, sqlite_where=suspect,
        )  # fmt: skip


def columns_of(table: str) -> set[str]:
    """What the table has already."""
    return {column["name"] for column in sa.inspect(op.get_bind()).get_columns(table)}
