"""The command line: a thin face over app and manage. Nothing of them is imported before a command needs it."""

from __future__ import annotations

from duly.cli.program import main

__all__ = ["main"]
