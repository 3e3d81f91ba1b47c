"""A database that the application named, and the copies that are made of it. It is only ever read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BASE = "base"
"""The first copy, of which all others are made."""


@dataclass(frozen=True, slots=True)
class TableRows:
    """One table of a copy, with all its rows."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    """The columns of its primary key."""
    drawn: frozenset[str]
    """Columns whose values the database draws by itself: identities, sequences, random ids."""
    references: Mapping[str, tuple[str, str]]
    """Columns that refer to another table's: to which column of which."""
    rows: Iterator[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a driver is given to connect with."""

    positional: tuple[Any, ...]
    named: Mapping[str, Any] = field(hash=False)


class Source(ABC):
    """One real database; a *copy* of it is named by a word: ``base``, or the number of a world."""

    identity: tuple[str, ...]
    """What tells it from all others, however a URL spells it."""

    def __init__(self, number: int, given: Arguments, folder: Path) -> None:
        self.number = number
        self.given = given
        self.folder = folder

    @property
    @abstractmethod
    def label(self) -> str:
        """What people call it: the file's name, the database's name."""

    @abstractmethod
    def make_base(self) -> None:
        """Copy the real database; ``CannotTell`` says why it cannot be copied."""

    @abstractmethod
    def make(self, copy: str) -> None:
        """Copy the base."""

    @abstractmethod
    def remove(self, copy: str) -> None:
        """Remove a copy, whether it is there or not."""

    @abstractmethod
    def aim(self, copy: str, positional: list[Any], named: dict[str, Any]) -> None:
        """Change what a driver is given so that it connects to *copy*."""

    def confine(self, connection: Any) -> None:  # noqa: B027 - not all drivers know how
        """Let a new connection of the driver's, to a copy, reach no other database, where the driver knows how."""

    @abstractmethod
    def tables(self, copy: str) -> Iterator[TableRows]:
        """All tables of *copy*, without those of the database system. Take each one's rows before the next."""

    def strays(self, statement: str) -> str | None:  # noqa: ARG002
        """Where *statement* would reach another database than the copy, in a few words; None where it does not."""
        return None
