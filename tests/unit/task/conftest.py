"""A router joined to an app that writes down what it is asked to enqueue."""

from __future__ import annotations

from typing import Any

import pytest

from duly.model.ids import new_id
from duly.task import Call, JobHandle, Task, Tasks


class Recorder:
    """A client that keeps calls."""

    def __init__(self) -> None:
        self.calls: list[Call[Any]] = []

    def enqueue(self, call: Call[Any]) -> JobHandle[Any]:
        self.calls.append(call)
        return JobHandle(new_id(), desk=None)  # type: ignore[arg-type]

    async def aenqueue(self, call: Call[Any]) -> JobHandle[Any]:
        return self.enqueue(call)


class App(Tasks):
    """As the app does it: every task that joins gets the client."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.client = Recorder()

    def joined(self, task: Task[..., Any]) -> None:
        task.client = self.client


@pytest.fixture
def jobs() -> App:
    return App()


@pytest.fixture
def calls(jobs: App) -> list[Call[Any]]:
    return jobs.client.calls
