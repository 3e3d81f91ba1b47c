"""The first tables.

A revision spells its tables out and never imports today's: it must make tomorrow what it makes now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import sqlalchemy as sa
from alembic import context, op

from duly.store.schema import BYTES, MADE_ON_MYSQL, Id, Instant, Words

if TYPE_CHECKING:
    from duly.store.store import Store

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make all tables, and give the installation its id."""
    store: Store = context.config.attributes["store"]
    prefix, schema = store.names.prefix, store.names.schema

    connection, on_mysql = op.get_bind(), store.dialect.name == "mysql"

    # MySQL commits with every table: what a migration that was cut off has made is there when it is repeated.
    def table(name: str, *columns: sa.Column[Any], **options: Any) -> sa.Table:
        return op.create_table(
            prefix + name, *columns, schema=schema, if_not_exists=on_mysql, **MADE_ON_MYSQL, **options
        )

    def index(
        on: str, name: str, columns: list[str], where: str | None = None, *, there: list[str] | None = None
    ) -> None:
        name, on = prefix + name, prefix + on
        if on_mysql and name in (known["name"] for known in sa.inspect(connection).get_indexes(on)):
            return
        columns = there if on_mysql and there else columns
        condition = sa.text(where) if where else None
        op.create_index(name, on, columns, schema=schema, postgresql_where=condition, sqlite_where=condition)

    installation = table("installation", sa.Column("id", Id, primary_key=True))
    if connection.scalar(sa.select(installation.c.id)) is None:
        op.bulk_insert(installation, [{"id": uuid4()}])

    table(
        "jobs",
        sa.Column("id", Id, primary_key=True),
        sa.Column("origin", Id, nullable=False),
        sa.Column("task", Words(200), nullable=False),
        sa.Column("queue", Words(200), nullable=False),
        sa.Column("fingerprint", Words(64), nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("state", Words(12), nullable=False),
        sa.Column("run_at", Instant, nullable=False),
        sa.Column("expires_at", Instant, nullable=False),
        sa.Column("enqueued_at", Instant, nullable=False),
        sa.Column("claim", sa.Integer, nullable=False, server_default="0"),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("deaths", sa.Integer, nullable=False, server_default="0"),
        sa.Column("rescues", sa.Integer, nullable=False, server_default="0"),
        sa.Column("worker", Words(200)),
        sa.Column("started_at", Instant),
        sa.Column("principal", Words(200)),
        sa.Column("digest", BYTES, nullable=False),
        sa.Column("key_id", Words(16)),
        sa.Column("envelope", BYTES, nullable=False),
        sa.Column("trace", Words(200)),
        # Rows live for seconds and are updated once or twice. Room in each page keeps the new version
        # beside the old one; early, unthrottled vacuums keep the indexes' heads free of dead entries.
        postgresql_with={
            "fillfactor": 70,
            "autovacuum_vacuum_scale_factor": 0.02,
            "autovacuum_vacuum_threshold": 1000,
            "autovacuum_vacuum_cost_delay": 0,
            "autovacuum_analyze_scale_factor": 0.05,
        },
    )
    index(
        "jobs",
        "jobs_claim",
        ["queue", "priority", "run_at", "id"],
        "state = 'available'",
        there=["state", "queue", "priority", "run_at", "id"],
    )
    index("jobs", "jobs_running", ["worker"], "state = 'running'", there=["state", "worker"])
    index("jobs", "jobs_scheduled", ["run_at"], "state = 'scheduled'", there=["state", "run_at"])
    index("jobs", "jobs_expiring", ["expires_at"], "state IN ('available', 'scheduled')")

    table(
        "executions",
        sa.Column("job_id", Id, primary_key=True),
        sa.Column("origin", Id, nullable=False),
        sa.Column("task", Words(200), nullable=False),
        sa.Column("queue", Words(200), nullable=False),
        sa.Column("fingerprint", Words(64), nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("outcome", Words(12), nullable=False),
        sa.Column("cause", Words(500)),
        sa.Column("worker", Words(200)),
        sa.Column("claim", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("deaths", sa.Integer, nullable=False),
        sa.Column("rescues", sa.Integer, nullable=False),
        sa.Column("enqueued_at", Instant, nullable=False),
        sa.Column("run_at", Instant, nullable=False),
        sa.Column("started_at", Instant),
        sa.Column("ended_at", Instant, nullable=False),
        sa.Column("expires_at", Instant, nullable=False),
        sa.Column("principal", Words(200)),
        sa.Column("digest", BYTES, nullable=False),
        sa.Column("key_id", Words(16)),
        sa.Column("result", BYTES),
        sa.Column("envelope", BYTES),
        sa.Column("trace", Words(200)),
    )
    index("executions", "executions_ended", ["ended_at"])

    table(
        "attempts",
        sa.Column("job_id", Id, primary_key=True),
        sa.Column("claim", sa.Integer, primary_key=True),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("worker", Words(200)),
        sa.Column("started_at", Instant),
        sa.Column("ended_at", Instant, nullable=False),
        sa.Column("cause", Words(500), nullable=False),
        sa.Column("error", BYTES),
    )
    table(
        "keys",
        sa.Column("key", Words(64), primary_key=True),
        sa.Column("job_id", Id, nullable=False),
        sa.Column("until", Words(12), nullable=False),
        sa.Column("until_at", Instant),
    )
    index("keys", "keys_job", ["job_id"])
    table(
        "workers",
        sa.Column("id", Words(200), primary_key=True),
        sa.Column("host", Words(200), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("queues", Words, nullable=False),
        sa.Column("started_at", Instant, nullable=False),
        sa.Column("beat_at", Instant, nullable=False),
    )
    table(
        "audit",
        sa.Column("id", Id, primary_key=True),
        sa.Column("at", Instant, nullable=False),
        sa.Column("actor", Words(200), nullable=False),
        sa.Column("action", Words(40), nullable=False),
        sa.Column("job_id", Id),
        sa.Column("details", Words),
    )
