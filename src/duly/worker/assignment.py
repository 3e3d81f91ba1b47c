"""What a worker process is started for, and how many of them there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from duly.errors import SettingsError
from duly.settings import Settings
from duly.worker.memory import resident
from duly.worker.queues import EVERYTHING, Selection

MOST_PROCESSES = 256


@dataclass(frozen=True, slots=True)
class Pool:
    """So many worker processes for these queues (names, and patterns that end in ``*``)."""

    queues: Sequence[str] = EVERYTHING
    processes: int = 1

    def __post_init__(self) -> None:
        """``SettingsError`` for what cannot be."""
        if isinstance(self.queues, str):
            raise SettingsError(
                f"a pool's queues are a list of names, not {self.queues!r}: Pool([{self.queues!r}])"
            )
        number = self.processes
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= MOST_PROCESSES:
            raise SettingsError(
                f"a pool has a whole number of processes from 1 to {MOST_PROCESSES}, not {number!r}"
            )
        Selection(self.queues)

    @classmethod
    def parse(cls, text: str) -> Pool:
        """``mail,reports:2``: queues and, after a colon, processes (else 1)."""
        queues, colon, processes = text.partition(":")
        names = [name.strip() for name in queues.split(",")]
        if colon and not processes.strip().isdecimal():
            raise SettingsError(
                f"pool {text!r}: after the colon stands the number of processes, as in mail,reports:2"
            )
        if names == [""]:
            raise SettingsError(f"pool {text!r}: which queues? write e.g. mail,reports:2, or '*:1' for all")
        return cls(tuple(names), int(processes) if colon else 1)


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one worker process does, for how long."""

    queues: Selection
    threads: int
    coroutines: int
    grace: float
    """Seconds that running jobs have when the supervisor is gone."""
    until_empty: bool = False
    suspects: bool = False
    """It runs suspects, one at a time, and nothing else."""
    max_jobs: int = 0
    """After so many it leaves; 0: never."""
    max_memory: int = 0
    """With more than so many MiB it leaves; 0: never."""

    @property
    def lanes(self) -> int:
        """How many jobs it may run at a time."""
        return self.threads + self.coroutines

    def of_suspects(self, queues: Selection) -> Assignment:
        """The same for the suspects of these queues: one lane of each kind, so that nobody runs beside them."""
        return replace(self, queues=queues, threads=1, coroutines=1, suspects=True)

    def __str__(self) -> str:
        return f"{self.queues} (suspects)" if self.suspects else str(self.queues)


def assign(settings: Settings, pools: Sequence[Pool], until_empty: bool) -> list[Assignment]:
    """One assignment for each worker process; ``SettingsError`` for what would have them leave at once."""
    if not pools:
        raise SettingsError("pools: name at least one, as in Pool(['mail'], 2)")
    if 0 < settings.max_memory < (now := resident()):
        raise SettingsError(
            f"max_memory: a worker has {now:.0f} MiB in memory before its first job, so {settings.max_memory} are "
            "too few"
        )
    return [
        Assignment(
            Selection(pool.queues),
            threads=settings.threads,
            coroutines=settings.coroutines,
            grace=settings.grace,
            until_empty=until_empty,
            max_jobs=settings.max_jobs,
            max_memory=settings.max_memory,
        )
        for pool in pools
        for _ in range(pool.processes)
    ]
