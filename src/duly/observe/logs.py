"""Events as log records of the standard library, on the logger ``duly``.

One event is one line: ``event=job_retried id=… task=… attempt=2 error=ValueError wait=21s``. Events carry
no arguments, and so neither do the records. As JSON the same keys stand in one object a line, and
durations are seconds.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TextIO

from duly.model.events import (
    ChildDied,
    DatabaseFound,
    DatabaseLost,
    Emitter,
    Event,
    JobDied,
    JobEnded,
    JobPutBack,
    JobRetried,
    JobSuspected,
    LeaseWasLost,
    Notice,
    Rescued,
    SecurityAlert,
)
from duly.observe.durations import duration
from duly.observe.text import one_line, value

LogFormat = Literal["text", "json"]

LOGGER = logging.getLogger("duly")

_LEVELS: dict[type[Event], int] = {
    JobRetried: logging.WARNING,
    JobDied: logging.WARNING,
    JobSuspected: logging.WARNING,
    LeaseWasLost: logging.WARNING,
    Rescued: logging.WARNING,
    DatabaseFound: logging.WARNING,
    DatabaseLost: logging.ERROR,
    ChildDied: logging.ERROR,
    SecurityAlert: logging.ERROR,
}
_OUTCOMES = {
    "failed": logging.ERROR,
    "uncertain": logging.ERROR,
    "rejected": logging.ERROR,
    "expired": logging.WARNING,
    "cancelled": logging.INFO,
}
_DURATIONS = {"seconds": "took", "gap": "gap"}
"""Fields that are seconds, and what they are called in a log."""


def subscribe(emitter: Emitter, *, successes: bool = False) -> None:
    """Log every event of *emitter* from now on; each success, at info, only where *successes* asks for it."""
    emitter.subscribe(Subscriber(successes=successes), successes=successes)


class Subscriber:
    """Turns an event into one record on the logger ``duly``."""

    def __init__(self, *, successes: bool) -> None:
        self._success = logging.INFO if successes else logging.DEBUG

    def __call__(self, event: Event) -> None:
        """Log it, when its level is enabled."""
        level = self._level(event)
        if LOGGER.isEnabledFor(level):
            facts = {"event": _name(event), **dict(_facts(event))}
            LOGGER.log(level, "%s", pairs(facts), extra={"facts": facts})

    def _level(self, event: Event) -> int:
        match event:
            case Notice(level=word):
                return logging.getLevelNamesMapping().get(word.upper(), logging.WARNING)
            case JobPutBack(problem=problem):
                return logging.WARNING if problem else logging.INFO
            case JobEnded(outcome=outcome):
                return _OUTCOMES.get(outcome, self._success)
        return _LEVELS.get(type(event), logging.INFO)


def pairs(facts: dict[str, Any]) -> str:
    """``key=value`` for each fact, on one line, whatever the values hold."""
    return " ".join(f"{key}={value(_readable(fact))}" for key, fact in facts.items())


class TextFormatter(logging.Formatter):
    """``2026-07-21T09:30:00.123Z warning [4711] event=…``; other loggers' records with their name before them."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and after it the traceback where there is one."""
        said = one_line(record.getMessage())
        name = "" if hasattr(record, "facts") else f"{one_line(record.name)}: "
        line = f"{_time(record)} {record.levelname.lower():7} [{record.process}] {name}{said}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``logger``, ``pid``, and the facts of the event.

    Records that are no events have ``message``, and ``exception`` where there is a traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON, in ASCII."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
        }
        facts: dict[str, Any] | None = getattr(record, "facts", None)
        if facts is None:
            line["message"] = record.getMessage()
        else:
            line |= {key: _plain(fact) for key, fact in facts.items() if key not in line}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def setup(format: LogFormat = "text", *, verbose: bool = False, stream: TextIO | None = None) -> None:  # noqa: A002
    """Logs of a program that has not set up its own: to stderr, Duly's from info on.

    The application's loggers come the same way, from warning on (from info on with *verbose*), unless
    it has given the root logger a handler itself.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    LOGGER.handlers = [handler]
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(handler)
        root.setLevel(logging.INFO if verbose else logging.WARNING)


# ── what an event says ────────────────────────────────────────────────────────────────────────


def _name(event: Event) -> str:
    """``JobEnded`` → ``job_ended``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()


def _facts(event: Event) -> Iterator[tuple[str, Any]]:
    """The fields that say something. An event's own details come last, and hide none of them."""
    own = {field.name: getattr(event, field.name) for field in fields(event)}
    details = own.pop("details", {})
    if isinstance(event, Notice):
        del own["level"]  # the record has it
    for name, fact in (own | {key: fact for key, fact in details.items() if key not in own}).items():
        if fact is not None:
            yield (_DURATIONS[name], timedelta(seconds=fact)) if name in _DURATIONS else (name, fact)


def _readable(fact: object) -> str:
    match fact:
        case timedelta():
            return duration(fact)
        case bool():
            return "yes" if fact else "no"
    return str(fact)


def _plain(fact: object) -> object:
    match fact:
        case timedelta():
            return round(fact.total_seconds(), 6)
        case None | bool() | int() | float():
            return fact
    return str(fact)


def _time(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
