"""The ground of fault tests: on each database, or on a server of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.databases import SERVERS, Database, Name
from tests.faults.ground import LONG, Ground
from tests.faults.terminal import Zygote
from tests.mysql import Server
from tests.postgresql import Cluster

SPARED = dict.fromkeys(("test_crowd", "test_deaths", "test_outages"), frozenset({"mysql"})) | dict.fromkeys(
    ("test_isolated", "test_limits", "test_signals", "test_supervisor"), frozenset(SERVERS)
)
"""Modules about processes, in which the database is hardly asked, and the servers that the short form leaves out."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    spared = pytest.mark.skip(reason="processes on another kind of server: DULY_TEST_FAULTS=long")
    for item in items:
        servers = (
            SPARED.get(item.module.__name__.split(".")[-1]) if isinstance(item, pytest.Function) else None
        )
        spec = getattr(item, "callspec", None)
        if (
            servers
            and not LONG
            and spec is not None
            and not servers.isdisjoint(map(str, spec.params.values()))
        ):
            item.add_marker(spared)


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
    """On each database."""
    yield from _ground(database, tmp_path, zygote)


@pytest.fixture(params=SERVERS)
def on_server(request: pytest.FixtureRequest, zygote: Zygote, tmp_path: Path) -> Iterator[Ground]:
    """On each database whose workers show by heartbeats that they live."""
    yield from _ground(request.getfixturevalue(f"{request.param}_database"), tmp_path, zygote)


@pytest.fixture
def on_postgresql(zygote: Zygote, postgresql_database: Database, tmp_path: Path) -> Iterator[Ground]:
    """On PostgreSQL alone."""
    yield from _ground(postgresql_database, tmp_path, zygote)


@pytest.fixture
def on_sqlite(zygote: Zygote, sqlite_database: Database, tmp_path: Path) -> Iterator[Ground]:
    """On SQLite alone."""
    yield from _ground(sqlite_database, tmp_path, zygote)


@pytest.fixture(params=SERVERS)
def private_server(request: pytest.FixtureRequest) -> Cluster | Server:
    """A server that the test may stop and kill."""
    found: Cluster | Server = request.getfixturevalue(f"private_{request.param}")
    return found


@pytest.fixture
def on_private(zygote: Zygote, private_server: Cluster | Server, tmp_path: Path) -> Iterator[Ground]:
    """On that server."""
    name: Name = "postgresql" if isinstance(private_server, Cluster) else "mysql"
    url = private_server.url
    yield from _ground(Database(name, url, url if name == "postgresql" else None), tmp_path, zygote)
