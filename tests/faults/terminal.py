"""Terminals: processes as an operator starts them, each with its process group, and their words in a file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests.databases import ROOT
from tests.postgresql import children_of

T = TypeVar("T")
PATIENCE = 60.0
"""Seconds to wait before a test is given up. Machines are slow at times; no test measures by this."""


def pause(seconds: float) -> None:
    """Let the others work. What a test waits *for*, it asks for by ``until``."""
    threading.Event().wait(seconds)


def until(ask: Callable[[], T], what: str | Callable[[], str], patience: float = PATIENCE) -> T:
    """Ask again and again until the answer is true, and return it; *what* says what was waited for."""
    deadline = time.monotonic() + patience
    while not (answer := ask()):
        if time.monotonic() > deadline:
            named = what if isinstance(what, str) else what()
            raise AssertionError(f"waited {patience:g} s in vain for {named}")
        pause(0.02)
    return answer


def gone(*processes: int) -> bool:
    """Ended; orphans come to us, and we bury them."""
    return all(_buried(process) for process in processes)


def _buried(process: int) -> bool:
    try:
        return os.waitpid(process, os.WNOHANG)[0] == process
    except ChildProcessError:  # it is its supervisor's still, or was buried before
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        return False


def environment_of() -> dict[str, str]:
    """This process's environment, with the tests on the path and without anybody's settings of Duly."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("DULY_")}
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return plain | {"PYTHONPATH": os.pathsep.join(path)}


class Zygote:
    """Forks terminals that have imported everything already (see ``zygote.py``)."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment_of(),
            start_new_session=True,  # a Ctrl-C is the test run's to handle; its end ends this too
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError("the zygote does not start")

    def fork(self, order: Mapping[str, Any]) -> int:
        """Have a process made; its id."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({**order, "parent": os.getpid()}) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """It leaves when nobody can order any more."""
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()


class Terminal:
    """A process group whose leader is our child. ``end`` leaves nothing of it."""

    def __init__(
        self,
        zygote: Zygote,
        log: Path,
        environment: Mapping[str, str],
        arguments: Sequence[str],
        run: str = "duly.cli:main",
    ) -> None:
        self.log = log
        self.code: int | None = None
        order = {"log": str(log), "environment": dict(environment), "arguments": list(arguments), "run": run}
        self.pid = zygote.fork(order)
        """The leader: the supervisor, where the command is ``duly work``."""

    # ── looking ───────────────────────────────────────────────────────────────────────────────

    @property
    def children(self) -> list[int]:
        """The worker processes."""
        return sorted(children_of(self.pid))

    def said(self, event: str, **facts: Any) -> list[dict[str, Any]]:
        """The events with this name and these facts that stand in the log."""
        found = []
        for line in self.words().splitlines():
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if record.get("event") == event and facts.items() <= record.items():
                    found.append(record)
        return found

    def words(self) -> str:
        """Everything it said."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def workers(self, count: int) -> list[int]:
        """Wait until so many workers have started; the worker processes."""

        def there() -> bool:
            started = {record["pid"] for record in self.said("started", role="worker")}
            return len(started & set(self.children)) >= count

        until(there, lambda: f"{count} workers of\n{self.words()[-3000:]}")
        return self.children

    # ── doing ─────────────────────────────────────────────────────────────────────────────────

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        """To the leader alone, or as a terminal's Ctrl-C, to all."""
        (os.killpg if group else os.kill)(self.pid, number)

    def stop(self) -> int:
        """TERM, and how it ended."""
        self.signal(signal.SIGTERM)
        return self.ended()

    def ended(self, patience: float = PATIENCE) -> int:
        """Wait for the end; the exit code, or minus the signal."""
        until(self._reaped, lambda: f"the end of\n{self.words()[-3000:]}", patience)
        assert self.code is not None
        return self.code

    @property
    def running(self) -> bool:
        """Whether the leader runs."""
        return not self._reaped()

    def _reaped(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def end(self) -> None:
        """Kill what is left of the group, and bury it: orphans have come to us."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if self.code is None:
            os.waitpid(self.pid, 0)
            self.code = -signal.SIGKILL
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-self.pid, 0)
