"""Keys that jobs hold, durable steps, what people resolved, proofs and audits, and how far pruning has come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic import context, op

from duly.store.schema import BYTES, MADE_ON_MYSQL, Id, Instant, Words

if TYPE_CHECKING:
    from duly.store.store import Store

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Two columns, indexes and five tables."""
    store: Store = context.config.attributes["store"]
    prefix, schema = store.names.prefix, store.names.schema
    connection, on_mysql = op.get_bind(), store.dialect.name == "mysql"

    # MySQL commits with each of them: what a migration that was cut off has made is there when it is repeated.
    def column(on: str, name: str) -> None:
        if on_mysql and name in {known["name"] for known in sa.inspect(connection).get_columns(prefix + on)}:
            return
        made = sa.Column(name, sa.SmallInteger, nullable=False, server_default="0")
        op.add_column(prefix + on, made, schema=schema)

    def index(on: str, name: str, *columns: str) -> None:
        name, on = prefix + name, prefix + on
        if not on_mysql or name not in {known["name"] for known in sa.inspect(connection).get_indexes(on)}:
            op.create_index(name, on, list(columns), schema=schema)

    def table(name: str, *columns: sa.Column[Any]) -> None:
        op.create_table(prefix + name, *columns, schema=schema, if_not_exists=on_mysql, **MADE_ON_MYSQL)

    column("jobs", "holds")
    column("jobs", "transients")
    index("executions", "executions_expiring", "expires_at")
    if not on_mysql:
        troubled = sa.text("outcome <> 'succeeded'")
        op.create_index(
            f"{prefix}executions_troubled",
            f"{prefix}executions",
            ["ended_at"],
            schema=schema,
            postgresql_where=troubled,
            sqlite_where=troubled,
        )
    index("keys", "keys_until", "until_at")
    table(
        "steps",
        sa.Column("origin", Id, primary_key=True),
        sa.Column("name", Words(200), primary_key=True),
        sa.Column("job_id", Id, nullable=False),
        sa.Column("claim", sa.Integer, nullable=False),
        sa.Column("at", Instant, nullable=False),
        sa.Column("expires_at", Instant, nullable=False),
        sa.Column("result", BYTES, nullable=False),
        sa.Column("key_id", Words(16)),
    )
    index("steps", "steps_expiring", "expires_at")
    table(
        "resolutions",
        sa.Column("job_id", Id, primary_key=True),
        sa.Column("at", Instant, nullable=False),
        sa.Column("actor", Words(200), nullable=False),
        sa.Column("verdict", Words(12), nullable=False),
        sa.Column("again", Id),
        sa.Column("reason", Words(500)),
    )
    table(
        "proofs",
        sa.Column("id", Id, primary_key=True),
        sa.Column("task", Words(200), nullable=False),
        sa.Column("source", Words(64), nullable=False),
        sa.Column("at", Instant, nullable=False),
        sa.Column("verdict", Words(12), nullable=False),
        sa.Column("points", sa.Integer, nullable=False),
        sa.Column("details", Words),
    )
    index("proofs", "proofs_task", "task", "at")
    table(
        "audits",
        sa.Column("id", Id, primary_key=True),
        sa.Column("at", Instant, nullable=False),
        sa.Column("actor", Words(200), nullable=False),
        sa.Column("tasks", sa.Integer, nullable=False),
        sa.Column("gaps", sa.Integer, nullable=False),
    )
    table(
        "pruning",
        sa.Column("what", Words(12), primary_key=True),
        sa.Column("at", Instant, nullable=False),
        sa.Column("job_id", Id, nullable=False),
    )
