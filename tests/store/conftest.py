"""A store on an empty, migrated database: on each, or on those alone that a test is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, insert

from duly.clock import Clock
from duly.store import Names, Store, migrate
from duly.store.schema import REVISIONS
from tests.databases import SERVERS, Database
from tests.store.scene import Scene

pytest.register_assert_rewrite("tests.store.checks")

Open = Callable[..., Store]


def make_tables(store: Store) -> None:
    """What ``migrate`` leaves on an empty database, without Alembic."""
    with store.engine.connect() as connection:
        store.dialect.attach(connection)
    with store.writing() as connection:
        if store.revision(connection) is not None:
            return
        store.dialect.prepare_schema(connection)
        store.tables.metadata.create_all(connection)
        connection.execute(insert(store.tables.installation).values(id=uuid4()))
        connection.execute(insert(store.tables.version).values(version_num=REVISIONS[-1]))


@pytest.fixture
def open_store(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens stores that are closed when the test ends.

    Their tables are made from the schema, a third of the time a migration takes (``test_migrations.py`` shows
    that both make the same), except in modules that say ``MIGRATED = True``.
    """
    make = migrate if getattr(request.module, "MIGRATED", False) else make_tables
    made: list[Store] = []

    def opened(
        database: Database, names: Names | None = None, *, made_tables: bool = True, **engine: Any
    ) -> Store:
        usual = made_tables and names is None and make is make_tables
        with database.furnished() if usual else nullcontext(database.url) as url:
            store = Store(create_engine(url, **engine), names or Names(), Clock())
            made.append(store)
            if made_tables:
                make(store)
        if made_tables:
            store.open()
        return store

    yield opened
    for store in made:
        for worker in list(lives.held if (lives := getattr(store.dialect, "lives", None)) else ()):
            store.dialect.drop_liveness(worker)
        store.engine.dispose()


@pytest.fixture
def store(database: Database, open_store: Open) -> Store:
    return open_store(database)


@pytest.fixture
def scene(store: Store) -> Scene:
    return Scene(store)


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Scene:
    """A scene on each database that lets two write at a time."""
    database = request.getfixturevalue(f"{request.param}_database")  # first, so that it is left last
    open_store: Open = request.getfixturevalue("open_store")
    return Scene(open_store(database))


@pytest.fixture
def postgresql(postgresql_database: Database, open_store: Open) -> Scene:
    return Scene(open_store(postgresql_database))


@pytest.fixture
def mysql(mysql_database: Database, open_store: Open) -> Scene:
    return Scene(open_store(mysql_database))


@pytest.fixture
def sqlite(sqlite_database: Database, open_store: Open) -> Scene:
    return Scene(open_store(sqlite_database))
