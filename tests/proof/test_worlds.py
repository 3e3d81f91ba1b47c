"""Copies of databases: what the application connects to goes there, and the real ones are never touched."""

from __future__ import annotations

import gc
import os
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine

from duly.errors import CannotTell
from duly.proof.snapshot import NEW
from duly.proof.world import World, Worlds
from duly.store.copies.mysql import MySQLDatabase
from duly.store.copies.postgresql import PostgreSQLDatabase
from duly.store.copies.redirection import Redirection
from duly.store.copies.sqlite import SQLiteFile
from tests.databases import Database

SERIAL = {
    "sqlite": "INTEGER PRIMARY KEY",
    "postgresql": "serial PRIMARY KEY",
    "mysql": "integer PRIMARY KEY AUTO_INCREMENT",
}
Dump = tuple[Any, ...]


def furnish(database: Database) -> None:
    """Two tables, one of which refers to the other, with a row each."""
    url = database.url
    with making(url) as engine, engine.begin() as connection:
        for table in ("items", "orders"):
            connection.execute(text(f"DROP TABLE IF EXISTS {table}"))
        serial = SERIAL[database.name]
        connection.execute(text(f"CREATE TABLE orders (id {serial}, name varchar(20) NOT NULL)"))
        refers = "order_id integer, FOREIGN KEY (order_id) REFERENCES orders (id)"
        connection.execute(text(f"CREATE TABLE items (id {serial}, {refers})"))
        connection.execute(text("INSERT INTO orders (name) VALUES ('ann')"))


@contextmanager
def making(url: str) -> Iterator[Engine]:
    engine = create_engine(url)
    yield engine
    engine.dispose()


def dump(database: Database) -> Dump:
    """All that is in the real database; of SQLite the bytes, and what lies beside the file."""
    if database.name == "sqlite":
        file = Path(database.address.removeprefix("sqlite:///"))
        return file.read_bytes(), sorted(path.name for path in file.parent.iterdir())
    with making(database.address) as engine, engine.connect() as connection:
        tables = "SELECT table_name FROM information_schema.tables WHERE table_schema IN ('public', :name) ORDER BY 1"
        names = connection.scalars(text(tables), {"name": engine.url.database}).all()
        rows = connection.execute(text("SELECT * FROM orders ORDER BY id")).all()
        return names, rows


def copies_left(database: Database, worlds: Worlds) -> list[Any]:
    """The databases on the server that these worlds have made."""
    if database.name == "sqlite":
        return []
    question = {"postgresql": "SELECT datname FROM pg_database", "mysql": "SHOW DATABASES"}[database.name]
    return [row for row in database.rows(question) if f"duly_proof_{worlds.folder.name[-8:]}" in row[0]]


def write(engine: Engine, name: str) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO orders (name) VALUES (:name)"), {"name": name})
        connection.execute(text("UPDATE orders SET name = 'bob' WHERE name = 'ann'"))


def names(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.scalars(text("SELECT name FROM orders ORDER BY id")))


