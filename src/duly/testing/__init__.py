"""What tests of an application use: ``from duly.testing import prove``."""

from __future__ import annotations

from duly.testing.proving import prove

__all__ = ["prove"]
