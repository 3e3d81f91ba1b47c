"""``prove``: the prover in a test."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from duly.app import Duly
from duly.client import Client
from duly.errors import CannotTell, DeclarationError
from duly.proof.page import page
from duly.proof.prover import Prover
from duly.proof.verdict import Verdict, Word, untold
from duly.proof.world import Worlds
from duly.task.task import Task


def prove(
    task: Task[..., Any],
    /,
    *args: Any,
    free: Collection[str] = (),
    reach: Collection[str] = (),
    **kwargs: Any,
) -> Verdict:
    """Crash the call ``task(*args, **kwargs)`` at every step, on copies; ``AssertionError`` unless it is proved.

    The error's text is the page that ``duly prove`` prints. *free* names columns that may differ from run to
    run, as ``table.column``; *reach* names hosts, besides this one, that the task may speak to, for real.

    The databases are copied as they are when this is called, so commit what the task is to find. Connections
    that the test itself keeps open are none of the task's: it must make its own.
    """
    app = _app_of(task)
    app.load()
    arguments = task.bind(args, kwargs).arguments
    app.close()
    with Worlds() as worlds:
        try:
            verdict = Prover(app, task, arguments, worlds, free=free, reach=reach).prove()
        except CannotTell as error:
            verdict = untold(task.name, arguments, worlds.notes or [str(error)])
        finally:
            app.close()
    if verdict.word is not Word.PROVED:
        raise AssertionError(page(verdict))
    return verdict


def _app_of(task: Task[..., Any]) -> Duly:
    client = task.reach()
    if isinstance(client, Client) and isinstance(client.home, Duly):
        return client.home
    raise DeclarationError(
        f"{task.name} ({task.where}) belongs to no app: put its router in Duly(include=[…])"
    )
