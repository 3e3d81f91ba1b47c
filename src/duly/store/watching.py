"""Every statement and commit that this process sends through SQLAlchemy, told as it begins and when it is done.

For good: what listens here is never taken off. Meant for the prover's children, which end soon.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.default import DefaultDialect


class Witness(Protocol):
    """Who is told."""

    def statement(self, text: str, connection: Any) -> None:
        """A statement is about to be sent, on this connection of the driver's."""
        ...

    def commit(self) -> None:
        """A transaction is about to be committed."""
        ...

    def done(self) -> None:
        """What was told of last has been done."""
        ...


def watch(witness: Witness) -> None:
    """Tell *witness* of all engines, those of the application too."""

    def before(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        witness.statement(statement, connection.connection.driver_connection)

    def after(*_: Any) -> None:
        witness.done()

    event.listen(Engine, "before_cursor_execute", before)
    event.listen(Engine, "after_cursor_execute", after)
    _watch_commits(witness)


def _watch_commits(witness: Witness) -> None:
    """There is an event before a commit and none behind it, so the one function that all dialects use is wrapped."""
    committed: Callable[..., None] = DefaultDialect.do_commit

    def do_commit(dialect: DefaultDialect, connection: Any) -> None:
        witness.commit()
        committed(dialect, connection)
        witness.done()

    DefaultDialect.do_commit = do_commit  # type: ignore[method-assign]
