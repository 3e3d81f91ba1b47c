"""The databases of the tests: found or started, empty for each test, and gone at the end.

One pytest run has one *bench*: a folder that all its worker processes share, held open by the run's first
process. What is in it (clusters) or named in it (databases made on a server that was found) is swept when
that process ends, however it ends: a guard waits for the lock that only a living process keeps.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from tests import mysql
from tests.postgresql import Cluster, NoPostgreSQL, binaries, servant

if TYPE_CHECKING:
    import psycopg

Name = Literal["sqlite", "postgresql", "mysql"]

NAMES: tuple[Name, ...] = ("sqlite", "postgresql", "mysql")
SERVERS: tuple[Name, ...] = ("postgresql", "mysql")
"""Those that let two write at a time."""
OLDEST_SQLITE = (3, 35)
OLDEST_POSTGRESQL = 13
ROOT = Path(__file__).parent.parent


class Missing(Exception):
    """A database cannot be had here; the message says why."""


@dataclass(frozen=True)
class Database:
    """An empty database for one test."""

    name: Name
    address: str
    asynchronous: str | None
    bed: mysql.Bed | None = field(default=None, compare=False, repr=False)

    @property
    def url(self) -> str:
        """Of the database, with no tables in it."""
        if self.bed is not None:
            self.bed.clear()
        return self.address

    @contextlib.contextmanager
    def furnished(self) -> Iterator[str]:
        """The URL, for who makes Duly's tables under their usual names: an earlier test may have left them."""
        if self.bed is not None:
            self.bed.furnish()
        yield self.address
        if self.bed is not None:
            self.bed.remember()

    @property
    def async_url(self) -> str:
        """For an async engine; the test is skipped where no async driver is installed."""
        if self.asynchronous is None:
            pytest.skip("no async driver for mysql is installed (aiomysql, asyncmy)")
        return self.asynchronous

    def rows(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Run one statement with the bare driver, on a connection of its own, and commit."""
        if self.name == "sqlite":
            with (
                contextlib.closing(sqlite3.connect(self.url.removeprefix("sqlite:///"))) as connection,
                connection,
            ):
                return connection.execute(sql, parameters).fetchall()
        if self.name == "mysql":
            with mysql.connect(self.url) as connection, connection.cursor() as cursor:
                cursor.execute(sql, parameters or None)
                return list(cursor.fetchall()) if cursor.description else []
        with connect(self.url) as server:
            found = server.execute(sql, parameters)  # type: ignore[arg-type]
            return found.fetchall() if found.description else []


def connect(url: str) -> psycopg.Connection[Any]:
    """A bare connection in autocommit mode to a ``postgresql+psycopg://`` URL."""
    import psycopg

    return psycopg.connect(url.replace("+psycopg", "", 1), autocommit=True, connect_timeout=5)


def sqlite_file(path: Path) -> Database:
    """A SQLite database in a file that does not exist yet."""
    return Database("sqlite", f"sqlite:///{path}", f"sqlite+aiosqlite:///{path}")


# ── the bench that one run of the tests shares ────────────────────────────────────────────────


class Bench:
    """The folder that one pytest run shares. Its first process makes it, its workers find it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._alive: int | None = None

    @classmethod
    def make(cls) -> Bench:
        """Make the folder, and hold the lock that says this process lives."""
        bench = cls(Path(tempfile.mkdtemp(prefix="duly-tests-", dir=_open_to_all())))
        bench.folder.chmod(0o755)
        bench._alive = os.open(bench.folder / "alive", os.O_CREAT | os.O_RDWR)
        fcntl.lockf(bench._alive, fcntl.LOCK_EX)  # a record lock: forked children do not inherit it
        return bench

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process of the run at a time."""
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def cluster(self, name: str, programs: Path | None = None) -> Cluster:
        """A started cluster in this folder."""
        self.guard()
        return Cluster.create(self.folder / name, programs or binaries())

    def own_mysql(self, name: str) -> mysql.Server:
        """A started MariaDB or MySQL in this folder."""
        self.guard()
        return mysql.Server.create(self.folder / name)

    def server(self, name: str = "postgresql") -> dict[str, str]:
        """The PostgreSQL or MySQL of this run: found or started by whoever asks first."""
        noted = self.noted(name)
        find = {"postgresql": self._find_or_start, "mysql": self._find_or_start_mysql}[name]
        with self.locked():
            if not noted.exists():
                noted.write_text(json.dumps(find()))
        server: dict[str, str] = json.loads(noted.read_text())
        if "missing" in server:
            raise Missing(server["missing"])
        return server

    def _find_or_start(self) -> dict[str, str]:
        try:
            if url := os.environ.get("DULY_TEST_POSTGRESQL"):
                return {"url": url, "version": look_at(url), "origin": "DULY_TEST_POSTGRESQL"}
            for url in running_servers():
                with contextlib.suppress(Missing):
                    return {
                        "url": url,
                        "version": look_at(url),
                        "origin": f"running server {url.rpartition('@')[2]}",
                    }
            cluster = self.cluster("postgresql")
            origin = f"own cluster from {_short(cluster.programs)}"
            return {"url": cluster.url, "version": look_at(cluster.url), "origin": origin}
        except (Missing, NoPostgreSQL) as reason:
            return {"missing": str(reason)}

    def noted(self, name: str) -> Path:
        """Where it is said which server the run uses."""
        return self.folder / f"{name}.json"

    def _find_or_start_mysql(self) -> dict[str, str]:
        try:
            if url := os.environ.get("DULY_TEST_MYSQL"):
                return {"url": url, "version": mysql.look_at(url), "origin": "DULY_TEST_MYSQL"}
            url = f"mysql+pymysql://root@127.0.0.1:3306/mysql?{mysql.PLAIN}"
            with contextlib.suppress(mysql.NoMySQL):
                return {"url": url, "version": mysql.look_at(url), "origin": "running server 127.0.0.1:3306"}
            server = self.own_mysql("mysql")
            return {"url": server.url, "version": mysql.look_at(server.url), "origin": "own server"}
        except mysql.NoMySQL as reason:
            return {"missing": str(reason)}

    def guard(self) -> None:
        """Start the process that sweeps when the run was killed. Once; any process of the run may."""
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.folder / "guarded", os.O_CREAT | os.O_EXCL))
            null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
            argv = [sys.executable, "-m", "tests.databases", str(self.folder)]
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            pid = os.posix_spawn(sys.executable, argv, environment, file_actions=null, setpgroup=0)
            (self.folder / "guarded").write_text(str(pid))

    def processes(self) -> set[int]:
        """The processes of the bench itself: the guard and the servers."""
        notes = [
            self.folder / "guarded",
            *self.folder.glob("*/data/postmaster.pid"),
            *self.folder.glob("*/pid"),
        ]
        found = set()
        for note in notes:
            with contextlib.suppress(FileNotFoundError, ValueError):
                found.add(int(note.read_text().split("\n", 1)[0]))
        return found

    def sweep(self) -> None:
        """Stop what runs, drop what was made, remove the folder."""
        for data in self.folder.glob("*/data"):
            if (data.parent / "programs").exists():
                Cluster.found(data.parent).remove()
            else:
                mysql.Server(data.parent).remove()
        for name, drop in (("postgresql", drop_databases), ("mysql", mysql.drop_databases)):
            noted = self.noted(name)
            server = json.loads(noted.read_text()) if noted.exists() else {}
            if "url" in server and not server["origin"].startswith("own "):
                drop(server["url"], self.prefix)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._alive is not None:
            os.close(self._alive)
            self._alive = None

    @property
    def prefix(self) -> str:
        """How the names of this run's databases begin."""
        return "duly_test_" + self.folder.name.removeprefix("duly-tests-").lower()


