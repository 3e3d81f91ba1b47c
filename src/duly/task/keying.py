"""From a call's options to the keys that its job takes, and to its id where a name says it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from duly.errors import InvalidOptions
from duly.model.ids import derived_id
from duly.model.options import Options
from duly.model.unique import BY_IDEMPOTENCY_KEY, BY_UNIQUE, Key, Until, stored_key
from duly.task.current import current

if TYPE_CHECKING:
    from duly.task.context import Context
    from duly.task.task import Task


def unique_key(
    task: Task[..., Any], given: Options, options: Options, body: Callable[[], bytes]
) -> str | None:
    """The unique key, as it is stored, of a call that was *given* some of the merged *options*; None where it has none.

    *body* makes the checked arguments, without options. ``InvalidOptions`` where ``unique=`` makes no text of
    them, and where the call says how it is meant but nobody says ``unique=``.
    """
    unique = options.unique
    if not unique:
        said = [name for name in ("unique_scope", "on_conflict") if getattr(given, name) is not None]
        if said:
            raise InvalidOptions(f"{task.name}: {said[0]}= says how unique= is meant; give unique= as well")
        return None
    if unique is True:
        return stored_key(BY_UNIQUE, task.name, body())
    return stored_key(
        BY_UNIQUE, task.name, unique if isinstance(unique, str) else _made(task, unique, body())
    )


def _made(task: Task[..., Any], unique: Callable[..., str], body: bytes) -> str:
    values, _ = task.signature.arguments.load(body)
    args, kwargs = task.signature.apply(values)
    try:
        text = unique(*args, **kwargs)
    except Exception as error:
        raise InvalidOptions(
            f"{task.name}: the function given as unique= raised {type(error).__name__}; it is called with the "
            "task's arguments, and returns the key"
        ) from error
    if not isinstance(text, str) or not text:
        raise InvalidOptions(
            f"{task.name}: the function given as unique= must return a text that is not empty"
        )
    return text


def stored_unique(unique: str | None, options: Options) -> tuple[str, str | float] | None:
    """A unique key as it travels in the envelope, with its scope: a word, or the seconds of a window."""
    scope = options.unique_scope
    if unique is None or scope is None:
        return None
    return unique, scope.total_seconds() if isinstance(scope, timedelta) else scope


def unique_again(stored: tuple[str, str | float] | None) -> tuple[Key, ...]:
    """The key that a retry by hand takes: that of the job it repeats, where it was one until its claim or end.

    A window counts from the first enqueue, and holds the key by itself.
    """
    words = {"waiting": Until.CLAIM, "unfinished": Until.END}
    if stored is None or stored[1] not in words:
        return ()
    return (Key(stored[0], words[str(stored[1])], None, "error"),)


def keys_of(
    task: str, options: Options, unique: str | None, *, enqueued_at: datetime, expires_at: datetime
) -> tuple[Key, ...]:
    """The keys that a job takes: its idempotency key, and its *unique* one."""
    keys: tuple[Key, ...] = ()
    if options.idempotency_key is not None:
        digest = stored_key(BY_IDEMPOTENCY_KEY, task, options.idempotency_key)
        keys = (Key(digest, Until.EXPIRY, expires_at),)
    if unique is not None:
        scope, on_conflict = options.unique_scope, options.on_conflict
        assert scope is not None and on_conflict is not None  # noqa: S101, PT018 - defaults say both
        keys = (*keys, Key.scoped(unique, scope, enqueued_at, on_conflict))
    return keys


def given_id(task: str, given: Options) -> UUID | None:
    """The id that a call asks for: its own, or that of a child of the running job; None for a new one."""
    if given.child is None:
        return given.id
    if given.id is not None:
        raise InvalidOptions(f"{task}: give id= or child=, not both")
    parent: Context | None = current()
    if parent is None:
        raise InvalidOptions(
            f"{task}: child= names a job among those that the running job makes, and no job is running here; "
            "use idempotency_key="
        )
    return derived_id(parent.origin, f"child {task} {given.child}")
