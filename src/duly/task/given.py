"""``given``: the default of parameters that Duly fills in when a worker runs the task."""

from __future__ import annotations

from typing import Any, NoReturn


class _Given:
    """The one instance is ``given``. Using it as if it were the real thing says what it is instead."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "given"

    def __reduce__(self) -> str:
        return "given"  # copies and pickles are the one instance

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"{name!r} was asked of a parameter that Duly gives when a worker runs the task; "
            "whoever calls the function directly passes it"
        )


given: Any = _Given()
"""Write ``ctx: Context = given``: Duly fills the parameter, and type checkers let callers leave it out."""
