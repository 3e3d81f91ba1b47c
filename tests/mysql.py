"""MariaDB or MySQL of our own, for tests: a server from installed binaries.

It lives in one directory, listens on loopback only, and belongs to ``nobody`` when the tests run as root.
It survives ``kill -9`` (commits are written before they are answered) but not the end of the machine
(nothing is fsynced).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pymysql
from sqlalchemy.engine import make_url

from tests.postgresql import free_port, servant, wait_gone

Mode = Literal["fast", "immediate", "kill"]

FOLDERS = ("/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin", "/usr/libexec", "/opt/homebrew/bin")
SETTINGS = (
    "--bind-address=127.0.0.1", "--skip-name-resolve", "--skip-log-bin", "--max-connections=200",
    "--innodb-flush-log-at-trx-commit=2", "--innodb-buffer-pool-size=64M",
)  # fmt: skip


PLAIN = "ssl_disabled=1"
"""PyMySQL reads all certificate authorities for each connection that it makes, which takes 35 ms."""


class NoMySQL(Exception):
    """There is no MariaDB or MySQL to be had in this way; the message says why."""


def connect(url: str) -> pymysql.Connection[Any]:
    """A bare connection in autocommit mode to a ``mysql+pymysql://`` URL."""
    parts = make_url(url)
    return pymysql.connect(
        host=parts.host,
        port=parts.port or 3306,
        user=parts.username,
        password=parts.password or "",
        database=parts.database,
        ssl_disabled="ssl_disabled" in parts.query,
        autocommit=True,
        connect_timeout=5,
    )


def program(*names: str) -> Path | None:
    """The first of these programs that is installed."""
    for name in names:
        for folder in (*os.environ.get("PATH", "").split(os.pathsep), *FOLDERS):
            if folder and os.access(found := Path(folder, name), os.X_OK):
                return found
    return None