def _open_to_all() -> str | None:
    """A folder for temporary files that ``nobody`` can enter too; None when the usual one will do."""
    if not servant():
        return None
    places = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")]
    for place in places:
        if place.is_dir() and all(
            folder.stat().st_mode & 0o001 for folder in (place, *place.resolve().parents)
        ):
            return str(place)
    return None


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


# ── a server ──────────────────────────────────────────────────────────────────────────────────


def running_servers() -> Iterator[str]:
    """URLs worth trying on the standard port."""
    users = dict.fromkeys(("postgres", os.environ.get("PGUSER") or "postgres", getpass.getuser()))
    for user in users:
        yield f"postgresql+psycopg://{user}@127.0.0.1:5432/postgres"


def look_at(url: str) -> str:
    """The version of the server at *url*, when it lets us in and lets us make databases."""
    try:
        import psycopg
    except ImportError as error:
        raise Missing(f"psycopg is not installed ({error})") from None
    try:
        with connect(url) as server:
            if server.info.server_version < OLDEST_POSTGRESQL * 10_000:
                raise Missing(
                    f"the server at {url.rpartition('@')[2]} is older than PostgreSQL {OLDEST_POSTGRESQL}"
                )
            asked = "SELECT rolsuper OR rolcreatedb FROM pg_roles WHERE rolname = current_user"
            row = server.execute(asked).fetchone()
            if not (row and row[0]):
                raise Missing(f"the user of {url.rpartition('@')[2]} may not create databases")
            return ".".join(map(str, divmod(server.info.server_version, 10_000)))
    except psycopg.Error as error:
        raise Missing(f"the server at {url.rpartition('@')[2]} does not let us in: {error}") from None


