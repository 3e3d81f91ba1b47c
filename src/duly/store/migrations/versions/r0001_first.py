"""The first tables.

A revision spells its tables out and never imports today's: it must make tomorrow what it makes now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import sqlalchemy as sa
from alembic import context, op

from duly.store.schema import Id, Instant

if TYPE_CHECKING:
    from duly.store.store import Store

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make all tables, and give the installation its id."""
    store: Store = context.config.attributes["store"]
    prefix, schema = store.names.prefix, store.names.schema

    def table(name: str, *columns: sa.Column[Any], **options: Any) -> sa.Table:
        return op.create_table(prefix + name, *columns, schema=schema, **options)

    def index(on: str, name: str, columns: list[str], where: str | None = None) -> None:
        condition = sa.text(where) if where else None
        op.create_index(
            f"{prefix}{name}", f"{prefix}{on}", columns, schema=schema,
            postgresql_where=condition, sqlite_where=condition,
        )  # fmt: skip

    installation = table("installation", sa.Column("id", Id, primary_key=True))
    op.bulk_insert(installation, [{"id": uuid4()}])

    table(
        "jobs",
        sa.Column("id", Id, primary_key=True),
        sa.Column("origin", Id, nullable=False),
        sa.Column("task", sa.String(200), nullable=False),
        sa.Column("queue", sa.String(200), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("run_at", Instant, nullable=False),
        sa.Column("expires_at", Instant, nullable=False),
        sa.Column("enqueued_at", Instant, nullable=False),
        sa.Column("claim", sa.Integer, nullable=False, server_default="0"),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("deaths", sa.Integer, nullable=False, server_default="0"),
        sa.Column("rescues", sa.Integer, nullable=False, server_default="0"),
        sa.Column("worker", sa.String(200)),
        sa.Column("started_at", Instant),
        sa.Column("principal", sa.String(200)),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("key_id", sa.String(16)),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.Column("trace", sa.String(200)),
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
    index("jobs", "jobs_claim", ["queue", "priority", "run_at", "id"], "state = 'available'")
    index("jobs", "jobs_running", ["worker"], "state = 'running'")
    index("jobs", "jobs_scheduled", ["run_at"], "state = 'scheduled'")
    index("jobs", "jobs_expiring", ["expires_at"], "state IN ('available', 'scheduled')")

    table(
        "executions",
        sa.Column("job_id", Id, primary_key=True),
        sa.Column("origin", Id, nullable=False),
        sa.Column("task", sa.String(200), nullable=False),
        sa.Column("queue", sa.String(200), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("outcome", sa.String(12), nullable=False),
        sa.Column("cause", sa.String(500)),
        sa.Column("worker", sa.String(200)),
        sa.Column("claim", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("deaths", sa.Integer, nullable=False),
        sa.Column("rescues", sa.Integer, nullable=False),
        sa.Column("enqueued_at", Instant, nullable=False),
        sa.Column("run_at", Instant, nullable=False),
        sa.Column("started_at", Instant),
        sa.Column("ended_at", Instant, nullable=False),
        sa.Column("expires_at", Instant, nullable=False),
        sa.Column("principal", sa.String(200)),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("key_id", sa.String(16)),
        sa.Column("result", sa.LargeBinary),
        sa.Column("envelope", sa.LargeBinary),
        sa.Column("trace", sa.String(200)),
    )
    index("executions", "executions_ended", ["ended_at"])

    table(
        "attempts",
        sa.Column("job_id", Id, primary_key=True),
        sa.Column("claim", sa.Integer, primary_key=True),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("worker", sa.String(200)),
        sa.Column("started_at", Instant),
        sa.Column("ended_at", Instant, nullable=False),
        sa.Column("cause", sa.String(500), nullable=False),
        sa.Column("error", sa.LargeBinary),
    )
    table(
        "keys",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("job_id", Id, nullable=False),
        sa.Column("until", sa.String(12), nullable=False),
        sa.Column("until_at", Instant),
    )
    index("keys", "keys_job", ["job_id"])
    table(
        "workers",
        sa.Column("id", sa.String(200), primary_key=True),
        sa.Column("host", sa.String(200), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("queues", sa.Text, nullable=False),
        sa.Column("started_at", Instant, nullable=False),
        sa.Column("beat_at", Instant, nullable=False),
    )
    table(
        "audit",
        sa.Column("id", Id, primary_key=True),
        sa.Column("at", Instant, nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("job_id", Id),
        sa.Column("details", sa.Text),
    )
