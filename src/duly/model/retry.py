"""When the next attempt comes: ``n**4 + 5`` seconds, delayed_job's rule, unless told otherwise."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Backoff:
    """The wait after failed attempt *n*: ``factor * n**power + plus`` seconds, at most ``cap``.

    ``jitter`` spreads the waits: 0.1 makes each one longer or shorter by up to a tenth, at random.
    The default gives 6 s, 21 s, 86 s, 261 s … and 3.8 days after the 24th.
    """

    power: float = 4.0
    plus: float = 5.0
    factor: float = 1.0
    jitter: float = 0.0
    cap: float | None = None

    def __post_init__(self) -> None:
        for name in ("power", "plus", "factor"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(
                    f"Backoff({name}=…) must be a number of at least 0, not {getattr(self, name)!r}"
                )
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"Backoff(jitter=…) must be between 0 and 1, not {self.jitter!r}")
        if self.cap is not None and not 0 < self.cap < float("inf"):
            raise ValueError(f"Backoff(cap=…) must be a number of seconds above 0, not {self.cap!r}")

    @classmethod
    def fixed(cls, seconds: float, *, jitter: float = 0.0) -> Backoff:
        """The same wait after every attempt, in seconds."""
        return cls(power=0, factor=0, plus=seconds, jitter=jitter)

    def delay(self, attempt: int) -> timedelta:
        """How long to wait after the given failed attempt, counted from 1."""
        try:
            seconds = self.factor * float(attempt) ** self.power + self.plus
        except OverflowError:
            seconds = float("inf")
        if self.cap is not None:
            seconds = min(seconds, self.cap)
        if self.jitter:
            seconds *= 1 + self.jitter * random.uniform(-1, 1)  # noqa: S311 - spreads load, guards nothing
        return timedelta(seconds=min(seconds, _LONGEST))


_LONGEST = timedelta(days=3650).total_seconds()
