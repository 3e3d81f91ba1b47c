"""Engines that Duly makes from a URL, and what it asks of those it is given."""

from __future__ import annotations

import socket
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from duly.errors import SettingsError
from duly.store.dialect.base import OURS
from duly.store.schema import MYSQL

_DRIVERS = {
    "mariadb": "mariadb+pymysql",
    "mysql": "mysql+pymysql",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "sqlite": "sqlite",
}
_ASYNC_DRIVERS = {"aiomysql", "aiosqlite", "asyncmy", "asyncpg", "psycopg_async"}

# A host that is lost, or a network that swallows everything, is noticed in seconds; TCP alone takes 15 minutes.
_CONNECT = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_SILENCE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 10_000}


def make_engine(database: str, *, pool_size: int = 5) -> Engine:
    """An engine for the URL, on the driver that Duly's worker uses; ``SettingsError`` says what is wrong."""
    url = read_url(database)
    # Statements prepared on the server belong to a session, and behind a pooler the next one has another.
    # Nor is much lost: tables that fill and empty within seconds want a plan made for what is there now.
    server: dict[str, Any] = {"pool_size": pool_size, "max_overflow": 20}
    backend = url.get_backend_name()
    given = {k: v for k, v in _CONNECT.items() if k not in url.query}
    options: dict[str, dict[str, Any]] = {
        "sqlite": {},
        "postgresql": server
        | {
            "isolation_level": "READ COMMITTED",
            "execution_options": {OURS: True},
            "connect_args": given | {"prepare_threshold": None},
        },
    } | dict.fromkeys(MYSQL, server | _of_mysql(url))
    try:
        engine = create_engine(url, **options[backend])
    except ModuleNotFoundError as error:
        raise _missing(error.name, backend) from None
    if backend in MYSQL:
        event.listen(engine, "connect", _notice_silence)
        if "read_timeout" not in url.query:
            event.listen(engine, "connect", _be_patient)
    return engine


def _of_mysql(url: URL) -> dict[str, Any]:
    """READ COMMITTED, told once a connection; and no more than one statement at a time."""
    given: dict[str, Any] = {"connect_timeout": _CONNECT["connect_timeout"], "charset": "utf8mb4"}
    if url.get_driver_name() == "mysqldb":
        given["multi_statements"] = False
    else:  # PyMySQL's connect_timeout ends before the server has said its first word
        given["read_timeout"] = _CONNECT["connect_timeout"]
    return {
        "isolation_level": "READ COMMITTED",
        "connect_args": {k: v for k, v in given.items() if k not in url.query},
    }


def _notice_silence(driver: Any, _: Any) -> None:
    """PyMySQL has no words for it; its ``read_timeout`` would cut off long statements of tasks as well."""
    line = getattr(driver, "_sock", None)
    if line is not None and line.family in {socket.AF_INET, socket.AF_INET6}:
        for option, value in _SILENCE.items():
            if hasattr(socket, option):
                line.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _be_patient(driver: Any, _: Any) -> None:
    """The server has spoken: from now on a statement may take its time."""
    if hasattr(driver, "_read_timeout"):
        driver._read_timeout = None  # noqa: SLF001 - PyMySQL's, which has no other way


def read_url(database: str) -> URL:
    """The URL with the driver filled in where it names none."""
    scheme, colon, rest = database.partition("://")
    if not colon:
        raise SettingsError(
            f"the database URL {_shown(database)} is none: write e.g. sqlite:///jobs.db or postgresql://host/name"
        )
    try:
        url = make_url(f"{_DRIVERS.get(scheme, scheme)}://{rest}")
    except (ArgumentError, ValueError):
        raise SettingsError(f"the database URL that begins with {scheme[:40]!r} cannot be read") from None
    backend = url.get_backend_name()
    if backend not in _DRIVERS:
        raise SettingsError(
            f"Duly runs on SQLite, PostgreSQL and MySQL or MariaDB, not on {backend[:40]!r}: write sqlite:///…, "
            "postgresql://… or mysql://…"
        )
    try:
        driver = url.get_driver_name()
        url.get_dialect()
    except NoSuchModuleError:
        raise SettingsError(f"SQLAlchemy knows no {scheme[:40]!r}; write {_DRIVERS[backend]}://…") from None
    except ModuleNotFoundError as error:
        raise _missing(error.name, backend) from None
    if driver in _ASYNC_DRIVERS:
        raise SettingsError(
            f"{scheme} is an async driver: the worker needs a sync one (write {_DRIVERS[backend]}://…), and "
            "takes yours as Duly(url, async_engine=create_async_engine(…))"
        )
    if backend == "postgresql" and driver != "psycopg":
        raise SettingsError(
            f"the worker speaks to PostgreSQL through psycopg 3, not {driver}: postgresql+psycopg://…"
        )
    if backend in MYSQL:
        if driver not in {"pymysql", "mysqldb"}:
            raise SettingsError(
                f"the worker speaks to MySQL and MariaDB through PyMySQL or mysqlclient, not {driver}: mysql+pymysql://…"
            )
        if not url.database:
            raise SettingsError("the MySQL URL names no database: write mysql://host/name")
    return url


def _missing(module: str | None, backend: str) -> SettingsError:
    extra = f"duly[{'mysql' if backend in MYSQL else backend}]"
    return SettingsError(f"the driver {module} is not installed: pip install '{extra}'")


def _shown(database: str) -> str:
    return repr(database if len(database) < 40 and "@" not in database else database[:8] + "…")
