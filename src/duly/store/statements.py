"""What several statements share: states as the indexes name them, and how much goes into one statement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, literal_column

from duly.model.states import State

T = TypeVar("T")

BATCH = 500
"""Rows in one statement at the most."""

WAITING = ("available", "scheduled")
"""The waiting states, in the order in which the index on expires_at names them."""


def in_state(columns: Any, *words: str) -> ColumnElement[bool]:
    """Whether a job is in one of these states, said as the partial indexes say it.

    In words, not parameters: a prepared statement's generic plan, and SQLite, can use a partial index
    only where its condition stands in the statement.
    """
    literals: list[ColumnElement[str]] = [literal_column(f"'{State(word).value}'") for word in words]
    equal: ColumnElement[bool] = (
        columns.state == literals[0] if len(words) == 1 else columns.state.in_(literals)
    )
    return equal


def parts(ids: Sequence[T]) -> Iterable[Sequence[T]]:
    """Lists that fit into one statement on every database."""
    return (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))
