"""Who lives, by OS locks on files: SQLite's workers cannot write a heartbeat while a task holds the write lock."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class Lives:
    """One locked file a worker, in a folder beside the database.

    The operating system gives a lock back when its process ends, however it ends.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        """Where the files stand; known once the store is open."""
        self.held: dict[str, int] = {}
        """This process's own: worker and file handle."""
        os.register_at_fork(after_in_child=self._forget)

    def hold(self, worker: str) -> None:
        """Show, as long as this process lives, that *worker* does."""
        handle = os.open(self._file(worker), os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.held[worker] = handle

    def drop(self, worker: str) -> None:
        """Remove the file, and give the lock back where it is ours; a dead child's is gone already."""
        self._file(worker).unlink(missing_ok=True)
        handle = self.held.pop(worker, None)
        if handle is not None:
            os.close(handle)

    def are_over(self, worker: str) -> bool:
        """Whether *worker*'s lock can be had: then its process is gone."""
        if worker in self.held:
            return False
        try:
            handle = os.open(self._file(worker), os.O_RDWR)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            self._file(worker).unlink(missing_ok=True)
            return True
        finally:
            os.close(handle)

    @property
    def database(self) -> Path:
        """The file that the folder stands beside."""
        return self._opened.with_suffix("")

    @property
    def _opened(self) -> Path:
        if self.folder is None:
            raise RuntimeError("the store was not opened")
        return self.folder

    def _file(self, worker: str) -> Path:
        self._opened.mkdir(mode=0o700, exist_ok=True)
        return self._opened / f"{worker}.lock"

    def _forget(self) -> None:
        # A forked child must not keep its parent's lock alive. Closing a copy does not release it.
        for handle in self.held.values():
            os.close(handle)
        self.held.clear()