def in_a_child(world: World, does: Callable[[], Any]) -> None:
    """Do it in a child that has entered the world."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        code = 1
        try:
            world.enter()
            does()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


# ── the real database ─────────────────────────────────────────────────────────────────────────


def check_real_database_is_untouched(database: Database) -> Worlds:
    """By writes at import, through an engine made before, through one with a literal URL, and in a run."""
    furnish(database)
    before = dump(database)
    with making(database.address) as old:
        assert names(old) == ["ann"]
        with Worlds() as worlds, making(database.address) as literal:
            write(literal, "import")
            write(old, "before")
            world = worlds.fresh()
            with world.visit():
                write(literal, "run")
            assert names(literal) == ["bob", "import", "before"]
            other = worlds.fresh()
            with other.visit():
                assert names(old) == ["bob", "import", "before"]
            assert worlds.notes == []
        assert names(old) == ["ann"]
    assert dump(database) == before
    assert not worlds.folder.exists()
    return worlds


def test_real_database_is_never_touched(database: Database) -> None:
    worlds = check_real_database_is_untouched(database)
    assert copies_left(database, worlds) == []


def test_async_engine_goes_to_the_same_copy(sqlite_database: Database) -> None:
    furnish(sqlite_database)
    before = dump(sqlite_database)

    async def write_async() -> None:
        engine = create_async_engine(sqlite_database.async_url)
        async with engine.begin() as connection:
            await connection.execute(text("INSERT INTO orders (name) VALUES ('async')"))
        await engine.dispose()

    import asyncio

    with Worlds() as worlds, making(sqlite_database.url) as engine:
        write(engine, "sync")
        asyncio.run(write_async())
        assert names(engine) == ["bob", "sync", "async"]
        assert worlds.notes == []
    assert dump(sqlite_database) == before


@pytest.mark.parametrize("kept_open", [True, False], ids=["in use", "not in use"])
def test_sqlite_file_in_wal_mode_is_read_without_a_trace(sqlite_database: Database, kept_open: bool) -> None:
    furnish(sqlite_database)
    sqlite_database.rows("PRAGMA journal_mode = wal")
    with closing(sqlite3.connect(sqlite_database.url.removeprefix("sqlite:///"))) as other:
        other.execute("INSERT INTO orders (name) VALUES ('in the wal')")
        other.commit()
        if not kept_open:
            other.close()
        before = dump(sqlite_database)
        with Worlds(), making(sqlite_database.url) as engine:
            assert names(engine) == ["ann", "in the wal"]
            write(engine, "copy")
        assert dump(sqlite_database) == before


def test_postgresql_database_in_use_is_dumped_and_restored(postgresql_database: Database) -> None:
    furnish(postgresql_database)
    before = dump(postgresql_database)
    with making(postgresql_database.url) as engine:
        dsn = postgresql_database.url.replace("+psycopg", "")
        with closing(psycopg.connect(dsn)) as other:
            other.execute("SELECT 1")
            with Worlds() as worlds:
                assert names(engine) == ["ann"]
                write(engine, "copy")
                with worlds.fresh().visit():
                    assert names(engine) == ["bob", "copy"]
                assert worlds.notes == []
    assert dump(postgresql_database) == before
    assert copies_left(postgresql_database, worlds) == []


def test_postgresql_in_use_where_no_dump_can_be_made_cannot_be_told(
    postgresql_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish(postgresql_database)
    monkeypatch.setenv("PATH", "/nowhere")
    dsn = postgresql_database.url.replace("+psycopg", "")
    with (
        closing(psycopg.connect(dsn)),
        Worlds() as worlds,
        making(postgresql_database.url) as engine,
        pytest.raises(
            CannotTell, match=r"others are connected .* install PostgreSQL's client programs \(at "
        ),
    ):
        names(engine)
    assert copies_left(postgresql_database, worlds) == []


def test_mysql_database_with_a_view_cannot_be_told(mysql_database: Database) -> None:
    furnish(mysql_database)
    with making(mysql_database.address) as outside:
        with outside.begin() as connection:
            connection.execute(text("CREATE VIEW everyone AS SELECT name FROM orders"))
        with Worlds() as worlds, making(mysql_database.address) as engine:
            with pytest.raises(CannotTell, match="has views"):
                names(engine)
            assert len(worlds.notes) == 1
        with outside.begin() as connection:
            connection.execute(text("DROP VIEW everyone"))


# ── what cannot be turned to a copy ───────────────────────────────────────────────────────────


def check_refused(database: Database, past: Callable[[], Any], reason: str) -> None:
    furnish(database)
    before = dump(database)
    with Worlds() as worlds:
        with pytest.raises(CannotTell, match=reason):
            past()
        (note,) = worlds.notes
    assert reason in note
    assert "(at tests/proof/test_worlds.py:" in note
    assert dump(database) == before


def test_sqlite3_past_sqlalchemy_is_refused(sqlite_database: Database) -> None:
    file = sqlite_database.url.removeprefix("sqlite:///")
    check_refused(sqlite_database, lambda: sqlite3.connect(file), "was opened by sqlite3, past SQLAlchemy")


def test_sqlite3_in_memory_is_nobodys(sqlite_database: Database) -> None:
    with Worlds() as worlds, closing(sqlite3.connect(":memory:")) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert worlds.notes == []


def test_psycopg_past_sqlalchemy_is_refused(postgresql_database: Database) -> None:
    dsn = postgresql_database.url.replace("+psycopg", "")
    check_refused(postgresql_database, lambda: psycopg.connect(dsn), "made by psycopg, past SQLAlchemy")


def test_pymysql_past_sqlalchemy_is_refused(mysql_database: Database) -> None:
    check_refused(
        mysql_database, lambda: pymysql.connect(host="127.0.0.1"), "made by pymysql, past SQLAlchemy"
    )


def test_drivers_are_as_before_when_it_is_over(postgresql_database: Database) -> None:
    before = psycopg.BaseConnection.__dict__["_connect_gen"]
    with Worlds():
        assert psycopg.BaseConnection.__dict__["_connect_gen"] is not before
    assert psycopg.BaseConnection.__dict__["_connect_gen"] is before


def test_creator_of_an_engine_is_past_sqlalchemy(sqlite_database: Database) -> None:
    file = sqlite_database.url.removeprefix("sqlite:///")
    engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(file))
    check_refused(sqlite_database, engine.connect, "past SQLAlchemy")


def test_attached_file_is_refused(sqlite_database: Database, tmp_path: Path) -> None:
    def attach() -> None:
        with making(sqlite_database.url) as engine, engine.connect() as connection:
            connection.execute(text(f"ATTACH '{tmp_path / 'second.db'}' AS second"))

    check_refused(sqlite_database, attach, "ATTACH opens another file")
    assert not (tmp_path / "second.db").exists()


def test_file_that_a_listener_attaches_is_never_touched(sqlite_database: Database, tmp_path: Path) -> None:
    """No statement of SQLAlchemy's says so: the driver itself must refuse."""
    other = tmp_path / "second.db"
    with Worlds(), making(sqlite_database.url) as engine:
        event.listen(engine, "connect", lambda driver, _: driver.execute(f"ATTACH '{other}' AS second"))
        with pytest.raises(OperationalError, match="too many attached"):
            engine.connect()
    assert not other.exists()


