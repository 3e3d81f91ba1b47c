"""What is in a world after a run, as far as it differs from what was there before: rows and files."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, time
from functools import cached_property
from typing import Any

from duly.proof.files import Content
from duly.store.copies import Redirection, TableRows
from duly.store.copies.source import BASE

NEW = "(new)"
"""Stands for a value that the database has drawn: which one it is depends on what was drawn and rolled back before."""
_LONGEST_BYTES = 64
Values = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One row: what is in it, and what of it is compared."""

    values: Values
    compared: Values


@dataclass(frozen=True, slots=True)
class Table:
    """What became of a table: the rows that came, and those that went. A changed row did both."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    came: tuple[Row, ...]
    went: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a run has left."""

    tables: Mapping[tuple[str, str], Table] = field(default_factory=dict)
    """By the name of the database, and that of the table. Those as they were are not in it."""
    files: Mapping[str, Content | None] = field(default_factory=dict)
    """Those that are not as they were; None: it is gone."""


class Base:
    """All rows as they were before any run, each table read when it is first needed."""

    def __init__(self, redirection: Redirection) -> None:
        self._redirection = redirection
        self._known: dict[tuple[str, str], _Known] = {}
        self._read: set[str] = set()
        self.ours: frozenset[str] = frozenset()
        """Which tables are Duly's own: they are not compared."""

    def beside(self, copy: str, files: Mapping[str, Content | None]) -> Snapshot:
        """What is in *copy* and not here, and the other way round."""
        return Snapshot({(label, table.name): table for label, table in self._tables(copy)}, files)

    def _tables(self, copy: str) -> Iterator[tuple[str, Table]]:
        for source in self._redirection.sources:
            label = self._label(source.number)
            if label not in self._read:
                self._read.add(label)
                for rows in source.tables(BASE):
                    if rows.name not in self.ours:
                        self._known[label, rows.name] = _Known.of(rows)
            for rows in source.tables(copy):
                if rows.name not in self.ours and (table := self._compare(label, rows)):
                    yield label, table

    def _label(self, number: int) -> str:
        """The database's name, with its number where another has the same."""
        labels = [source.label for source in self._redirection.sources]
        label = labels[number]
        return label if labels.count(label) == 1 else f"{label} ({number + 1})"

    def _compare(self, label: str, rows: TableRows) -> Table | None:
        known = self._known.get((label, rows.name)) or _Known(rows.columns, rows.key)
        now = Counter(tuple(map(shown, row)) for row in rows.rows)
        came, went = now - known.rows, known.rows - now
        if not came and not went:
            return None
        drawn = self._drawn(label, rows)

        def row(values: Values) -> Row:
            told = zip(rows.columns, values, strict=True)
            return Row(values, tuple(NEW if is_drawn(drawn, *pair) else pair[1] for pair in told))

        return Table(
            name=rows.name,
            columns=rows.columns,
            key=rows.key,
            came=tuple(row(values) for values in sorted(came.elements())),
            went=tuple(Row(values, values) for values in sorted(went.elements())),
        )

    def _drawn(self, label: str, rows: TableRows) -> dict[str, frozenset[str]]:
        """Columns that hold drawn values, their own or another table's, with those that were there before."""
        found = {column: self._before(label, rows.name, column) for column in rows.drawn}
        for column, (table, there) in rows.references.items():
            known = self._known.get((label, table))
            if known is not None:
                target = there or (known.key[0] if known.key else "")
                if target in known.drawn:
                    found[column] = self._before(label, table, target)
        return found

    def _before(self, label: str, table: str, column: str) -> frozenset[str]:
        known = self._known.get((label, table))
        return known.values(column) if known is not None and column in known.columns else frozenset()


@dataclass
class _Known:
    """A table of the base."""

    columns: tuple[str, ...]
    key: tuple[str, ...]
    drawn: frozenset[str] = frozenset()
    rows: Counter[Values] = field(default_factory=Counter)

    @classmethod
    def of(cls, table: TableRows) -> _Known:
        rows = Counter(tuple(map(shown, row)) for row in table.rows)
        return cls(table.columns, table.key, table.drawn, rows)

    @cached_property
    def _values(self) -> dict[str, frozenset[str]]:
        return {}

    def values(self, column: str) -> frozenset[str]:
        place = self.columns.index(column)
        if column not in self._values:
            self._values[column] = frozenset(row[place] for row in self.rows)
        return self._values[column]


def is_drawn(drawn: Mapping[str, frozenset[str]], column: str, value: str) -> bool:
    """Whether the database has drawn this value during the run."""
    return column in drawn and value != "NULL" and value not in drawn[column]


def shown(value: Any) -> str:  # noqa: PLR0911 - one a kind
    """A value as people read it; equal exactly where the values are, whatever driver read them."""
    match value:
        case None:
            return "NULL"
        case str():
            return repr(value)
        case bytes() | bytearray() | memoryview():
            data = bytes(value)
            if len(data) <= _LONGEST_BYTES:
                return f"x'{data.hex()}'"
            return f"{len(data)} bytes, SHA-256 {hashlib.sha256(data).hexdigest()[:16]}…"
        case date() | time():
            return value.isoformat()
        case dict() | list():
            return json.dumps(value, sort_keys=True, default=str)
    return str(value)
