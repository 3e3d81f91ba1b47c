"""The tables, as one logical schema for all databases.

Instants are kept to the microsecond in UTC, ids as UUIDs, arguments as bytes; all of it can be read
by a person in psql or sqlite3. ``duly_jobs`` holds *unfinished jobs only*, so it stays small and hot;
``duly_executions`` is the ledger of ended ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Column,
    DateTime,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    TypeDecorator,
    Uuid,
    text,
)

from duly.model.names import LONGEST_NAME

REVISIONS = ("0001",)
"""The schema revisions that this release knows, oldest first; it works on the last one."""


class Id(TypeDecorator[UUID]):
    """A UUID: the database's own type where there is one, else its 36 characters."""

    impl = String(36)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """PostgreSQL has a type for it."""
        native: Any = Uuid() if dialect.name == "postgresql" else String(36)
        return dialect.type_descriptor(native)

    def process_bind_param(self, value: UUID | None, dialect: Dialect) -> Any:
        """To the database."""
        return value if value is None or dialect.name == "postgresql" else str(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> UUID | None:
        """From the database."""
        return value if value is None or dialect.name == "postgresql" else UUID(value)


class Instant(TypeDecorator[datetime]):
    """A moment in UTC to the microsecond. Databases without time zones get and give naive UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database."""
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value if dialect.name == "postgresql" else value.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """From the database: aware, in UTC, whatever zone the session is in."""
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Names:
    """What the tables are called: ``prefix`` before each name, in ``schema`` where one is given."""

    prefix: str = "duly_"
    schema: str | None = None


@dataclass(frozen=True, slots=True)
class Tables:
    """All tables of one installation."""

    metadata: MetaData
    installation: Table
    version: Table
    jobs: Table
    executions: Table
    attempts: Table
    keys: Table
    workers: Table
    audit: Table


def tables(names: Names) -> Tables:
    """The tables under the given names."""
    meta = MetaData(schema=names.schema)

    def table(name: str, *parts: Any) -> Table:
        return Table(names.prefix + name, meta, *parts)

    def index(name: str, *columns: str, where: str | None = None) -> Index:
        condition = text(where) if where else None
        return Index(f"{names.prefix}{name}", *columns, postgresql_where=condition, sqlite_where=condition)

    return Tables(
        metadata=meta,
        installation=table("installation", Column("id", Id, primary_key=True)),
        version=table("schema_version", Column("version_num", String(32), primary_key=True)),
        jobs=table(
            "jobs",
            *_identity("id"),
            Column("fingerprint", String(64), nullable=False),
            Column("priority", SmallInteger, nullable=False),
            Column("state", String(12), nullable=False),
            Column("run_at", Instant, nullable=False),
            Column("expires_at", Instant, nullable=False),
            Column("enqueued_at", Instant, nullable=False),
            Column("claim", Integer, nullable=False, server_default="0"),
            Column("attempt", Integer, nullable=False, server_default="0"),
            Column("deaths", Integer, nullable=False, server_default="0"),
            Column("rescues", Integer, nullable=False, server_default="0"),
            Column("worker", String(200)),
            Column("started_at", Instant),
            *_content(),
            Column("envelope", LargeBinary, nullable=False),
            Column("trace", String(200)),
            index("jobs_claim", "queue", "priority", "run_at", "id", where="state = 'available'"),
            index("jobs_running", "worker", where="state = 'running'"),
            index("jobs_scheduled", "run_at", where="state = 'scheduled'"),
            index("jobs_expiring", "expires_at", where="state IN ('available', 'scheduled')"),
        ),
        executions=table(
            "executions",
            *_identity("job_id"),
            Column("fingerprint", String(64), nullable=False),
            Column("priority", SmallInteger, nullable=False),
            Column("outcome", String(12), nullable=False),
            Column("cause", String(500)),
            Column("worker", String(200)),
            Column("claim", Integer, nullable=False),
            Column("attempts", Integer, nullable=False),
            Column("deaths", Integer, nullable=False),
            Column("rescues", Integer, nullable=False),
            Column("enqueued_at", Instant, nullable=False),
            Column("run_at", Instant, nullable=False),
            Column("started_at", Instant),
            Column("ended_at", Instant, nullable=False),
            Column("expires_at", Instant, nullable=False),
            *_content(),
            Column("result", LargeBinary),
            Column("envelope", LargeBinary),
            Column("trace", String(200)),
            index("executions_ended", "ended_at"),
        ),
        attempts=table(
            "attempts",
            Column("job_id", Id, primary_key=True),
            Column("claim", Integer, primary_key=True),
            Column("attempt", Integer, nullable=False),
            Column("worker", String(200)),
            Column("started_at", Instant),
            Column("ended_at", Instant, nullable=False),
            Column("cause", String(500), nullable=False),
            Column("error", LargeBinary),
        ),
        keys=table(
            "keys",
            Column("key", String(64), primary_key=True),
            Column("job_id", Id, nullable=False),
            Column("until", String(12), nullable=False),
            Column("until_at", Instant),
            index("keys_job", "job_id"),
        ),
        workers=table(
            "workers",
            Column("id", String(200), primary_key=True),
            Column("host", String(200), nullable=False),
            Column("pid", Integer, nullable=False),
            Column("queues", Text, nullable=False),
            Column("started_at", Instant, nullable=False),
            Column("beat_at", Instant, nullable=False),
        ),
        audit=table(
            "audit",
            Column("id", Id, primary_key=True),
            Column("at", Instant, nullable=False),
            Column("actor", String(200), nullable=False),
            Column("action", String(40), nullable=False),
            Column("job_id", Id),
            Column("details", Text),
        ),
    )


def _identity(key: str) -> list[Column[Any]]:
    return [
        Column(key, Id, primary_key=True),
        Column("origin", Id, nullable=False),
        Column("task", String(LONGEST_NAME), nullable=False),
        Column("queue", String(LONGEST_NAME), nullable=False),
    ]


def _content() -> list[Column[Any]]:
    return [
        Column("principal", String(200)),
        Column("digest", LargeBinary, nullable=False),
        Column("key_id", String(16)),
    ]
