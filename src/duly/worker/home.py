"""What the worker's rooms need of their app."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from duly.envelope.arguments import Limits
from duly.envelope.seal import Sealer
from duly.model.events import Emitter
from duly.model.options import Options
from duly.settings import Settings

if TYPE_CHECKING:
    from duly.store import Store
    from duly.task.task import Task


class Home(Protocol):
    """The app, as its workers see it."""

    settings: Settings
    sealer: Sealer
    limits: Limits
    emitter: Emitter
    session_factory: Callable[..., Any] | None
    async_session_factory: Callable[..., Any] | None

    @property
    def store(self) -> Store:
        """The opened store."""
        ...

    @property
    def tasks(self) -> Iterable[Task[..., Any]]:
        """All tasks."""
        ...

    def find(self, name: str) -> Task[..., Any] | None:
        """The task with this name or alias."""
        ...

    def options_of(self, task: Task[..., Any], queue: str | None) -> Options:
        """Task over queue over app over defaults."""
        ...
