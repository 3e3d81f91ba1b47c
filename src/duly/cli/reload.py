"""``duly work --reload``: the same command without it, as a process that is started again when a module changes."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import typer

from duly.errors import ConfigurationError

COUNTED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
LOOK_MS = 200


def work_again_and_again() -> int:
    """Run ``duly work`` as it was asked for until told to stop; its last exit code."""
    watch = _watcher()
    command = [sys.executable, "-m", "duly", *(word for word in sys.argv[1:] if word != "--reload")]
    return Reloader(command, watch).run()


class Reloader:
    """One process at a time. Signals are passed on: it leads a group of its own, where a Ctrl-C does not come."""

    def __init__(self, command: list[str], watch: Callable[[threading.Event], Iterator[set[str]]]) -> None:
        self._command = command
        self._watch = watch
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Until told to stop. A process that ends by itself, of a fault in a module say, waits for the next change."""
        for number in COUNTED:
            signal.signal(number, self._pass_on)
        self._start()
        for changed in self._watch(self._stopping):
            typer.echo(f"duly: {', '.join(sorted(changed))} changed: starting again", err=True)
            self._end()
            if self._stopping.is_set():
                break
            self._start()
        return self._end()

    def _start(self) -> None:
        self._process = subprocess.Popen(self._command, process_group=0)  # noqa: S603 - what was typed

    def _end(self) -> int:
        """Let it end what it runs, within its grace."""
        assert self._process is not None  # noqa: S101 - started before
        if self._process.poll() is None and not self._stopping.is_set():
            self._process.terminate()
        code = self._process.wait()
        return code if code >= 0 else 128 - code

    def _pass_on(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - as handlers are called
        self._stopping.set()
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


def _watcher() -> Callable[[threading.Event], Iterator[set[str]]]:
    try:
        from watchfiles import PythonFilter, watch
    except ImportError:
        raise ConfigurationError(
            "--reload needs watchfiles, which is not installed here: pip install 'duly[work]'"
        ) from None

    def changes(stop: threading.Event) -> Iterator[set[str]]:
        here = Path.cwd()
        options: dict[str, Any] = {
            "watch_filter": PythonFilter(),
            "stop_event": stop,
            "rust_timeout": LOOK_MS,
        }
        for batch in watch(here, **options, yield_on_timeout=False, raise_interrupt=False):
            yield {str(Path(path).relative_to(here)) for _, path in batch}

    return changes
