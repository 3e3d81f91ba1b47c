"""Everything SQL. Opens no envelopes."""

from __future__ import annotations

from duly.store.engines import make_engine
from duly.store.migrate import migrate
from duly.store.schema import Names
from duly.store.store import Store

__all__ = ["Names", "Store", "make_engine", "migrate"]
