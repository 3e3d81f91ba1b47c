"""What a task needs of the app it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from duly.task.call import Call
    from duly.task.handle import JobHandle

R = TypeVar("R")


class Client(Protocol):
    """Enqueues calls. The app puts one on each of its tasks."""

    def enqueue(self, call: Call[R], /) -> JobHandle[R]:
        """Authorize, validate, seal and insert *call*."""
        ...

    async def aenqueue(self, call: Call[R], /) -> JobHandle[R]:
        """The same for async callers."""
        ...
