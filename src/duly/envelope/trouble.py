"""Trouble: what an attempt ended with, as text that can be stored and shown to who may see it."""

from __future__ import annotations

import json
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from duly.errors import ArgumentsMisfit

LONGEST_TYPE, LONGEST_MESSAGE, LONGEST_TRACEBACK = 200, 2_000, 16_000
_OURS = str(Path(__file__).parents[1]) + "/"


@dataclass(frozen=True, slots=True)
class Trouble:
    """An exception as text: its qualified class name, its message, its traceback with its causes.

    Messages may hold what the task worked on, so a trouble is sealed like arguments are.
    """

    type: str
    message: str
    traceback: str

    @classmethod
    def of(cls, exc: BaseException) -> Trouble:
        """What *exc* says, cut to 2,000 and 16,000 characters; never raises for an exception that is broken.

        Local variables are never included (they hold arguments), and the frames of Duly that called
        the task are left out.
        """
        return cls(
            _name(type(exc))[:LONGEST_TYPE],
            _cut(_message(exc), LONGEST_MESSAGE),
            _cut(_traceback(exc), LONGEST_TRACEBACK),
        )

    def dump(self) -> bytes:
        """A JSON object in ASCII, so that lone surrogates are only ever escaped."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def load(cls, body: bytes) -> Trouble:
        """What ``dump`` made; ``ArgumentsMisfit`` for anything else."""
        try:
            parts = json.loads(body)
            fields = [parts[name] for name in ("type", "message", "traceback")]
        except (ValueError, TypeError, KeyError, IndexError, RecursionError):
            fields = []
        if not fields or not all(isinstance(field, str) for field in fields):
            raise ArgumentsMisfit("these bytes are not an error as Duly writes it: another release made them")
        return cls(*fields)


def _name(kind: type[BaseException]) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _message(exc: BaseException) -> str:
    try:
        return str(exc)
    except BaseException as broken:  # noqa: BLE001 - the task's exception class may do anything
        return f"(its message cannot be shown: __str__ raised {_name(type(broken))})"


def _traceback(exc: BaseException) -> str:
    try:
        whole = traceback.TracebackException(type(exc), exc, _without_ours(exc.__traceback__), compact=True)
        return "".join(whole.format())
    except BaseException as broken:  # noqa: BLE001 - as above: notes, causes and attributes may be broken too
        return f"(its traceback cannot be shown: {_name(type(broken))})"


def _without_ours(tb: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame that is not Duly's; all of it when every frame is."""
    first = tb
    while first is not None and first.tb_frame.f_code.co_filename.startswith(_OURS):
        first = first.tb_next
    return first or tb


def _cut(text: str, longest: int) -> str:
    """*text*, its middle replaced by a mark when it is longer than allowed: both ends tell most."""
    if len(text) <= longest:
        return text
    mark = f"\n… {len(text) - longest} characters or more left out …\n"
    head = (longest - len(mark)) // 2
    return text[:head] + mark + text[len(text) - (longest - len(mark) - head) :]
