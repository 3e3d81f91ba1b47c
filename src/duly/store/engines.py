"""Engines that Duly makes from a URL, and what it asks of those it is given."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, create_engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from duly.errors import SettingsError

_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg", "sqlite": "sqlite"}
_ASYNC_DRIVERS = {"asyncpg", "aiosqlite", "psycopg_async"}

# A host that is lost, or a network that swallows everything, is noticed in seconds; TCP alone takes 15 minutes.
_CONNECT = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


def make_engine(database: str, *, pool_size: int = 5) -> Engine:
    """An engine for the URL, on the driver that Duly's worker uses; ``SettingsError`` says what is wrong."""
    url = read_url(database)
    # Statements prepared on the server belong to a session, and behind a pooler the next one has another.
    # Nor is much lost: tables that fill and empty within seconds want a plan made for what is there now.
    server: dict[str, Any] = {
        "pool_size": pool_size,
        "max_overflow": 20,
        "connect_args": {k: v for k, v in _CONNECT.items() if k not in url.query}
        | {"prepare_threshold": None},
    }
    try:
        return create_engine(url, **({} if url.get_backend_name() == "sqlite" else server))
    except ModuleNotFoundError as error:
        raise _missing(error.name, url.get_backend_name()) from None


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
            f"Duly runs on SQLite and PostgreSQL, not on {backend[:40]!r}: write sqlite:///… or postgresql://…"
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
    return url


def _missing(module: str | None, backend: str) -> SettingsError:
    extra = f"duly[{backend}]"
    return SettingsError(f"the driver {module} is not installed: pip install '{extra}'")


def _shown(database: str) -> str:
    return repr(database if len(database) < 40 and "@" not in database else database[:8] + "…")
