"""How a task's options are said in the words of a document: 90 days, each after 10 seconds."""

from __future__ import annotations

from datetime import datetime, timedelta

from duly.model.retry import Backoff

_UNITS = (("day", 86_400), ("hour", 3_600), ("minute", 60))


def span(length: timedelta) -> str:
    """A duration in its largest unit that says it exactly: ``36 hours``, ``90 seconds``."""
    seconds = length.total_seconds()
    for unit, size in _UNITS:
        if seconds and seconds % size == 0:
            return _many(seconds / size, unit)
    return _many(seconds, "second")


def expiry(rule: datetime | timedelta) -> str:
    """When jobs expire."""
    return f"{rule:%Y-%m-%d %H:%M} UTC" if isinstance(rule, datetime) else f"{span(rule)} after `run_at`"


def waits(rule: Backoff) -> str:
    """How long the waits between attempts are."""
    if not rule.factor or not rule.power:
        said = f"each after {span(timedelta(seconds=rule.factor + rule.plus))}"
    else:
        factor = "" if rule.factor == 1 else f"{rule.factor:g} * "
        said = f"after `{factor}n**{rule.power:g} + {rule.plus:g}` seconds"
    cap = "" if rule.cap is None else f", at most {span(timedelta(seconds=rule.cap))}"
    jitter = f", give or take {rule.jitter:.0%}" if rule.jitter else ""
    return said + cap + jitter


def _many(number: float, unit: str) -> str:
    return f"{number:g} {unit}{'' if number == 1 else 's'}"
