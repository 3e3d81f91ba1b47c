"""What a worker and the cell of an isolated job say to each other: JSON, spelt out field by field.

A message is the length of its body in four bytes, and the body: an object with the name of its kind and
its fields. Only the kinds named here are read, and each field must be of its type.
"""

from __future__ import annotations

import base64
import json
import socket
import types
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from duly.model.job import ClaimedJob
from duly.model.report import Died, Ended, Lost, PutBack, Recorded, Released, Report, Succeeded
from duly.model.states import Outcome
from duly.task.context import Stop

_LENGTH = 4
_SOME = 65_536


class Garbled(ValueError):
    """What came is no message."""


@dataclass(frozen=True, slots=True)
class Order:
    """To the cell, first: run this job. *now* is the database's time."""

    job: ClaimedJob
    worker: str
    now: datetime


@dataclass(frozen=True, slots=True)
class StopAsked:
    """To the cell: the attempt should stop."""

    reason: Stop


@dataclass(frozen=True, slots=True)
class Began:
    """From the cell: the task's own code begins; the attempt counts from *at*."""

    at: datetime


@dataclass(frozen=True, slots=True)
class Returned:
    """From the cell: the task's own code is over, and what is left is Duly's."""


Message = Order | StopAsked | Began | Returned | Report

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        Order, StopAsked, Began, Returned, ClaimedJob,
        Succeeded, Ended, PutBack, Died, Released, Recorded, Lost,
    )
}  # fmt: skip

_WRITERS: dict[type[Any], Callable[[Any], Any]] = {
    UUID: lambda value: value.hex,
    datetime: lambda value: value.isoformat(),
    timedelta: lambda value: [value.days, value.seconds, value.microseconds],
    bytes: lambda value: base64.b64encode(value).decode(),
    Outcome: lambda value: value.value,
    Stop: lambda value: value.value,
    ClaimedJob: lambda value: _written(value),  # noqa: PLW0108 - defined below
}
_READERS: dict[type[Any], Callable[[Any], Any]] = {
    UUID: UUID,
    datetime: datetime.fromisoformat,
    timedelta: lambda value: timedelta(*value),
    bytes: lambda value: base64.b64decode(value, validate=True),
    Outcome: Outcome,
    Stop: Stop,
    ClaimedJob: lambda value: _read(value, ClaimedJob),
}


def encode(message: Message) -> bytes:
    """The body of a message."""
    return json.dumps(_written(message)).encode()


def decode(body: bytes) -> Message:
    """The message; ``Garbled`` when it is none."""
    try:
        said = json.loads(body)
        message: Message = _read(said, _KINDS[said["kind"]])
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as fault:
        raise Garbled(f"no message: {type(fault).__name__}") from fault
    return message


def _written(thing: Any) -> dict[str, Any]:
    said: dict[str, Any] = {"kind": type(thing).__name__}
    for name in _TYPES[type(thing)]:
        value = getattr(thing, name)
        if isinstance(value, ClaimedJob):
            said[name] = _written(value)
        else:
            said[name] = _WRITERS.get(type(value), _as_it_is)(value)
    return said


def _read(said: dict[str, Any], kind: type[Any]) -> Any:
    values = {name: _value(said[name], types) for name, types in _TYPES[kind].items()}
    return kind(**values)


def _value(said: Any, types: tuple[type[Any], ...]) -> Any:
    if said is None:
        value = None
    else:
        reader = next((_READERS[kind] for kind in types if kind in _READERS), _as_it_is)
        value = reader(said)
    if type(value) not in types:
        raise TypeError(type(value).__name__)
    return value


def _as_it_is(value: Any) -> Any:
    return value


def _alternatives(hint: Any) -> tuple[type[Any], ...]:
    """``bytes | None`` → ``(bytes, NoneType)``."""
    return get_args(hint) if get_origin(hint) in {Union, types.UnionType} else (hint,)


_TYPES = {
    kind: {name: _alternatives(hint) for name, hint in get_type_hints(kind).items()}
    for kind in _KINDS.values()
}


class Wire:
    """One end of the line between a worker and a cell."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._unread = b""

    def fileno(self) -> int:
        """What a selector waits on."""
        return self._end.fileno()

    def say(self, message: Message) -> None:
        """Send a message; ``OSError`` when the other end is gone or does not listen in time."""
        body = encode(message)
        self._end.sendall(len(body).to_bytes(_LENGTH) + body)

    def hear(self, *, wait: bool = True) -> list[Message] | None:
        """What has come since the last time, or comes next; None when nothing will come any more."""
        try:
            some = self._end.recv(_SOME, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not some:
            return None
        self._unread += some
        messages = []
        while (body := self._next_body()) is not None:
            messages.append(decode(body))
        return messages

    def _next_body(self) -> bytes | None:
        if len(self._unread) < _LENGTH:
            return None
        end = _LENGTH + int.from_bytes(self._unread[:_LENGTH])
        if len(self._unread) < end:
            return None
        body, self._unread = self._unread[_LENGTH:end], self._unread[end:]
        return body

    def close(self) -> None:
        """Hang up: shut down, so that copies of this end in other processes keep nothing open."""
        try:
            self._end.shutdown(socket.SHUT_RDWR)
        except OSError:  # the other end was quicker
            pass
        finally:
            self._end.close()
