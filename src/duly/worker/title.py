"""What ``ps`` shows of a process."""

from __future__ import annotations

from contextlib import suppress


def set_title(words: str) -> None:
    """``duly: …``, where setproctitle is installed (``pip install 'duly[work]'``)."""
    with suppress(ImportError):
        from setproctitle import setproctitle

        setproctitle(f"duly: {words}")
