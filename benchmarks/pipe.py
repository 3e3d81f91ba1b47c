"""A pipe on which jobs say that they have started."""

from __future__ import annotations

import os
import select
from typing import Self

from benchmarks.ground import Unusable
from benchmarks.tasks import STARTED


class Pipe:
    """What ``bench.stamp`` writes to; workers inherit its end by the same number."""

    def __enter__(self) -> Self:
        self._reader, self.writer = os.pipe()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._reader)
        os.close(self.writer)

    def started(self, number: int, patience: float) -> float:
        """When job *number* started, in monotonic seconds; ``Unusable`` after so many seconds without it."""
        ready, _, _ = select.select([self._reader], [], [], patience)
        if not ready:
            raise Unusable(f"no worker started the job within {patience:g} s")
        told, moment = STARTED.unpack(os.read(self._reader, STARTED.size))
        if told != number:
            raise Unusable(f"job {told} started where {number} was due")
        return float(moment)