@dataclass
class Server:
    """A server of our own, in the folder *home*. ``create`` makes it; nothing runs before."""

    home: Path
    port: int = 0

    @classmethod
    def create(cls, home: Path) -> Server:
        """Make a server in the new folder *home* and start it."""
        if program("mariadbd", "mysqld") is None:
            raise NoMySQL("mariadbd and mysqld are not installed")
        home.mkdir()
        if who := servant():
            os.chown(home, who["user"], who["group"])
        server = cls(home)
        server._install()
        for attempt in range(5):
            server.port = free_port()
            try:
                server.start()
            except NoMySQL:
                if attempt == 4:
                    raise
            else:
                return server
        raise AssertionError("unreachable")

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.home / "data"

    @property
    def url(self) -> str:
        """SQLAlchemy's URL of a database of its own."""
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/duly?{PLAIN}"

    @property
    def pid(self) -> int:
        """The process id of the server; 0 when it does not run."""
        with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
            pid = int((self.home / "pid").read_text())
            os.kill(pid, 0)
            return pid
        return 0

    def start(self, timeout: float = 20.0) -> None:
        """Start the server and wait until it answers."""
        daemon = program("mariadbd", "mysqld")
        arguments = [
            str(daemon), "--no-defaults", f"--datadir={self.data}", f"--port={self.port}", *SETTINGS,
            f"--socket={self.home}/socket", f"--log-error={self.home}/log",
        ]  # fmt: skip
        pid = self._run("sh", "-c", '"$@" > /dev/null 2>&1 & echo $!', "sh", *arguments)
        (self.home / "pid").write_text(pid)
        deadline = time.monotonic() + timeout
        while True:
            with contextlib.suppress(pymysql.Error):
                with connect(self.url.replace("/duly", "/mysql")) as server, server.cursor() as cursor:
                    cursor.execute("CREATE DATABASE IF NOT EXISTS duly")
                return
            if wait_gone(int(pid), timeout=0.02) or time.monotonic() > deadline:
                self.stop("kill")
                raise NoMySQL(f"the server did not start: {self.last_words()}")

    def stop(self, mode: Mode = "fast") -> None:
        """Stop the server: *fast* shuts it down, the others are ``kill -9``."""
        if pid := self.pid:
            os.kill(pid, signal.SIGTERM if mode == "fast" else signal.SIGKILL)
            wait_gone(pid)
        (self.home / "pid").unlink(missing_ok=True)

    def restart(self, mode: Mode = "fast") -> None:
        """Stop the server, and start it on the same port."""
        self.stop(mode)
        self.start()

    def remove(self) -> None:
        """Stop the server and remove all that it left."""
        self.stop("kill")
        shutil.rmtree(self.home)

    def last_words(self) -> str:
        """The end of the server's log."""
        log = self.home / "log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-8:]) if log.exists() else ""

    def _install(self) -> None:
        folder = f"--datadir={self.data}"
        if installer := program("mariadb-install-db"):
            rest = ["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]
            self._run(str(installer), "--no-defaults", folder, *rest)
        else:
            self._run(str(program("mysqld")), "--no-defaults", "--initialize-insecure", folder)

    def _run(self, *command: str) -> str:
        with (self.home / "output").open("w+") as output:  # no pipe: the server would keep it open
            done = subprocess.run(
                command,
                cwd=self.home,
                env={"PATH": os.environ.get("PATH", ""), "HOME": str(self.home), "LC_ALL": "C", "TZ": "UTC"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                **servant(),
            )
            output.seek(0)
            said = output.read().strip()
        (self.home / "output").unlink()
        if done.returncode:
            raise NoMySQL(f"{command[0]} failed: {said[-800:]}\n{self.last_words()}".strip())
        return said


KEPT = {"duly_installation", "duly_schema_version"}
OLDEST = {"MariaDB": (10, 6), "MySQL": (8, 0, 19)}
OTHERS = "FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"


def look_at(url: str) -> str:
    """The version of the server at *url*, when it lets us in and lets us make databases."""
    place = url.rpartition("@")[2]
    try:
        with connect(url) as server, server.cursor() as cursor:
            cursor.execute("SELECT VERSION()")
            said: str = cursor.fetchone()[0]  # type: ignore[index]
            family = "MariaDB" if "MariaDB" in said else "MySQL"
            number = said.split("-", maxsplit=1)[0]
            if tuple(map(int, number.split("."))) < OLDEST[family]:
                raise NoMySQL(f"the server at {place} is {family} {number}, which is too old")
            cursor.execute("CREATE DATABASE duly_test_probe_%s", (os.getpid(),))
            cursor.execute("DROP DATABASE duly_test_probe_%s", (os.getpid(),))
            return f"{family} {number}"
    except pymysql.Error as error:
        raise NoMySQL(f"the server at {place} does not let us in: {error}") from None


def drop_databases(url: str, prefix: str) -> None:
    """Drop the databases whose name begins with *prefix*, with whoever is still connected."""
    with connect(url) as server, server.cursor() as cursor:
        cursor.execute(
            "SELECT schema_name FROM information_schema.schemata WHERE LEFT(schema_name, %s) = %s",
            (len(prefix), prefix),
        )
        for (name,) in cursor.fetchall():
            cursor.execute("SELECT id FROM information_schema.processlist WHERE db = %s", (name,))
            kill(cursor, [row[0] for row in cursor.fetchall()])
            cursor.execute(f"DROP DATABASE IF EXISTS `{name}`")


def kill(cursor: Any, sessions: list[int]) -> None:
    """Cut sessions off; those that are gone meanwhile are gone."""
    for session in sessions:
        with contextlib.suppress(pymysql.Error):
            cursor.execute("KILL %s", (session,))


class Bed:
    """One database on a server, emptied for each test that asks for it.

    To make Duly's tables takes 80 ms (250 by migration), and to empty them 2. So those of a test that left them as
    they were made are kept for the next one that needs them, and dropped when the next one needs nothing.
    """

    def __init__(self, server: str, name: str) -> None:
        self.url = make_url(server).set(database=name).render_as_string(hide_password=False)
        self._as_made: dict[str, str] = {}
        self._left = False
        with connect(server) as maintenance, maintenance.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")
        self._own = connect(self.url)

    def empty(self) -> None:
        """No rows in it, and nobody else connected; no tables either, unless ``furnish`` asks for them."""
        with self._own.cursor() as cursor:
            cursor.execute("SET lock_wait_timeout = 5")  # a session that was killed lets go in a moment
            kill(cursor, [row[0] for row in self._ask(f"SELECT id {OTHERS}")])
            tables = self._tables()
            self._left = bool(tables) and self._as_made == self._as_they_are(tables)
            if not self._left:
                self._drop()
            for name in tables if self._left else ():
                if name not in KEPT:
                    cursor.execute(f"DELETE FROM {name}")

    def clear(self) -> None:
        """No tables: nobody has asked for those that an earlier test left."""
        if self._left:
            self._left = False
            self._drop()

    def furnish(self) -> None:
        """Let the tables stand that an earlier test left."""
        self._left = False

    def remember(self) -> None:
        """What is in it now are Duly's tables as they are made."""
        if not self._as_made:
            self._as_made = self._as_they_are(self._tables())

    def _drop(self) -> None:
        if tables := self._tables():
            with self._own.cursor() as cursor:
                cursor.execute("DROP TABLE " + ", ".join(f"`{name}`" for name in tables))

    def _tables(self) -> list[str]:
        found = "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()"
        return [row[0] for row in self._ask(found)]

    def _as_they_are(self, tables: list[str]) -> dict[str, str]:
        """How the tables were made, and what stands in those that are kept."""
        return {name: self._made(name) for name in tables} | {
            f"in {name}": str(self._ask(f"SELECT * FROM `{name}`")) for name in tables if name in KEPT
        }

    def _made(self, table: str) -> str:
        return str(self._ask(f"SHOW CREATE TABLE `{table}`")[0][1])

    def strangers(self, patience: float = 2.0) -> list[str]:
        """Who else is connected, after some patience with those who are leaving; cut off when told."""
        deadline = time.monotonic() + patience
        while found := self._ask(
            f"SELECT id, CONCAT_WS(' ', id, command, time, state, LEFT(info, 120)) {OTHERS}"
        ):
            if time.monotonic() > deadline:
                with self._own.cursor() as cursor:
                    kill(cursor, [row[0] for row in found])
                return [str(row[1]) for row in found]
            threading.Event().wait(0.01)
        return []

    def _ask(self, sql: str) -> list[tuple[Any, ...]]:
        with self._own.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def close(self) -> None:
        """Leave the database; the sweep drops it."""
        self._own.close()