def drop_databases(url: str, prefix: str) -> None:
    """Drop the databases whose name begins with *prefix*, with whoever is still connected."""
    with connect(url) as server:
        names = server.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", (prefix,))
        for (name,) in names.fetchall():
            server.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')  # type: ignore[arg-type]


class PostgreSQL:
    """One database on the run's server, emptied for each test that asks for it.

    To drop and make the schemas takes 4-9 ms; to make and drop a database takes 20 ms on a cluster of
    our own and 70-600 ms on a server that syncs. A database, not a schema, because notifications,
    advisory locks and the list of sessions belong to a database.
    """

    def __init__(self, bench: Bench, label: str) -> None:
        server = bench.server()
        self.name = f"{bench.prefix}_{label}"
        base, _, rest = server["url"].rpartition("/")
        _, mark, query = rest.partition("?")
        url = f"{base}/{self.name}{mark}{query}"
        self.database = Database("postgresql", url, url)
        if not server["origin"].startswith("own cluster"):
            bench.guard()
        with connect(server["url"]) as maintenance:
            maintenance.execute(f"CREATE DATABASE \"{self.name}\" TEMPLATE template0 ENCODING 'UTF8'")  # type: ignore[arg-type]
        self._own = connect(url)

    def empty(self) -> Database:
        """The database, with nothing in it and nobody else connected."""
        self._own.execute(f"SELECT pg_terminate_backend(pid) {OTHERS}")  # type: ignore[arg-type]
        schemas = self._own.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema$)'"
        )
        for (schema,) in schemas.fetchall():
            self._own.execute(f'DROP SCHEMA "{schema}" CASCADE')  # type: ignore[arg-type]
        self._own.execute("CREATE SCHEMA public")
        self._own.execute(f'ALTER DATABASE "{self.name}" RESET ALL')  # type: ignore[arg-type]
        return self.database

    def strangers(self, patience: float = 2.0) -> list[str]:
        """Who else is connected, after some patience with those who are leaving; cut off when told."""
        for _ in range(int(patience / 0.01)):
            asked = f"SELECT application_name || ' (' || pid || ', ' || state || '): ' || left(query, 120) {OTHERS}"
            found = [row[0] for row in self._own.execute(asked)]  # type: ignore[arg-type]
            if not found:
                return []
            self._own.execute("SELECT pg_sleep(0.01)")
        self._own.execute(f"SELECT pg_terminate_backend(pid) {OTHERS}")  # type: ignore[arg-type]
        return found

    def close(self) -> None:
        """Leave the database; the sweep drops it."""
        self._own.close()


