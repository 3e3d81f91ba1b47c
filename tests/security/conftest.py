"""A stage on each database, for rows that somebody changes past Duly."""

from __future__ import annotations

from tests.worker.conftest import sqlite, stage

__all__ = ["sqlite", "stage"]
