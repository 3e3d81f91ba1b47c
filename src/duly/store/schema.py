"""The tables, as one logical schema for all databases.

Instants are kept to the microsecond in UTC, ids as UUIDs, arguments as bytes; all of it can be read
by a person in psql, sqlite3 or mysql. ``duly_jobs`` holds *unfinished jobs only*, so it stays small and hot;
``duly_executions`` is the ledger of ended ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Boolean,
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
    false,
    text,
)
from sqlalchemy.dialects import mysql

from duly.model.names import LONGEST_NAME

MYSQL = ("mysql", "mariadb")
"""What SQLAlchemy calls MySQL's dialect, by the URL."""

REVISIONS = ("0001", "0002", "0003")
"""The schema revisions that this release knows, oldest first; it works on the last one."""


class Id(TypeDecorator[UUID]):
    """A UUID: the database's own type where there is one, else its 36 characters."""

    impl = String(36)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """PostgreSQL has a type for it.

        On MySQL 16 bytes would be 10-15 % faster in the exchange than 36 characters, and no person could read them.
        """
        native: Any = Uuid() if dialect.name == "postgresql" else String(36)
        if dialect.name in MYSQL:
            native = mysql.CHAR(36, charset="ascii", collation="ascii_bin")
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

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """MySQL keeps whole seconds, unless it is told otherwise."""
        native: Any = mysql.DATETIME(fsp=6) if dialect.name in MYSQL else self.impl
        return dialect.type_descriptor(native)

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


class Words(TypeDecorator[str]):
    """Text that is equal only to itself; of any length where none is given.

    The collation of a MySQL server would take *Mail* for *mail*, *é* for *e* and, where it pads, *mail* for
    *mail* with a space behind it.
    """

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """On MySQL with a character set and a collation of our own; the two families name them differently."""
        length = self.impl_instance.length  # type: ignore[attr-defined] # a String's
        if dialect.name not in MYSQL:
            return dialect.type_descriptor(String(length) if length else Text())
        exact = "utf8mb4_nopad_bin" if getattr(dialect, "is_mariadb", False) else "utf8mb4_0900_bin"
        given: dict[str, str] = {"charset": "utf8mb4", "collation": exact}
        native: Any = mysql.VARCHAR(length, **given) if length else mysql.LONGTEXT(**given)
        return dialect.type_descriptor(native)


BYTES = LargeBinary().with_variant(mysql.LONGBLOB(), *MYSQL)
"""Bytes; on MySQL the plain type ends at 64 kB."""

MADE_ON_MYSQL: dict[str, Any] = {
    f"{name}_{option}": value
    for name in MYSQL
    for option, value in (("engine", "InnoDB"), ("row_format", "DYNAMIC"), ("charset", "utf8mb4"))
}
"""How a table is made there: with transactions, whatever the server's default is, and long index keys."""


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
    steps: Table
    resolutions: Table
    proofs: Table
    audits: Table
    pruning: Table


