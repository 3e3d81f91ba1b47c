"""What an isolated task may use: limits on the process of its own that each of its jobs gets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from duly.model.options import seconds

LEAST_MEMORY, MOST_MEMORY = 16 * 1024**2, 1024**5
LEAST_CPU = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Isolation:
    """The limits of one isolated task; None where there is none."""

    max_memory: int | None = None
    """Bytes on top of what the application takes by itself."""
    max_cpu: timedelta | None = None
    """Processor time, in whole seconds."""

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Isolation | None:
        """What a declaration said; None where a task is not isolated. ``TypeError`` or ``ValueError`` for nonsense."""
        isolated = given.get("isolated", False)
        if not isinstance(isolated, bool):
            raise TypeError(f"isolated= must be a bool, not {isolated!r}")
        memory, cpu = given.get("max_memory"), given.get("max_cpu")
        for name, value in (("max_memory", memory), ("max_cpu", cpu)):
            if value is not None and not isolated:
                raise ValueError(
                    f"{name}= limits the process of an isolated task: add isolated=True, or drop it"
                )
        if not isolated:
            return None
        return cls(None if memory is None else _bytes(memory), None if cpu is None else _whole_seconds(cpu))


def _bytes(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"max_memory= must be a whole number of bytes, not {value!r}")
    if not LEAST_MEMORY <= value <= MOST_MEMORY:
        raise ValueError(
            f"max_memory= is in bytes, and must be from {LEAST_MEMORY} to {MOST_MEMORY}, not {value}"
        )
    return value


def _whole_seconds(value: object) -> timedelta:
    """Rounded up: the operating system counts no finer."""
    span = seconds("max_cpu", value)
    if span < LEAST_CPU:
        raise ValueError(f"max_cpu= must be at least {LEAST_CPU.total_seconds():g} s, not {value!r}")
    return timedelta(seconds=math.ceil(span.total_seconds()))
