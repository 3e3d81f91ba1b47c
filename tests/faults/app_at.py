"""``duly`` in a folder of its own, as a developer runs it; what ``HIDE`` names is not installed."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """``FOLDER COMMAND …``."""
    folder, *arguments = sys.argv[1:]
    os.chdir(folder)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.argv = ["duly", *arguments]
    if hidden := os.environ.get("HIDE"):
        sys.modules[hidden] = None  # type: ignore[assignment]
    from duly.cli import main as duly

    return duly()
