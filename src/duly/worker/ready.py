"""Before a worker starts: can it give every task what the task asks for?"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from duly.errors import SettingsError
from duly.task.injected import Injected

if TYPE_CHECKING:
    from duly.task.task import Task
    from duly.worker.home import Home

_NEEDS_ASYNC_ENGINE = {Injected.ASYNC_SESSION, Injected.ASYNC_CONNECTION}


def check_injections(home: Home) -> None:
    """``SettingsError`` for a task that asks for what this app cannot give, or not on the queue's database."""
    for task in home.tasks:
        asked = set(task.signature.injected.values())
        if home.store.async_engine is None and (asked & _NEEDS_ASYNC_ENGINE or _async_transaction(task)):
            wanted = ", ".join(sorted(kind.value for kind in asked & _NEEDS_ASYNC_ENGINE)) or "a transaction"
            raise SettingsError(
                f"task {task.name} is async and asks for {wanted}, but there is no async engine: "
                "Duly(url, async_engine=create_async_engine(…))"
            )
    if home.store.async_engine is not None:
        asyncio.run(home.store.recognize_async(home.async_session_factory))
    asking = next(
        (t for t in home.tasks if t.transactional and Injected.SESSION in t.signature.injected.values()), None
    )
    factory = home.session_factory
    if asking is not None and factory is not None and not home.store.owns(factory):
        raise SettingsError(
            f"task {asking.name} is transactional, but session= makes sessions on another database than the "
            "queue's: its writes could not commit with the job. Put the queue on that database, or drop effects="
        )


def _async_transaction(task: Task[..., Any]) -> bool:
    return task.transactional and task.signature.is_async
