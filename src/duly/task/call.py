"""A task with arguments, not yet enqueued."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from duly.model.options import Options
    from duly.task.handle import JobHandle
    from duly.task.task import Task

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Call(Generic[R_co]):
    """A task with arguments, not yet enqueued. Made by ``task.call(…)``; many go in one ``enqueue_many``.

    The arguments fit the signature by name and number; their values are validated at enqueue. They
    are not shown by ``repr``, so that no secret gets into a log.
    """

    task: Task[..., R_co]
    arguments: dict[str, Any] = field(repr=False)
    options: Options
    """The options of this call alone, without those of the task, queue and app."""
    target: Any = None
    """The SQLAlchemy session or connection whose transaction the job joins, or None."""

    def enqueue(self) -> JobHandle[R_co]:
        """Enqueue it and return its handle. Raises what ``Task.enqueue`` raises."""
        return self.task.reach().enqueue(self)

    async def aenqueue(self) -> JobHandle[R_co]:
        """The async twin of ``enqueue``."""
        return await self.task.reach().aenqueue(self)

    def __repr__(self) -> str:
        return f"<Call of {self.task.name}({', '.join(self.arguments)})>"
