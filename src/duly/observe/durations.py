"""Durations as people read them: ``12ms``, ``4m5s``, ``3d4h``."""

from __future__ import annotations

from datetime import timedelta

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


def duration(span: timedelta | float) -> str:
    """*span* (a number is seconds) in its two largest units; without spaces, so that it can be a log's value."""
    seconds = span.total_seconds() if isinstance(span, timedelta) else float(span)
    return f"-{_positive(-seconds)}" if seconds < 0 else _positive(seconds)


def _positive(seconds: float) -> str:
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g}ms" if seconds else "0s"
    if seconds < 59.95:
        return f"{seconds:.3g}s"
    whole = round(seconds)
    if whole < _HOUR:
        return _pair(whole, _MINUTE, "m", 1, "s")
    if whole < _DAY:
        return _pair(whole, _HOUR, "h", _MINUTE, "m")
    return _pair(whole, _DAY, "d", _HOUR, "h")


def _pair(whole: int, large: int, name: str, small: int, smaller: str) -> str:
    many, rest = divmod(whole, large)
    few = rest // small
    return f"{many}{name}{few}{smaller}" if few else f"{many}{name}"
