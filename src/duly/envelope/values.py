"""Values: what a task returned, written and read like arguments are. The body is ``{"v":1,"r":…}``."""

from __future__ import annotations

import inspect
from typing import Any

from duly.envelope.arguments import declared
from duly.envelope.codec import Codec, Limits
from duly.envelope.shape import why_unfit
from duly.errors import DeclarationError


class Value:
    """A result of a declared type. *name* is the task's, for messages; no hint means Any.

    Raises ``DeclarationError`` when the type cannot be stored.
    """

    def __init__(self, name: str, hint: Any) -> None:
        self.name = name
        kind = declared(hint)
        why = why_unfit(kind)
        if why:
            raise DeclarationError(f"{name}: its result ({inspect.formatannotation(kind)}) {why}")
        self._codec = Codec(name, "the result", "r", kind)

    def dump(self, value: Any, limits: Limits) -> bytes:
        """The body of a result; ``InvalidArguments`` when it would not come back the same."""
        return self._codec.write(value, {}, limits)

    def load(self, body: bytes) -> Any:
        """The result in a body; ``ArgumentsMisfit`` when it does not fit the declared type."""
        return self._codec.read(body)["r"]
