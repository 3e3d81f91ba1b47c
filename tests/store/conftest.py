"""A store on an empty, migrated database: on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine

from duly.clock import Clock
from duly.store import Names, Store, migrate
from tests.databases import Database
from tests.store.scene import Scene

Open = Callable[..., Store]


@pytest.fixture
def open_store() -> Iterator[Open]:
    """Opens stores that are closed when the test ends."""
    made: list[Store] = []

    def opened(database: Database, names: Names | None = None, *, made_tables: bool = True, **engine: Any) -> Store:
        store = Store(create_engine(database.url, **engine), names or Names(), Clock())
        made.append(store)
        if made_tables:
            migrate(store)
            store.open()
        return store

    yield opened
    for store in made:
        for worker in list(getattr(store.dialect, "_locks", ())):
            store.dialect.drop_liveness(worker)
        store.engine.dispose()


@pytest.fixture
def store(database: Database, open_store: Open) -> Store:
    return open_store(database)


@pytest.fixture
def scene(store: Store) -> Scene:
    return Scene(store)


@pytest.fixture
def postgresql(postgresql_database: Database, open_store: Open) -> Scene:
    """A scene on PostgreSQL alone, for what needs two writers at a time."""
    return Scene(open_store(postgresql_database))


@pytest.fixture
def sqlite(sqlite_database: Database, open_store: Open) -> Scene:
    return Scene(open_store(sqlite_database))
