"""Whoever connects past SQLAlchemy cannot be turned to a copy, and is refused before he touches the real database.

SQLite is seen through Python's audit hooks, which name the file. The other drivers are wrapped where each of
their ways to connect comes by.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Any

with suppress(ImportError):
    import psycopg  # noqa: F401
with suppress(ImportError):
    import pymysql.connections  # type: ignore[import-untyped, import-not-found, unused-ignore]  # noqa: F401
with suppress(ImportError):
    import asyncpg.connect_utils  # type: ignore[import-untyped, import-not-found, unused-ignore]  # noqa: F401
with suppress(ImportError):
    import psycopg2  # type: ignore[import-untyped, import-not-found, unused-ignore]  # noqa: F401
with suppress(ImportError):
    import MySQLdb.connections  # type: ignore[import-untyped, import-not-found, unused-ignore]  # noqa: F401

_PASSAGES = (
    ("psycopg", "BaseConnection", "_connect_gen"),
    ("pymysql.connections", "Connection", "connect"),
    ("asyncpg.connect_utils", "", "_connect"),
    ("psycopg2", "", "_connect"),
    ("MySQLdb.connections", "Connection", "__init__"),
)
"""Through which all connections of a driver come."""
_ALLOWED: ContextVar[bool] = ContextVar("duly_connecting", default=False)
_NOT_THE_APPLICATIONS = tuple(
    {
        str(Path(__file__).parents[2]) + os.sep,
        *(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    }
)


def connecting() -> bool:
    """Whether a redirected connection is being made here and now."""
    return _ALLOWED.get()


@contextmanager
def allowed() -> Iterator[None]:
    """What connects within the block is ours, or was turned to a copy."""
    token = _ALLOWED.set(True)
    try:
        yield
    finally:
        _ALLOWED.reset(token)


class Guards:
    """Watch over the drivers; connections to what lies in *folder* pass."""

    def __init__(self, folder: Path, refuse: Callable[[str], Exception]) -> None:
        self._folder = str(folder)
        self._refuse = refuse
        self._unwrapped: list[tuple[Any, str, Any]] = []

    def install(self) -> None:
        """From here on they are refused."""
        _Hook.serve(self)
        for module, name, passage in _PASSAGES:
            if module in sys.modules:
                holder = getattr(sys.modules[module], name) if name else sys.modules[module]
                self._wrap(holder, passage, module.partition(".")[0])

    def remove(self) -> None:
        """As it was before."""
        _Hook.guards.remove(self)
        while self._unwrapped:
            holder, name, original = self._unwrapped.pop()
            setattr(holder, name, original)

    def _wrap(self, holder: Any, name: str, driver: str) -> None:
        original = vars(holder).get(name)
        if original is None:
            return
        called = getattr(original, "__func__", original)

        @wraps(called)
        def guarded(*arguments: Any, **named: Any) -> Any:
            if not connecting():
                raise self._refuse(f"a connection was made by {driver}, past SQLAlchemy")
            return called(*arguments, **named)

        self._unwrapped.append((holder, name, original))
        setattr(holder, name, classmethod(guarded) if isinstance(original, classmethod) else guarded)

    def see_sqlite(self, database: Any) -> None:
        """Somebody opens this file."""
        if connecting() or not isinstance(database, str | bytes | os.PathLike):
            return
        words = os.fsdecode(database)
        path = words.removeprefix("file:").partition("?")[0]
        if path in {"", ":memory:"} or "mode=memory" in words or path.startswith(self._folder):
            return
        raise self._refuse(f"{Path(path).name} was opened by sqlite3, past SQLAlchemy")


class _Hook:
    """Python takes an audit hook for good: ours does nothing while nobody guards."""

    guards: list[Guards] = []  # noqa: RUF012 - the process has one
    installed = False

    @classmethod
    def serve(cls, guards: Guards) -> None:
        cls.guards.append(guards)
        if not cls.installed:
            sys.addaudithook(cls.hear)
            cls.installed = True

    @classmethod
    def hear(cls, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "sqlite3.connect":
            for guards in tuple(cls.guards):
                guards.see_sqlite(arguments[0])


def line_of_the_application() -> str | None:
    """The innermost line, as ``file:line``, that is neither Duly's nor a library's."""
    for frame, line in traceback.walk_stack(None):
        file = frame.f_code.co_filename
        if not file.startswith((*_NOT_THE_APPLICATIONS, "<")):
            return f"{os.path.relpath(file)}:{line}"
    return None
