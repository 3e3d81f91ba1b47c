"""Throw-away copies of the databases that an application speaks to, and the redirection of its connections."""

from __future__ import annotations

from duly.store.copies.guards import connecting
from duly.store.copies.redirection import Redirection
from duly.store.copies.source import TableRows

__all__ = ["Redirection", "TableRows", "connecting"]
