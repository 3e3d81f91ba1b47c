"""Transactional tasks on a stage: one task of each of four kinds, doing what the test says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from duly import Backoff, Context, given
from tests.worker.stage import App, Stage, TurnedWorker

WRITE = text("INSERT INTO effects VALUES (:name)")
Body = Callable[["Doing"], Any]


class Doing:
    """What a task does in its transaction, the same for all four kinds; steps of async ones are awaited."""

    def __init__(self, target: Any, ctx: Context, run: Callable[[Any], Any]) -> None:
        self.target, self.ctx, self._run = target, ctx, run

    def write(self, name: str) -> None:
        self._run(self.target.execute(WRITE, {"name": name}))

    def sql(self, statement: str) -> None:
        self._run(self.target.execute(text(statement)))

    def commit(self) -> None:
        self._run(self.target.commit())

    def rollback(self) -> None:
        self._run(self.target.rollback())


KINDS = ("session", "connection", "async session", "async connection")


class Play:
    """A stage with an app that has one transactional task, *doing* what the test says."""

    def __init__(self, stage: Stage, kind: str, **app: Any) -> None:
        self.stage, self.kind = stage, kind
        if kind.startswith("async"):
            app["async_engine"] = create_async_engine(stage.database.async_url, poolclass=NullPool)
        self.app: App = stage.app(**app)
        stage.make_effects()
        self.body: Body = lambda doing: doing.write("effect")
        self.task = self._declare()

    def _declare(self) -> Any:
        declare = self.app.task(name="play", effects="transactional", retry=Backoff.fixed(3600))
        play = self

        if self.kind == "session":

            def task(*, it: Session = given, ctx: Context = given) -> str:
                return play._sync(it, ctx)

            return declare(task)
        if self.kind == "connection":

            def task_c(*, it: Connection = given, ctx: Context = given) -> str:
                return play._sync(it, ctx)

            return declare(task_c)
        if self.kind == "async session":

            async def atask(*, it: AsyncSession = given, ctx: Context = given) -> str:
                return await play._async(it, ctx)

            return declare(atask)

        async def atask_c(*, it: AsyncConnection = given, ctx: Context = given) -> str:
            return await play._async(it, ctx)

        return declare(atask_c)

    def _sync(self, it: Any, ctx: Context) -> str:
        self.body(Doing(it, ctx, lambda done: done))
        return "done"

    async def _async(self, it: Any, ctx: Context) -> str:
        from greenlet import getcurrent  # noqa: F401 - needed by SQLAlchemy, said early
        from sqlalchemy.util import await_only, greenlet_spawn

        await greenlet_spawn(self.body, Doing(it, ctx, await_only))
        return "done"

    def does(self, body: Body) -> None:
        self.body = body

    def turned(self) -> TurnedWorker:
        return self.stage.turned(self.app, threads=1)

    def run(self, turned: TurnedWorker | None = None) -> Any:
        """One attempt, until the turned holds nothing; the handle."""
        job = self.task.enqueue()
        self.attempt(turned or self.turned())
        return job.refresh()

    def attempt(self, turned: TurnedWorker) -> None:
        turned.until(lambda: turned.held, "the claim")
        turned.until(lambda: not turned.held, "the end of the attempt")

    @property
    def effects(self) -> list[str]:
        return self.stage.effects()

    def claims(self, job: Any) -> Any:
        ended = self.stage.ended(self.app, job)
        return ended and ended["claim"]


@pytest.fixture(params=KINDS)
def play(request: pytest.FixtureRequest, stage: Stage) -> Play:
    return Play(stage, request.param)


@pytest.fixture(params=["session", "async connection"])
def some(request: pytest.FixtureRequest, stage: Stage) -> Play:
    """For what does not depend on how the task writes."""
    return Play(stage, request.param)
