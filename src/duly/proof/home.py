"""What the prover needs of the app."""

from __future__ import annotations

from typing import Protocol

from duly.worker.home import Home as WorkerHome


class Home(WorkerHome, Protocol):
    """The app, as its prover sees it: all that its workers see of it, loading, and closing.

    After ``close`` the store opens again with its next use.
    """

    def load(self) -> None:
        """Import what is included."""
        ...

    def migrate(self) -> tuple[str | None, str | None]:
        """Make the tables, or bring them to this release."""
        ...

    def close(self) -> None:
        """Give back all database connections."""
        ...
