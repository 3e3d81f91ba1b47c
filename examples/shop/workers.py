"""The supervisor and its workers, started as an operator would: ``duly work``, as a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

COMMAND = "work --app examples.shop.tasks:jobs --processes 2 --threads 4 --grace 5"


class Workers:
    """A running ``duly work``, from ``with`` to the end of its block. What it says goes to the *log*."""

    def __init__(self, log: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        self._environment = {**os.environ, **environment}

    def __enter__(self) -> Self:
        """Start the supervisor, in a process group of its own: Ctrl-C at the terminal is ours."""
        with self._log.open("ab") as log:
            self._supervisor = subprocess.Popen(
                [sys.executable, "-m", "duly", *COMMAND.split()],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the workers finish what they have begun; those that will not are killed."""
        try:
            with suppress(subprocess.TimeoutExpired):
                self.stop()
        finally:
            self._kill_all()

    @property
    def exit_code(self) -> int | None:
        """How the supervisor ended; None while it runs."""
        return self._supervisor.poll()

    def stop(self) -> int:
        """Ask the supervisor to stop, and return its exit code; ``TimeoutExpired`` when it does not stop."""
        self._supervisor.terminate()
        return self._supervisor.wait(timeout=15)

    def kill(self, process: int) -> None:
        """SIGKILL one worker, as the kernel does when memory runs out: it cannot even say goodbye."""
        os.kill(process, signal.SIGKILL)

    def _kill_all(self) -> None:
        try:
            os.killpg(self._supervisor.pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # all gone, as it should be
        self._supervisor.wait()


def tail(log: Path, lines: int = 40) -> str:
    """The last lines of a log; nothing when there is none yet."""
    if not log.exists():
        return ""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
