"""Programs that an attempt starts and files that it touches, as Python's audit hooks tell of them.

An audit hook stays until the process ends; this one is for children that end soon.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from duly.proof.course import Course
from duly.proof.lines import Lines
from duly.proof.message import digest
from duly.proof.outside import Effect

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_FILES = {
    "os.link": 2, "os.mkdir": 1, "os.remove": 1, "os.rename": 2, "os.rmdir": 1, "os.symlink": 2, "os.truncate": 1,
}  # fmt: skip
"""Events that change the tree of files, and how many paths they name."""
_FORKS = ("os.fork", "os.forkpty")
_PROCESSES = ("subprocess.Popen", "os.system", "os.posix_spawn", "os.exec")
_NOWHERE = ("/dev/", "/proc/", "/sys/")
_TEMPORARY = re.compile(r"tmp[a-z0-9_]{8}")


class Hook:
    """Tells the course of one process."""

    def __init__(self, course: Course, lines: Lines, keys: Collection[bytes], folder: Path) -> None:
        """What is in *folder*, that of all worlds, is the prover's own."""
        self._course = course
        self._lines = lines
        self._keys = keys
        self._folder = str(folder)
        self._busy = False

    def watch(self) -> None:
        """From here on, in this process, for good."""
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if not event.startswith(("open", "os.", "subprocess.")) or not self._course.inside:
            return
        with self._course.outside():
            begin = self._read(event, args)
        if begin is not None:
            begin()

    def _read(self, event: str, args: tuple[Any, ...]) -> Callable[[], None] | None:
        if event == "open":
            return self._opened(*args)
        if event in _FILES:
            return self._changed(
                event, [os.fsdecode(path) for path in args[: _FILES[event]] if _is_path(path)]
            )
        if event in _PROCESSES and not self._nested(event):
            return self._started(event, args)
        if event in _FORKS:
            words = (
                f"the task forks ({self._lines.innermost()}): what it does in the other process is not seen"
            )
            return lambda: self._course.note(words)
        return None

    # ── files ─────────────────────────────────────────────────────────────────────────────────

    def _opened(self, path: Any, mode: str | None, flags: int) -> Callable[[], None] | None:
        writes = any(letter in mode for letter in "wax+") if mode is not None else bool(flags & _WRITES)
        return self._changed("open", [os.fsdecode(path)]) if writes and _is_path(path) else None

    def _changed(self, event: str, paths: list[str]) -> Callable[[], None] | None:
        theirs = [path for path in paths if not self._is_ours(str(Path.cwd() / path))]
        if not theirs:
            return None
        named = " ".join(_TEMPORARY.sub("tmp…", path) for path in theirs)
        what = f"{'write' if event == 'open' else event.removeprefix('os.')} {named}"
        return lambda: _forget(self._course.begin("file", what))

    def _is_ours(self, path: str) -> bool:
        return path.startswith((self._folder, *_NOWHERE)) or "/__pycache__/" in path

    # ── programs ──────────────────────────────────────────────────────────────────────────────

    @staticmethod
    def _nested(event: str) -> bool:
        """``subprocess`` may start its program by ``os.posix_spawn``."""
        return event == "os.posix_spawn" and any(
            frame.f_globals.get("__name__") == "subprocess"
            for frame in (sys._getframe(3), sys._getframe(4))  # noqa: SLF001
        )

    def _started(self, event: str, args: tuple[Any, ...]) -> Callable[[], None]:
        words = args[0] if event == "os.system" else args[1]
        said = os.fsdecode(words) if isinstance(words, str | bytes) else shlex.join(map(os.fsdecode, words))
        program = said.split()[0] if said.split() else ""
        keyed = any(os.fsdecode(key) in said for key in self._keys)
        effect = Effect(
            "process", program, digest(said.encode(errors="replace")), keyed, self._lines.innermost()
        )
        return lambda: _forget(self._course.begin("process", program, lambda: effect))


def _is_path(path: Any) -> bool:
    return isinstance(path, str | bytes | os.PathLike)


def _forget(_: int) -> None:
    pass
