"""The ground of fault tests: on both databases, or on a PostgreSQL of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.databases import Database
from tests.faults.ground import Ground
from tests.faults.terminal import Zygote
from tests.postgresql import Cluster


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Forks what the tests start."""
    made = Zygote()
    yield made
    made.close()


def _ground(database: Database, folder: Path, zygote: Zygote) -> Iterator[Ground]:
    ground = Ground(database, folder, zygote)
    try:
        yield ground
    finally:
        ground.close()


@pytest.fixture
def ground(zygote: Zygote, database: Database, tmp_path: Path) -> Iterator[Ground]:
    """On SQLite and on PostgreSQL."""
    yield from _ground(database, tmp_path, zygote)


@pytest.fixture
def on_postgresql(zygote: Zygote, postgresql_database: Database, tmp_path: Path) -> Iterator[Ground]:
    """On PostgreSQL alone."""
    yield from _ground(postgresql_database, tmp_path, zygote)


@pytest.fixture
def on_sqlite(zygote: Zygote, sqlite_database: Database, tmp_path: Path) -> Iterator[Ground]:
    """On SQLite alone."""
    yield from _ground(sqlite_database, tmp_path, zygote)


@pytest.fixture
def on_private(zygote: Zygote, private_postgresql: Cluster, tmp_path: Path) -> Iterator[Ground]:
    """On a PostgreSQL that the test may stop and kill."""
    yield from _ground(
        Database("postgresql", private_postgresql.url, private_postgresql.url), tmp_path, zygote
    )
