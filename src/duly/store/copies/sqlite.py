"""Copies of SQLite files, by SQLite's own backup."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from duly.errors import CannotTell
from duly.store.copies.guards import allowed
from duly.store.copies.source import BASE, Arguments, Source, TableRows

_WAL = b"\x02\x02"
_ATTACH = re.compile(r"\s*ATTACH\b", re.IGNORECASE)
_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite~_%' ESCAPE '~' ORDER BY name"


class SQLiteFile(Source):
    """A SQLite database in a file, which need not be there yet."""

    def __init__(self, number: int, given: Arguments, folder: Path) -> None:
        super().__init__(number, given, folder)
        found = file_of(given)
        if found is None:
            raise CannotTell("a SQLite database in memory is seen by one connection alone: name a file")
        self.file = found
        self.identity = (str(found.resolve()),)

    @property
    def label(self) -> str:
        """The file's name."""
        return self.file.name

    def place(self, copy: str) -> Path:
        """Where *copy* stands."""
        return self.folder / copy / f"{self.number}" / self.file.name

    def make_base(self) -> None:
        """Read the file; where it is not there, connections make it in the copy."""
        place = self.place(BASE)
        place.parent.mkdir(parents=True, exist_ok=True)
        if self.file.exists():
            _back_up(_address(self.file), place)

    def make(self, copy: str) -> None:
        """From the base, which may be open."""
        base, place = self.place(BASE), self.place(copy)
        place.parent.mkdir(parents=True, exist_ok=True)
        if base.exists():
            _back_up(f"file:{quote(str(base))}", place)

    def remove(self, copy: str) -> None:
        """The folder of a world goes as a whole."""

    def aim(self, copy: str, positional: list[Any], named: dict[str, Any]) -> None:
        """The same, with another file."""
        asked = str(positional[0]) if positional else str(named.get("database", ""))
        place = str(self.place(copy))
        if asked.startswith("file:") and named.get("uri"):
            place = f"file:{quote(place)}?{asked.partition('?')[2]}"
        if positional:
            positional[0] = place
        else:
            named["database"] = place

    def confine(self, connection: Any) -> None:
        """``ATTACH`` would open another file, also where no statement of SQLAlchemy's says so."""
        if isinstance(connection, sqlite3.Connection):
            connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)

    def tables(self, copy: str) -> Iterator[TableRows]:
        """As SQLite's own catalogue has them."""
        place = self.place(copy)
        if not place.exists():
            return
        with closing(sqlite3.connect(place)) as connection:
            for (name,) in connection.execute(_TABLES).fetchall():
                yield _table(connection, name)

    def strays(self, statement: str) -> str | None:
        """``ATTACH`` opens another file."""
        return "ATTACH opens another file" if _ATTACH.match(statement) else None


def file_of(given: Arguments) -> Path | None:
    """The file that these arguments name; None for a database in memory."""
    asked = str(given.positional[0] if given.positional else given.named.get("database", ""))
    if asked.startswith("file:") and given.named.get("uri"):
        path, _, query = asked.removeprefix("file:").partition("?")
        if "mode=memory" in query:
            return None
        asked = unquote(path.removeprefix("//"))
    return None if asked in {"", ":memory:"} else Path(asked).absolute()


def _address(file: Path) -> str:
    """How to read *file* without leaving a trace beside it.

    Whoever opens a file in WAL mode makes a -wal and a -shm file, unless they are there or he says that nobody writes.
    """
    with file.open("rb") as opened:
        in_wal = opened.read(20)[18:20] == _WAL
    alone = in_wal and not Path(f"{file}-wal").exists()
    return f"file:{quote(str(file))}?{'immutable=1' if alone else 'mode=ro'}"


def _back_up(address: str, place: Path) -> None:
    try:
        with (
            allowed(),
            closing(sqlite3.connect(address, uri=True)) as source,
            closing(sqlite3.connect(place)) as target,
        ):
            source.backup(target)
    except sqlite3.DatabaseError as error:
        raise CannotTell(f"the SQLite file cannot be copied ({error})") from error


def _table(connection: sqlite3.Connection, name: str) -> TableRows:
    quoted = '"' + name.replace('"', '""') + '"'
    columns = connection.execute(f"PRAGMA table_info({quoted})").fetchall()
    key = [column[1] for column in sorted(columns, key=lambda column: column[5]) if column[5]]
    types = {column[1]: column[2].upper() for column in columns}
    drawn = key if len(key) == 1 and types[key[0]] == "INTEGER" else []
    links = connection.execute(f"PRAGMA foreign_key_list({quoted})").fetchall()
    return TableRows(
        name=name,
        columns=tuple(column[1] for column in columns),
        key=tuple(key),
        drawn=frozenset(drawn),
        references={link[3]: (link[2], link[4] or "") for link in links},
        rows=iter(connection.execute(f"SELECT * FROM {quoted}")),  # noqa: S608 # nosec B608
    )
