"""What Duly can give to a task: recognized by type hint, without importing SQLAlchemy.

A hint is injectable when a class of its MRO is one of those below by module and qualified name. If
the hint is such a class then whoever wrote it has imported the library; we never need to.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from enum import Enum
from typing import Annotated, Any, Union, get_args, get_origin


class Injected(Enum):
    """A kind of thing that Duly gives to a task; the value is how messages call it."""

    CONTEXT = "Context"
    SESSION = "Session"
    ASYNC_SESSION = "AsyncSession"
    CONNECTION = "Connection"
    ASYNC_CONNECTION = "AsyncConnection"

    @property
    def with_article(self) -> str:
        """As a sentence has it: ``a Session``, ``an AsyncSession``."""
        return f"{'an' if self.value[0] in 'AEIO' else 'a'} {self.value}"

    @property
    def for_async(self) -> bool:
        """Whether only an async task can use it."""
        return self in _TWINS.values()

    @property
    def for_sync(self) -> bool:
        """Whether only a sync task can use it."""
        return self in _TWINS

    @property
    def twin(self) -> Injected:
        """The same thing for the other kind of task."""
        return _TWINS.get(self) or {v: k for k, v in _TWINS.items()}.get(self, self)


_TWINS = {Injected.SESSION: Injected.ASYNC_SESSION, Injected.CONNECTION: Injected.ASYNC_CONNECTION}

_CLASSES = {
    ("duly.task.context", "Context"): Injected.CONTEXT,
    ("sqlalchemy.orm.session", "Session"): Injected.SESSION,
    ("sqlalchemy.ext.asyncio.session", "AsyncSession"): Injected.ASYNC_SESSION,
    ("sqlalchemy.engine.base", "Connection"): Injected.CONNECTION,
    ("sqlalchemy.ext.asyncio.engine", "AsyncConnection"): Injected.ASYNC_CONNECTION,
}


def injected_by(hint: Any) -> Injected | None:
    """What Duly gives to a parameter with this *hint*; None for an argument."""
    bare = _bare(hint)
    for ancestor in getattr(bare, "__mro__", ()):
        if found := _CLASSES.get((ancestor.__module__, ancestor.__qualname__)):
            return found
    return None


def injected_in_union(hint: Any) -> Injected | None:
    """What a union such as ``Session | None`` would have Duly give; the caller refuses it."""
    bare = _bare(hint)
    if get_origin(bare) in {Union, types.UnionType}:
        return next(filter(None, map(injected_by, get_args(bare))), None)
    return None


def _bare(hint: Any) -> Any:
    """The class under ``Annotated[…]``, a ``type`` alias or a subscription; unions stay."""
    for layer in _layers(hint):
        hint = layer
    return hint


def _layers(hint: Any) -> Iterator[Any]:
    while True:
        origin = get_origin(hint)
        if origin is Annotated:
            hint = get_args(hint)[0]
        elif type(hint).__name__ == "TypeAliasType":  # of typing from 3.12, or of typing_extensions
            hint = hint.__value__
        elif isinstance(origin, type) and origin is not types.UnionType:
            hint = origin
        else:
            return
        yield hint
