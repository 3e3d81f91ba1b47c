"""The files that a task writes: saved before the first touch, compared after a run, and put back.

Python's audit hooks tell of each opening for writing, renaming and removing before it happens. What is written
through a file that was open before the run is not seen.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_NOBODYS = ("/dev/", "/proc/", "/sys/")
_TOUCHES: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.truncate": ((0, None),),
}
"""What changes a file or a folder: which arguments name it, and which the open folder that they are relative to."""
_SHOWN = 20_000


@dataclass(frozen=True, slots=True)
class Content:
    """What is in a file: a digest of it, and its text where it is short text."""

    digest: str
    text: str | None


@dataclass(frozen=True, slots=True)
class Saved:
    """A file or folder as it was before the first touch."""

    path: Path
    copy: Path | None
    """None: there was none."""
    temporary: bool
    """Whether its name was drawn by ``tempfile``: it is removed, and not compared."""


class Files:
    """What was touched since it was last put back, by any process of a world; kept in *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._list = folder / "touched"
        self._list.touch(mode=0o600)
        self._kept = folder / "saved"
        self._kept.mkdir()
        self._seen: set[Path] = set()
        self._temporary: set[Path] = set()

    def watch(self) -> None:
        """In a child: save from now on whatever is about to be touched."""
        _Hook.serve(self)

    def contents(self) -> dict[str, Content | None]:
        """What is now in each file that is no longer as it was; None: it is gone."""
        now = {
            saved: _content(saved.path)
            for saved in self._all()
            if not saved.temporary and not saved.path.is_dir() and not (saved.copy and saved.copy.is_dir())
        }
        return {
            str(saved.path): content
            for saved, content in now.items()
            if content != (_content(saved.copy) if saved.copy else None)
        }

    def put_back(self) -> None:
        """All as it was, the last first."""
        for saved in reversed(self._all()):
            if saved.path.is_dir() and not saved.path.is_symlink():
                if saved.copy is None:
                    shutil.rmtree(saved.path, ignore_errors=True)
            else:
                saved.path.unlink(missing_ok=True)
            if saved.copy is not None:
                saved.path.parent.mkdir(parents=True, exist_ok=True)
                _copy(saved.copy, saved.path)
        self._list.write_text("")
        self._seen.clear()

    def _all(self) -> list[Saved]:
        found = [json.loads(line) for line in self._list.read_text().splitlines()]
        return [Saved(Path(path), Path(copy) if copy else None, drawn) for path, copy, drawn in found]

    # ── in a child ────────────────────────────────────────────────────────────────────────────

    def drawn(self, path: Path) -> None:
        """``tempfile`` is about to make a file or folder of this name."""
        self._temporary.add(path)

    def touch(self, path: Path) -> None:
        """A file is about to be written, moved or removed: save it, unless somebody has."""
        if path in self._seen or not self._minds(path):
            return
        with self._alone():
            if all(saved.path != path for saved in self._all()):
                self._save(path)
        self._seen.add(path)

    def _save(self, path: Path) -> None:
        copy = self._kept / hashlib.sha256(os.fsencode(path)).hexdigest()
        there = os.path.lexists(path)
        if there:
            _copy(path, copy)
        drawn = any(path == other or other in path.parents for other in self._temporary)
        with self._list.open("a") as touched:
            touched.write(json.dumps([str(path), str(copy) if there else None, drawn]) + "\n")

    def _minds(self, path: Path) -> bool:
        if self._folder in path.parents or str(path).startswith(_NOBODYS):
            return False
        return "__pycache__" not in path.parts and path.suffix != ".pyc"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._list.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class _Hook:
    """Python takes an audit hook for good: ours does nothing where no files are watched."""

    files: Files | None = None
    busy = threading.local()
    installed = False

    @classmethod
    def serve(cls, files: Files) -> None:
        cls.files = files
        if not cls.installed:
            sys.addaudithook(cls.hear)
            cls.installed = True

    @classmethod
    def hear(cls, event: str, arguments: tuple[Any, ...]) -> None:
        watching = _WATCHED.get(event)
        if watching is None or cls.files is None or getattr(cls.busy, "now", False):
            return
        cls.busy.now = True
        try:
            watching(cls.files, event, arguments)
        finally:
            cls.busy.now = False


def _opened(files: Files, _: str, arguments: tuple[Any, ...]) -> None:
    path, mode, flags = arguments
    writing = any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool(flags & _WRITING)
    if writing and (found := _path(path)):
        files.touch(Path(os.path.realpath(found)))  # through a link it is the other end that changes


def _changed(files: Files, event: str, arguments: tuple[Any, ...]) -> None:
    for place, folder in _TOUCHES[event]:
        found = _path(arguments[place], -1 if folder is None else arguments[folder])
        if found is None or (event == "os.mkdir" and found.exists()):
            continue
        if event == "os.truncate":
            found = Path(os.path.realpath(found))
        if event != "os.rmdir" or (found.is_dir() and not any(found.iterdir())):
            files.touch(found)


def _drawn(files: Files, _: str, arguments: tuple[Any, ...]) -> None:
    if found := _path(arguments[0]):
        files.drawn(found)


_WATCHED: dict[str, Callable[[Files, str, tuple[Any, ...]], None]] = {
    "open": _opened,
    "tempfile.mkstemp": _drawn,
    "tempfile.mkdtemp": _drawn,
    **dict.fromkeys(_TOUCHES, _changed),
}


def _path(given: Any, folder: Any = -1) -> Path | None:
    """The file's real place, whose last part may be a link; None for a file that is open already."""
    if not isinstance(given, str | bytes | os.PathLike):
        return None
    path = Path(os.fsdecode(given))
    if isinstance(folder, int) and folder >= 0:
        with suppress(OSError):
            path = Path(f"/proc/self/fd/{folder}").readlink() / path
    return Path(os.path.realpath(path.parent)) / path.name


def _copy(source: Path, target: Path) -> None:
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


def _content(path: Path) -> Content | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    text = None
    with suppress(UnicodeDecodeError):
        text = data.decode() if len(data) <= _SHOWN else None
    return Content(hashlib.sha256(data).hexdigest(), text)