def test_other_database_of_a_mysql_server_is_refused(mysql_database: Database) -> None:
    real = mysql_database.address.rpartition("/")[2].partition("?")[0]

    def reach_past() -> None:
        with making(mysql_database.address) as engine, engine.begin() as connection:
            connection.execute(text(f"INSERT INTO `{real}`.orders (name) VALUES ('past')"))

    check_refused(mysql_database, reach_past, f"it names the database {real}")


def test_connection_that_was_open_before_is_refused(sqlite_database: Database) -> None:
    with making(sqlite_database.url) as engine, engine.connect() as kept:
        check_refused(
            sqlite_database, lambda: kept.execute(text("SELECT 1")), "had been open before the proof"
        )
    gc.collect()  # its pool was given up


def test_connection_kept_since_the_import_is_refused_in_a_run(sqlite_database: Database) -> None:
    def use_it_in_a_run() -> None:
        with Worlds() as worlds, making(sqlite_database.url) as engine, engine.connect() as kept:
            world = worlds.fresh()
            with world.visit(), pytest.raises(CannotTell, match="kept open since the import"):
                kept.execute(text("SELECT 1"))

    use_it_in_a_run()


def test_memory_of_a_shared_connection_outlives_a_proof() -> None:
    from sqlalchemy.pool import StaticPool

    engine = create_engine("sqlite://", poolclass=StaticPool)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE kept (x integer)"))
    with Worlds():
        pass
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO kept VALUES (1)"))
    engine.dispose()


# ── snapshots ─────────────────────────────────────────────────────────────────────────────────


def test_snapshot_has_what_came_and_went_and_not_what_was_drawn(database: Database) -> None:
    furnish(database)

    def run(skipped: int) -> Callable[[], None]:
        def orders() -> None:
            with making(database.address) as engine, engine.begin() as connection:
                for _ in range(skipped):
                    connection.execute(text("INSERT INTO orders (name) VALUES ('skipped')"))
                    connection.execute(text("DELETE FROM orders WHERE name = 'skipped'"))
                connection.execute(text("INSERT INTO orders (name) VALUES ('new')"))
                connection.execute(text("UPDATE orders SET name = 'bob' WHERE name = 'ann'"))
                connection.execute(
                    text("INSERT INTO items (order_id) SELECT id FROM orders WHERE name IN ('new', 'bob')")
                )

        return orders

    with Worlds() as worlds:
        found = []
        for skipped in (0, 3):
            world = worlds.fresh()
            in_a_child(world, run(skipped))  # the first to see the database
            found.append(world.snapshot())
            world.remove()
    for snapshot in found:
        tables = {name: table for (_, name), table in snapshot.tables.items()}
        assert {row.compared for row in tables["orders"].came} == {("1", "'bob'"), (NEW, "'new'")}
        assert [row.values for row in tables["orders"].went] == [("1", "'ann'")]
        assert {row.compared for row in tables["items"].came} == {(NEW, "1"), (NEW, NEW)}
    assert copies_left(database, worlds) == []


def test_tables_of_the_queue_are_disregarded(sqlite_database: Database) -> None:
    furnish(sqlite_database)
    with Worlds() as worlds, making(sqlite_database.url) as engine:
        names(engine)
        worlds.disregard({"orders"})
        world = worlds.fresh()
        with world.visit():
            write(engine, "run")
        assert world.snapshot().tables == {}


def test_everything_is_removed_after_ctrl_c(sqlite_database: Database) -> None:
    furnish(sqlite_database)
    before = dump(sqlite_database)
    worlds = Worlds()

    def stop_in_the_middle() -> None:
        with worlds, making(sqlite_database.address) as engine:
            with worlds.fresh().visit():
                write(engine, "run")
            worlds.fresh()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_in_the_middle()
    assert not worlds.folder.exists()
    assert dump(sqlite_database) == before


# ── mutants ───────────────────────────────────────────────────────────────────────────────────


def aims_nowhere(patch: pytest.MonkeyPatch) -> None:
    for kind in (SQLiteFile, PostgreSQLDatabase, MySQLDatabase):
        patch.setattr(kind, "aim", lambda *_: None)


def keeps_engines(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Redirection, "leave_engines", lambda _: None)


@pytest.mark.parametrize("breaks", [aims_nowhere, keeps_engines])
def test_mutant_that_touches_the_real_database_is_caught(
    sqlite_database: Database, breaks: Callable[[pytest.MonkeyPatch], None]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        breaks(patch)
        with pytest.raises((AssertionError, CannotTell)):
            check_real_database_is_untouched(sqlite_database)
    gc.collect()
