"""Which line of the application's own code is being run."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from types import FrameType

import duly.errors

OURS = str(Path(duly.errors.__file__).parent) + os.sep
_LIBRARIES = ("sqlalchemy", "greenlet", "alembic")


class Lines:
    """Looks up the stack for the innermost line that is the application's."""

    def __init__(self, file: str | None, declared: str) -> None:
        """*file* is the task's own; *declared* is said where none of the application's lines is on the stack."""
        self._file = file
        file_of, _, line = declared.rpartition(":")
        self._declared = f"{_short(file_of)}:{line}"
        self._foreign = cache(self._is_foreign)

    def innermost(self) -> str:
        """As ``file:line``, the file as seen from the working directory."""
        for frame in _stack():
            name = frame.f_code.co_filename
            if not self._foreign(name):
                return f"{_short(name)}:{frame.f_lineno}"
        return self._declared

    @staticmethod
    def ours() -> bool:
        """Whether the statement under way is one of Duly's own."""
        for frame in _stack():
            if not _of_library(frame.f_globals.get("__name__", "")):
                return frame.f_code.co_filename.startswith(OURS) and not _is_the_prover(frame)
        return False

    def _is_foreign(self, name: str) -> bool:
        if name == self._file:
            return False
        return name.startswith(("<", OURS, *_library_folders()))


def _stack() -> Iterator[FrameType]:
    """From the innermost frame out, past the seams between greenlets."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the way to it
    greenlet = sys.modules.get("greenlet")
    current = greenlet.getcurrent() if greenlet is not None else None
    while True:
        while frame is not None:
            if not _is_the_prover(frame):
                yield frame
            frame = frame.f_back
        current = current.parent if current is not None else None
        if current is None:
            return
        frame = current.gr_frame


def _is_the_prover(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__", "")
    return name.startswith("duly.proof.") or name in ("duly.store.watching", "contextlib")


def _of_library(module: str) -> bool:
    return module.partition(".")[0] in _LIBRARIES


@lru_cache(maxsize=1)
def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders.update(site.getsitepackages(), [site.getusersitepackages(), sys.base_prefix + "/lib/python3"])
    return tuple(os.path.realpath(folder) + os.sep for folder in folders) + tuple(
        folder + os.sep for folder in folders
    )


@cache
def _short(name: str) -> str:
    try:
        return str(Path(name).relative_to(Path.cwd()))
    except ValueError:
        return name
