"""The black box: which jobs a worker process has started, in memory that outlives the process.

The supervisor makes one for each worker process before it forks, and reads it when the process has
died by itself: only the jobs that had started can have killed it.
"""

from __future__ import annotations

import mmap
from uuid import UUID

from duly.model.job import ClaimedJob

_SLOT = 24
_NOTHING = bytes(_SLOT)


class BlackBox:
    """A slot for each job that a worker process may run at a time: the job's id and claim number, or nothing."""

    def __init__(self, slots: int) -> None:
        self._memory = mmap.mmap(-1, slots * _SLOT)

    def enter(self, slot: int, job: ClaimedJob) -> None:
        """Note that a job starts."""
        self._memory[slot * _SLOT : (slot + 1) * _SLOT] = (job.id.int << 64 | job.claim).to_bytes(_SLOT)

    def leave(self, slot: int) -> None:
        """Note that it is over."""
        self._memory[slot * _SLOT : (slot + 1) * _SLOT] = _NOTHING

    def read(self) -> dict[UUID, int]:
        """The jobs that had started and were not over, with their claim numbers.

        A process that dies in the middle of an entry leaves an id or claim that no row has.
        """
        slots = (self._memory[at : at + _SLOT] for at in range(0, len(self._memory), _SLOT))
        return {UUID(bytes=slot[:16]): int.from_bytes(slot[16:]) for slot in slots if slot != _NOTHING}

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()
