"""Worlds: throw-away copies of every database that the application speaks to, one for each run."""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID

from duly.model.ids import new_id
from duly.proof.files import Files
from duly.proof.snapshot import Base, Snapshot
from duly.store.copies import Redirection, connecting
from duly.store.copies.source import BASE

__all__ = ["World", "Worlds", "connecting"]

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class World:
    """Copies of all known databases, for one run and its workers."""

    folder: Path
    """A folder of this world's own, gone with it: for what a run wants to keep beside its databases."""
    job: UUID
    """The id that the job is to be enqueued with, the same in all worlds: so is its idempotency key."""

    def __init__(self, name: str, job: UUID, redirection: Redirection, files: Files, base: Base) -> None:
        self.job = job
        self.folder = redirection.folder / name
        self.folder.mkdir(exist_ok=True)
        self._name = name
        self._redirection = redirection
        self._files = files
        self._base = base

    def enter(self) -> None:
        """In a child, right after its fork: every connection made from here on goes to this world.

        The files that this process writes are saved before the first touch. Call ``app.close()`` next, so that
        the app's store opens in this world.
        """
        self._redirection.copy = self._name
        self._files.watch()

    @contextmanager
    def visit(self) -> Iterator[None]:
        """In the prover itself: connections go to this world within the block, and are closed at its end.

        For burying a killed worker. No thread may use an engine meanwhile; call ``app.close()`` first.
        """
        self._redirection.copy = self._name
        try:
            yield
        finally:
            self._redirection.leave_engines()
            self._redirection.copy = BASE

    def snapshot(self) -> Snapshot:
        """What is in it now, beside what was in the base."""
        return self._base.beside(self._name, self._files.contents())

    def remove(self) -> None:
        """It is not needed any more."""
        self._redirection.discard(self._name)
        shutil.rmtree(self.folder, ignore_errors=True)


class Worlds:
    """A context manager that redirects every SQLAlchemy connection of this process to copies.

    Enter it before the application is imported, so that what connects at import goes to copies too.
    Everything is removed at its end, after Ctrl-C too, and files that the task wrote are put back.
    """

    def __init__(self) -> None:
        self._made = 0
        self._job = new_id()

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="duly-proof-")).resolve()
        self._redirection = Redirection(self.folder)
        self._files = Files(self.folder)
        self._base = Base(self._redirection)
        self._redirection.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _undisturbed(), ExitStack() as last:  # from its end up, and each whatever became of the others
            last.callback(shutil.rmtree, self.folder, ignore_errors=True)
            last.callback(self._redirection.remove)
            for copy in (BASE, *map(str, range(1, self._made + 1))):
                last.callback(self._redirection.discard, copy)
            last.callback(self._files.put_back)

    @property
    def notes(self) -> list[str]:
        """What could not be redirected, so that the verdict can only be *cannot tell*."""
        return self._redirection.notes

    def disregard(self, tables: Collection[str]) -> None:
        """These are Duly's own: what is in them is not compared."""
        self._base.ours = frozenset(tables)

    def fresh(self) -> World:
        """A new copy of everything as it was when the application had been imported. Give it back: ``remove()``.

        Files that the last run wrote are put back as they were.
        """
        self._files.put_back()
        self._redirection.leave_engines()
        self._made += 1
        self._redirection.make(str(self._made))
        return World(str(self._made), self._job, self._redirection, self._files, self._base)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C, or a terminal that is closed, shall not leave half of it behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
