"""``isolated=True`` and its limits: what stands on the task, and what is refused at import."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from duly import Job, Tasks
from duly.errors import DeclarationError
from duly.model.isolation import Isolation


def isolation_of(**options: Any) -> Isolation | None:
    router = Tasks()

    @router.task(name="some.task", **options)
    def some() -> None: ...

    return router.tasks[0].isolation


def test_a_task_is_not_isolated_unless_it_says_so() -> None:
    assert isolation_of() is None
    assert isolation_of(isolated=False) is None


def test_what_stands_on_the_task() -> None:
    assert isolation_of(isolated=True) == Isolation()
    limited = isolation_of(isolated=True, max_memory=256 * 1024**2, max_cpu=30)
    assert limited == Isolation(max_memory=256 * 1024**2, max_cpu=timedelta(seconds=30))


@pytest.mark.parametrize("given", [1.2, 2, timedelta(seconds=1, milliseconds=1)])
def test_processor_time_is_in_whole_seconds_rounded_up(given: Any) -> None:
    assert isolation_of(isolated=True, max_cpu=given) == Isolation(max_cpu=timedelta(seconds=2))


def test_async_tasks_and_job_classes() -> None:
    router = Tasks()

    @router.task(isolated=True, effects="transactional", name="some.coroutine")
    async def coroutine() -> None: ...

    @router.task(isolated=True, max_cpu=1, name="some.job")
    class Convert(Job):
        file: str

        def perform(self) -> None: ...

    assert coroutine.isolation == Isolation()
    assert Convert.__duly_task__.isolation == Isolation(max_cpu=timedelta(seconds=1))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_memory": 2**28}, "max_memory= limits the process of an isolated task: add isolated=True"),
        ({"isolated": False, "max_cpu": 3}, "max_cpu= limits the process of an isolated task"),
        ({"isolated": 1}, "isolated= must be a bool, not 1"),
        ({"isolated": True, "max_memory": 256}, "max_memory= is in bytes, and must be from 16777216 to"),
        ({"isolated": True, "max_memory": 2**50 + 1}, "from 16777216 to 1125899906842624, not"),
        ({"isolated": True, "max_memory": "256M"}, "a whole number of bytes, not '256M'"),
        ({"isolated": True, "max_memory": True}, "a whole number of bytes"),
        ({"isolated": True, "max_memory": 2.0**28}, "a whole number of bytes"),
        ({"isolated": True, "max_cpu": 0.5}, "max_cpu= must be at least 1 s, not 0.5"),
        ({"isolated": True, "max_cpu": "1"}, "max_cpu= must be a timedelta or a number of seconds"),
        ({"isolated": True, "max_cpu": timedelta(days=36_501)}, "max_cpu= is out of bounds"),
        ({"isolatd": True}, "did you mean 'isolated'"),
    ],
)
def test_what_is_refused_at_import(options: dict[str, Any], words: str) -> None:
    with pytest.raises(DeclarationError) as refused:
        isolation_of(**options)
    assert words in str(refused.value)


@pytest.mark.parametrize("memory", [16 * 1024**2, 1024**5])
def test_bounds_of_memory(memory: int) -> None:
    assert isolation_of(isolated=True, max_memory=memory) == Isolation(max_memory=memory)