def tables(names: Names, database: str = "sqlite") -> Tables:
    """The tables under the given names, on the *database* that SQLAlchemy calls so."""
    meta = MetaData(schema=names.schema)

    def table(name: str, *parts: Any) -> Table:
        made: Table = Table(names.prefix + name, meta, *parts, **MADE_ON_MYSQL)
        return made

    def index(name: str, *columns: str, where: str | None = None, there: tuple[str, ...] = ()) -> Index:
        condition = text(where) if where else None
        if database in MYSQL:  # no partial indexes: *there* the state leads, or there is no condition
            columns = there or columns
        return Index(f"{names.prefix}{name}", *columns, postgresql_where=condition, sqlite_where=condition)

    return Tables(
        metadata=meta,
        installation=table("installation", Column("id", Id, primary_key=True)),
        version=table("schema_version", Column("version_num", String(32), primary_key=True)),
        jobs=table(
            "jobs",
            *_identity("id"),
            Column("fingerprint", Words(64), nullable=False),
            Column("priority", SmallInteger, nullable=False),
            Column("state", Words(12), nullable=False),
            Column("run_at", Instant, nullable=False),
            Column("expires_at", Instant, nullable=False),
            Column("enqueued_at", Instant, nullable=False),
            Column("claim", Integer, nullable=False, server_default="0"),
            Column("attempt", Integer, nullable=False, server_default="0"),
            Column("deaths", Integer, nullable=False, server_default="0"),
            Column("rescues", Integer, nullable=False, server_default="0"),
            Column("worker", Words(200)),
            Column("started_at", Instant),
            *_content(),
            Column("envelope", BYTES, nullable=False),
            Column("trace", Words(200)),
            Column("cancelling", Boolean, nullable=False, server_default=false()),
            Column("holds", SmallInteger, nullable=False, server_default="0"),
            Column("transients", SmallInteger, nullable=False, server_default="0"),
            index(
                "jobs_claim",
                "queue",
                "priority",
                "run_at",
                "id",
                where="state = 'available'",
                there=("state", "queue", "priority", "run_at", "id"),
            ),
            index("jobs_running", "worker", where="state = 'running'", there=("state", "worker")),
            index("jobs_scheduled", "run_at", where="state = 'scheduled'", there=("state", "run_at")),
            index("jobs_expiring", "expires_at", where="state IN ('available', 'scheduled')"),
            *([] if database in MYSQL else [index("jobs_suspects", "queue", where="state = 'suspect'")]),
        ),
        executions=table(
            "executions",
            *_identity("job_id"),
            Column("fingerprint", Words(64), nullable=False),
            Column("priority", SmallInteger, nullable=False),
            Column("outcome", Words(12), nullable=False),
            Column("cause", Words(500)),
            Column("worker", Words(200)),
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
            Column("result", BYTES),
            Column("envelope", BYTES),
            Column("trace", Words(200)),
            index("executions_ended", "ended_at"),
            index("executions_expiring", "expires_at"),
            *(
                []
                if database in MYSQL
                else [index("executions_troubled", "ended_at", where="outcome <> 'succeeded'")]
            ),
        ),
        attempts=table(
            "attempts",
            Column("job_id", Id, primary_key=True),
            Column("claim", Integer, primary_key=True),
            Column("attempt", Integer, nullable=False),
            Column("worker", Words(200)),
            Column("started_at", Instant),
            Column("ended_at", Instant, nullable=False),
            Column("cause", Words(500), nullable=False),
            Column("error", BYTES),
        ),
        keys=table(
            "keys",
            Column("key", Words(64), primary_key=True),
            Column("job_id", Id, nullable=False),
            Column("until", Words(12), nullable=False),
            Column("until_at", Instant),
            index("keys_job", "job_id"),
            index("keys_until", "until_at"),
        ),
        workers=table(
            "workers",
            Column("id", Words(200), primary_key=True),
            Column("host", Words(200), nullable=False),
            Column("pid", Integer, nullable=False),
            Column("queues", Words, nullable=False),
            Column("started_at", Instant, nullable=False),
            Column("beat_at", Instant, nullable=False),
            Column("asleep", Boolean, nullable=False, server_default=false()),
        ),
        audit=table(
            "audit",
            Column("id", Id, primary_key=True),
            Column("at", Instant, nullable=False),
            Column("actor", Words(200), nullable=False),
            Column("action", Words(40), nullable=False),
            Column("job_id", Id),
            Column("details", Words),
        ),
        steps=table(
            "steps",
            Column("origin", Id, primary_key=True),
            Column("name", Words(LONGEST_NAME), primary_key=True),
            Column("job_id", Id, nullable=False),
            Column("claim", Integer, nullable=False),
            Column("at", Instant, nullable=False),
            Column("expires_at", Instant, nullable=False),
            Column("result", BYTES, nullable=False),
            Column("key_id", Words(16)),
            index("steps_expiring", "expires_at"),
        ),
        resolutions=table(
            "resolutions",
            Column("job_id", Id, primary_key=True),
            Column("at", Instant, nullable=False),
            Column("actor", Words(200), nullable=False),
            Column("verdict", Words(12), nullable=False),
            Column("again", Id),
            Column("reason", Words(500)),
        ),
        proofs=table(
            "proofs",
            Column("id", Id, primary_key=True),
            Column("task", Words(LONGEST_NAME), nullable=False),
            Column("source", Words(64), nullable=False),
            Column("at", Instant, nullable=False),
            Column("verdict", Words(12), nullable=False),
            Column("points", Integer, nullable=False),
            Column("details", Words),
            index("proofs_task", "task", "at"),
        ),
        audits=table(
            "audits",
            Column("id", Id, primary_key=True),
            Column("at", Instant, nullable=False),
            Column("actor", Words(200), nullable=False),
            Column("tasks", Integer, nullable=False),
            Column("gaps", Integer, nullable=False),
        ),
        pruning=table(
            "pruning",
            Column("what", Words(12), primary_key=True),
            Column("at", Instant, nullable=False),
            Column("job_id", Id, nullable=False),
        ),
    )


def _identity(key: str) -> list[Column[Any]]:
    return [
        Column(key, Id, primary_key=True),
        Column("origin", Id, nullable=False),
        Column("task", Words(LONGEST_NAME), nullable=False),
        Column("queue", Words(LONGEST_NAME), nullable=False),
    ]


def _content() -> list[Column[Any]]:
    return [
        Column("principal", Words(200)),
        Column("digest", BYTES, nullable=False),
        Column("key_id", Words(16)),
    ]
