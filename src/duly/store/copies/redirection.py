"""Every connection of this process goes to a copy: of SQLAlchemy's engines all, with literal URLs too.

1. SQLAlchemy tells us before it connects. A database that was not seen before is copied, into the *base*.
2. What the driver is given is changed, so that it connects to the copy that this process is in.
3. What connects past SQLAlchemy is refused, and so is a statement on a connection that was made before, or that
   would reach another database. Each refusal is noted, with the line: the prover cannot tell then.
"""

from __future__ import annotations

import fcntl
import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Dialect, Engine, event
from sqlalchemy.pool import ConnectionPoolEntry

from duly.errors import CannotTell
from duly.store.copies.guards import Guards, allowed, line_of_the_application
from duly.store.copies.source import BASE, Arguments, Source
from duly.store.copies.sqlite import SQLiteFile
from duly.store.schema import MYSQL

_MARK = "duly_copy"
_DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
"""What the others are copied by, where it is installed."""
_KINDS: dict[str, type[Source]] = {"sqlite": SQLiteFile}
with suppress(ModuleNotFoundError):
    from duly.store.copies.postgresql import PostgreSQLDatabase

    _KINDS["postgresql"] = PostgreSQLDatabase
with suppress(ModuleNotFoundError):
    from duly.store.copies.mysql import MySQLDatabase

    _KINDS |= dict.fromkeys(MYSQL, MySQLDatabase)


class Redirection:
    """The copies in *folder*, and the events that lead there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.copy = BASE
        """Where connections go."""
        self._used = False
        self._sources: list[Source] = []
        self._seen: dict[str, Source] = {}
        self._manifest = folder / "sources"
        self._notes = folder / "notes"
        self._guards = Guards(folder, self.refuse)

    # ── the redirection ───────────────────────────────────────────────────────────────────────

    def install(self) -> None:
        """From here on nothing connects to a real database, but to copy it."""
        for file in (self._manifest, self._notes):
            file.touch(mode=0o600)
        event.listen(Engine, "do_connect", self._connect)
        event.listen(Engine, "before_cursor_execute", self._look_at)
        self._guards.install()
        self._used = True
        self.leave_engines()

    def remove(self) -> None:
        """As it was before; the copies in *folder* go with it."""
        self.leave_engines()
        self._guards.remove()
        event.remove(Engine, "do_connect", self._connect)
        event.remove(Engine, "before_cursor_execute", self._look_at)

    def leave_engines(self) -> None:
        """Dispose of every engine of this process that may hold connections: its next one is new."""
        if self._used:
            for thing in gc.get_objects():
                if issubclass(type(thing), Engine) and not _in_memory(thing):
                    thing.dispose(close=not thing.dialect.is_async)
        self._used = False

    def _connect(
        self,
        dialect: Dialect,
        record: ConnectionPoolEntry | None,
        positional: list[Any],
        named: dict[str, Any],
    ) -> Any:
        """Connect to the copy. The application's own listeners come first: they may know the password."""
        for listener in dialect.dispatch.do_connect:
            if listener != self._connect:
                connection = listener(dialect, record, positional, named)
                if connection is not None:
                    return connection
        try:
            source = self._source(dialect, Arguments(tuple(positional), dict(named)))
        except CannotTell as error:
            raise self.refuse(str(error)) from error
        source.aim(self.copy, positional, named)
        self._used = True
        with allowed():
            connection = dialect.connect(*positional, **named)
        source.confine(connection)
        if record is not None:
            record.info[_MARK] = (self.copy, source)
        return connection

    def _look_at(
        self,
        connection: Connection,
        cursor: Any,  # noqa: ARG002
        statement: str,
        parameters: Any,  # noqa: ARG002
        context: Any,  # noqa: ARG002
        many: bool,  # noqa: ARG002
    ) -> None:
        mark = connection.info.get(_MARK)
        if mark is None:
            raise self.refuse("a database connection was used that had been open before the proof began")
        copy, source = mark
        if copy != self.copy:
            raise self.refuse(
                "a database connection is kept open since the import: no copy can take its place"
            )
        if strays := source.strays(statement):
            raise self.refuse(f"a statement would reach past the copy of {source.label}: {strays}")

    # ── what cannot be ────────────────────────────────────────────────────────────────────────

    def refuse(self, reason: str) -> CannotTell:
        """Note why the prover cannot tell, with the line at fault; the error to raise."""
        line = line_of_the_application()
        words = f"{reason} (at {line})" if line and line not in reason else reason
        with self._notes.open("a") as notes:
            notes.write(words.replace("\n", " ") + "\n")
        return CannotTell(words)

    @property
    def notes(self) -> list[str]:
        """Why the prover cannot tell, each reason once, from all processes."""
        return list(dict.fromkeys(self._notes.read_text().splitlines()))

    # ── copies ────────────────────────────────────────────────────────────────────────────────

    @property
    def sources(self) -> list[Source]:
        """The databases seen so far, by whatever process."""
        with self._alone():
            self._learn()
        return self._sources

    def make(self, copy: str) -> None:
        """Copy the base of every database."""
        for source in self.sources:
            source.make(copy)

    def discard(self, copy: str) -> None:
        """Remove what a server keeps under this name; one that does not answer keeps it."""
        for source in self.sources:
            with suppress(Exception):
                source.remove(copy)

    def _source(self, dialect: Dialect, given: Arguments) -> Source:
        """The database that these arguments name, seen before or not."""
        words = f"{dialect.name} {given.positional} {sorted(given.named.items(), key=str)}"
        if words not in self._seen:
            with self._alone():
                self._learn()
                self._seen[words] = self._known_or_new(dialect.name, given)
        return self._seen[words]

    def _known_or_new(self, kind: str, given: Arguments) -> Source:
        new = _made(kind, len(self._sources), given, self.folder)
        for source in self._sources:
            if source.identity == new.identity:
                return source
        try:
            new.make_base()
            if self.copy != BASE:
                new.make(self.copy)
        except BaseException:  # Ctrl-C above all: copying a large database takes its time
            with suppress(Exception):
                new.remove(BASE)
            raise
        named = {name: value for name, value in given.named.items() if isinstance(value, str | int)}
        with self._manifest.open("a") as manifest:
            manifest.write(json.dumps([kind, [str(word) for word in given.positional], named]) + "\n")
        self._learn()
        return self._sources[-1]

    def _learn(self) -> None:
        """Of databases that other processes have seen first."""
        lines = self._manifest.read_text().splitlines()
        for line in lines[len(self._sources) :]:
            kind, positional, named = json.loads(line)
            given = Arguments(tuple(positional), named)
            self._sources.append(_made(kind, len(self._sources), given, self.folder))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two processes of one world may see a database first, at once."""
        with self._manifest.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _in_memory(engine: Engine) -> bool:
    """Whether its data would go with its connection."""
    return engine.dialect.name == "sqlite" and "memory" in (engine.url.database or ":memory:")


def _made(kind: str, number: int, given: Arguments, folder: Path) -> Source:
    if kind not in _KINDS and kind in _DRIVERS:
        raise CannotTell(f"the prover copies {kind} through {_DRIVERS[kind]}, which is not installed here")
    if kind not in _KINDS:
        raise CannotTell(f"the prover copies SQLite, PostgreSQL, MySQL and MariaDB, not {kind}")
    with allowed():
        return _KINDS[kind](number, given, folder)
