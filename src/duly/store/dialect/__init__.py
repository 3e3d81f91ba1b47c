"""The databases Duly runs on, and what differs between them."""

from __future__ import annotations

from duly.errors import SettingsError
from duly.store.dialect.base import Exchanged, StoreDialect
from duly.store.dialect.mysql import MySQL
from duly.store.dialect.postgresql import PostgreSQL
from duly.store.dialect.sqlite import SQLite
from duly.store.schema import MYSQL, Tables

__all__ = ["Exchanged", "StoreDialect", "dialect_named"]

_DIALECTS: dict[str, type[StoreDialect]] = {
    **dict.fromkeys(MYSQL, MySQL),
    "postgresql": PostgreSQL,
    "sqlite": SQLite,
}


def dialect_named(name: str, tables: Tables) -> StoreDialect:
    """The dialect that SQLAlchemy calls *name*; ``SettingsError`` where Duly does not run on it."""
    if name not in _DIALECTS:
        *most, last = sorted(_DIALECTS)
        raise SettingsError(f"Duly runs on {', '.join(most)} and {last}, not on {name}")
    return _DIALECTS[name](tables)
