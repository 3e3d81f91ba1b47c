"""The type hints of a declared function, resolved; or an error that says why they cannot be."""

from __future__ import annotations

import sys
import typing
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from duly.errors import DeclarationError


def declaring_frame() -> FrameType | None:
    """The frame of the user's code that is declaring a task right now: the nearest outside of Duly."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - what inspect.currentframe() returns
    while frame is not None and _belongs_to_duly(frame):
        frame = frame.f_back
    return frame


def hints_of(function: Callable[..., Any], what: str, frame: FrameType | None) -> dict[str, Any]:
    """The hints of *function*, ``Annotated`` kept. *what* names the task in messages.

    With ``from __future__ import annotations`` hints are texts, and those that name something local
    to the function around a task are found only there: in the frames of that function, which are
    still running while they declare it.
    """
    try:
        return typing.get_type_hints(function, localns=_locals_around(function, frame), include_extras=True)
    except NameError as fault:
        name = fault.name or str(fault)
        raise DeclarationError(
            f"{what}: the type hint {name!r}{_place_of(name, function)} is not there at run time. "
            f"Duly reads hints when the task is declared, so import {name!r} outside of "
            "`if TYPE_CHECKING:`, and define it above the task"
        ) from None
    except Exception as fault:
        raise DeclarationError(f"{what}: its type hints cannot be read: {fault}") from fault


def _place_of(name: str, function: Callable[..., Any]) -> str:
    for place, text in getattr(function, "__annotations__", {}).items():
        if name in str(text):
            return " of the result" if place == "return" else f" of {place!r}"
    return ""


def _belongs_to_duly(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith("duly.")


def _locals_around(function: Callable[..., Any], frame: FrameType | None) -> dict[str, Any] | None:
    """What is local to the functions around *function*; None when there are none, as in most modules.

    The result of a function's scope never shadows a name of another scope: a frame counts only if
    the task's qualified name says that it was defined inside.
    """
    if "<locals>" not in function.__qualname__:
        return None
    found: dict[str, Any] = {}
    for around in _callers(frame):
        scope = f"{around.f_code.co_qualname}.<locals>."
        same_module = around.f_globals.get("__name__") == function.__module__
        if same_module and function.__qualname__.startswith(scope):
            found = {**around.f_locals, **found}  # the inner scope is met first, and wins
    return found


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
