"""A stage on an empty database: on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.databases import SERVERS, Database
from tests.worker.play import play, some  # noqa: F401 - fixtures
from tests.worker.stage import Gate, Stage


@pytest.fixture
def stage(database: Database) -> Iterator[Stage]:
    stage = Stage(database)
    yield stage
    stage.close()


@pytest.fixture
def postgresql(postgresql_database: Database) -> Iterator[Stage]:
    """A stage on PostgreSQL alone: heartbeats, and two writers at a time."""
    stage = Stage(postgresql_database)
    yield stage
    stage.close()


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A stage on each database that lets two write at a time."""
    stage = Stage(request.getfixturevalue(f"{request.param}_database"))
    yield stage
    stage.close()


@pytest.fixture
def sqlite(sqlite_database: Database) -> Iterator[Stage]:
    stage = Stage(sqlite_database)
    yield stage
    stage.close()


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Open at the end of the test, whatever happens."""
    gate = Gate()
    yield gate
    gate.open()