class MySQL:
    """One database on the run's MariaDB or MySQL, emptied for each test that asks for it."""

    def __init__(self, bench: Bench, label: str) -> None:
        server = bench.server("mysql")
        if not server["origin"].startswith("own "):
            bench.guard()
        self._bed = mysql.Bed(server["url"], f"{bench.prefix}_{label}")
        driver = next((name for name in ("asyncmy", "aiomysql") if find_spec(name)), None)
        asynchronous = driver and self._bed.url.replace("pymysql", driver, 1).partition("?")[0]
        self.database = Database("mysql", self._bed.url, asynchronous, self._bed)

    def empty(self) -> Database:
        """The database, with nothing in it and nobody else connected."""
        self._bed.empty()
        return self.database

    def strangers(self, patience: float = 2.0) -> list[str]:
        """Who else is connected."""
        return self._bed.strangers(patience)

    def close(self) -> None:
        """Leave the database; the sweep drops it."""
        self._bed.close()


OTHERS = """
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


# ── what the fixtures ask ─────────────────────────────────────────────────────────────────────


class Databases:
    """The databases of one pytest process."""

    def __init__(self, bench: Bench, worker: str) -> None:
        self.bench = bench
        self.worker = worker
        self._postgresql: dict[str, PostgreSQL] = {}
        self._mysql: dict[str, MySQL] = {}

    def postgresql(self, label: str = "") -> PostgreSQL:
        """The process's PostgreSQL database of that label, made when first asked for."""
        if label not in self._postgresql:
            self._postgresql[label] = PostgreSQL(self.bench, self.worker + label)
        return self._postgresql[label]

    def mysql(self, label: str = "") -> MySQL:
        """The same on MySQL."""
        if label not in self._mysql:
            self._mysql[label] = MySQL(self.bench, self.worker + label)
        return self._mysql[label]

    def close(self) -> None:
        """Leave all databases."""
        for made in (*self._postgresql.values(), *self._mysql.values()):
            made.close()


def required() -> tuple[str, ...]:
    """What ``DULY_TEST_REQUIRE`` names."""
    return tuple(filter(None, os.environ.get("DULY_TEST_REQUIRE", "").replace(" ", "").split(",")))


def check_sqlite() -> str:
    """The version of SQLite, when it is new enough."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise Missing(f"SQLite {sqlite3.sqlite_version} is older than {'.'.join(map(str, OLDEST_SQLITE))}")
    return sqlite3.sqlite_version


def require(bench: Bench) -> str | None:
    """What is wrong with the databases that must be there; None when nothing is."""
    checks: dict[str, Callable[[], object]] = {
        "sqlite": check_sqlite,
        "postgresql": bench.server,
        "mysql": lambda: bench.server("mysql"),
    }
    for name in required():
        if name not in checks:
            return f"DULY_TEST_REQUIRE names {name!r}; known are {', '.join(NAMES)}"
        try:
            checks[name]()
        except Missing as reason:
            return f"DULY_TEST_REQUIRE asks for {name}, but there is none: {reason}"
    return None


def keep_guard(folder: Path) -> None:
    """Wait for the end of the run's first process, then sweep what it did not."""
    with contextlib.suppress(FileNotFoundError), (folder / "alive").open("r+") as alive:
        fcntl.lockf(alive, fcntl.LOCK_EX)
        if folder.exists():
            Bench(folder).sweep()


if __name__ == "__main__":
    keep_guard(Path(sys.argv[1]))
