"""Whose transaction is it? The queue's database is known by its installation, and savepoints are real ones."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.orm import Session, sessionmaker

from duly import Duly
from duly.errors import WrongDatabase
from duly.store import Store
from tests.databases import Database


@pytest.fixture
def make() -> Any:
    """Apps with one task, and engines; all are closed at the end."""
    made: list[Any] = []

    def make(database: Any, **options: Any) -> Any:
        app = Duly(database, **options)
        made.append(app.close)
        return app, app.task(name="tests.note")(_note)

    def engine(url: str, **options: Any) -> Engine:
        new = create_engine(url, **options)
        made.append(new.dispose)
        return new

    make.engine = engine  # type: ignore[attr-defined]
    yield make
    for close in made:
        close()


def _note(n: int) -> None: ...


# ── another database ──────────────────────────────────────────────────────────────────────────


def test_a_session_on_another_database_of_the_same_kind_is_refused(
    database: Database, other_database: Database, store: Store, open_store: Any, make: Any
) -> None:
    open_store(other_database)
    _, note = make(database.url)
    with Session(make.engine(other_database.url)) as session:
        for _ in range(2):
            with pytest.raises(WrongDatabase, match="another database"):
                note.using(session=session).enqueue(1)
        assert session.execute(text("SELECT count(*) FROM duly_jobs")).scalar_one() == 0


def test_a_session_on_a_database_without_tables_is_refused(
    database: Database, other_database: Database, store: Store, make: Any
) -> None:
    _, note = make(database.url)
    with make.engine(other_database.url).connect() as connection, pytest.raises(WrongDatabase):
        note.using(connection=connection).enqueue(1)


def test_a_session_on_another_kind_of_database_is_refused(
    sqlite_database: Database, postgresql_database: Database, open_store: Any, make: Any
) -> None:
    open_store(postgresql_database)
    for ours, theirs in ((sqlite_database, postgresql_database), (postgresql_database, sqlite_database)):
        _, note = make(ours.url)
        with Session(make.engine(theirs.url)) as session, pytest.raises(WrongDatabase, match="the queue on"):
            note.using(session=session).enqueue(1)


def test_another_prefix_in_the_same_database_is_another_installation_but_the_same_transaction(
    database: Database, open_store: Any, store: Store, make: Any
) -> None:
    """The installation asked for is the queue's own, under its own prefix."""
    from duly.store import Names

    open_store(database, Names("two_"))
    app, note = make(database.url, prefix="two_")
    with Session(make.engine(database.url)) as session, session.begin():
        note.using(session=session).enqueue(1)
    assert app.drain() == {"succeeded": 1}


def test_two_urls_of_one_database_are_one(database: Database, store: Store, make: Any) -> None:
    app, note = make(database.url)
    url = database.url.replace("sqlite:///", "sqlite:///file:") + "?uri=true" if database.name == "sqlite" else (
        database.url + ("&" if "?" in database.url else "?")
        + ("program_name=other" if database.name == "mysql" else "application_name=other")
    )  # fmt: skip
    with Session(make.engine(url)) as session, session.begin():
        note.using(session=session).enqueue(1)
    assert app.drain() == {"succeeded": 1}


def test_the_installation_is_asked_for_once_an_engine(database: Database, store: Store, make: Any) -> None:
    _, note = make(database.url)
    engine, seen = make.engine(database.url), []
    event.listen(engine, "before_cursor_execute", lambda *a: seen.append(a[2]))
    for _ in range(3):
        with Session(engine) as session, session.begin():
            note.using(session=session).enqueue(1)
    assert sum("installation.id" in statement for statement in seen) == 1


def test_owns_tells_a_session_of_this_database_from_others(
    database: Database, other_database: Database, store: Store, make: Any
) -> None:
    here, there = make.engine(database.url), make.engine(other_database.url)
    assert store.owns(sessionmaker(here)) is True
    assert store.owns(sessionmaker(there)) is False
    assert store.owns(sessionmaker()) is True, "an unbound session will be bound to ours"


# ── savepoints on SQLite ──────────────────────────────────────────────────────────────────────


def rows(engine: Engine, table: str = "orders") -> int:
    with engine.connect() as connection:
        return connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()


@pytest.fixture
def orders(sqlite_database: Database, open_store: Any, make: Any) -> Engine:
    """An application's own engine on the queue's SQLite file, with a table of orders."""
    open_store(sqlite_database)
    engine: Engine = make.engine(sqlite_database.url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE orders (id INTEGER)"))
    return engine


def test_the_first_enqueue_of_a_foreign_engine_inside_a_savepoint_is_refused_not_split(
    sqlite_database: Database, orders: Engine, make: Any
) -> None:
    app, note = make(sqlite_database.url)
    with Session(orders) as session:
        with session.begin_nested(), pytest.raises(WrongDatabase, match="savepoint"):
            note.using(session=session).enqueue(1)
        session.rollback()
    assert app.drain() == {}
    with Session(orders) as session, session.begin():
        note.using(session=session).enqueue(1)
    with Session(orders) as session:
        with session.begin_nested():
            note.using(session=session).enqueue(2)
        session.rollback()
    assert app.drain() == {"succeeded": 1}


def test_the_first_enqueue_of_the_apps_own_engine_inside_a_savepoint_is_not_split_either(
    sqlite_database: Database, orders: Engine, make: Any
) -> None:
    """The store is opened by this very enqueue, when the savepoint stands already."""
    app, note = make(orders)
    with Session(orders) as session:
        with session.begin_nested():
            session.execute(text("SELECT 1"))  # a Session sets its savepoints with the first statement
            with pytest.raises(WrongDatabase, match="savepoint"):
                note.using(session=session).enqueue(1)
        session.rollback()
    assert app.drain() == {}
    with Session(orders) as session:
        with session.begin_nested():
            note.using(session=session).enqueue(2)
        session.rollback()
    assert app.drain() == {}


def test_savepoints_on_an_applications_own_sqlite_engine_are_real(
    sqlite_database: Database, orders: Engine, make: Any
) -> None:
    """Released, then rolled back from outside: neither the order nor the job is left."""
    app, note = make(orders)
    assert app.store.installation is not None
    with Session(orders) as session:
        with session.begin_nested():
            session.execute(text("INSERT INTO orders VALUES (1)"))
            note.using(session=session).enqueue(1)
            with session.begin_nested():
                note.using(session=session).enqueue(2)
        session.rollback()
    assert rows(orders) == 0
    assert app.drain() == {}
    with Session(orders) as session, session.begin(), session.begin_nested():
        session.execute(text("INSERT INTO orders VALUES (1)"))
        note.using(session=session).enqueue(1)
    assert rows(orders) == 1
    assert app.drain() == {"succeeded": 1}


def test_an_engine_that_begins_by_itself_the_documented_way_works_too(
    sqlite_database: Database, orders: Engine, make: Any
) -> None:
    """SQLAlchemy's recipe for SQLite: the driver in autocommit mode, BEGIN by an event."""
    engine = by_the_recipe(make, sqlite_database.url)
    app, note = make(engine)
    assert app.store.installation is not None
    for keep in (True, False):
        with Session(engine) as session:
            with session.begin_nested():
                session.execute(text("INSERT INTO orders VALUES (1)"))
                note.using(session=session).enqueue(1)
            note.using(session=session).enqueue(2)
            session.commit() if keep else session.rollback()
    assert rows(orders) == 1
    assert app.drain() == {"succeeded": 2}


def test_a_new_file_behind_such_an_engine_gets_its_tables(sqlite_database: Database, make: Any) -> None:
    app, note = make(by_the_recipe(make, sqlite_database.url))
    note.enqueue(1)
    assert app.drain() == {"succeeded": 1}


def by_the_recipe(make: Any, url: str) -> Engine:
    engine: Engine = make.engine(url, connect_args={"isolation_level": None})
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def test_a_savepoint_inside_one_that_duly_did_not_see_is_refused_too(
    sqlite_database: Database, orders: Engine, make: Any
) -> None:
    app, note = make(sqlite_database.url)
    with Session(orders) as session:
        with session.begin_nested():
            for _ in range(2):
                with session.begin_nested(), pytest.raises(WrongDatabase, match="savepoint"):
                    note.using(session=session).enqueue(1)
        session.rollback()
    with Session(orders) as session:
        with session.begin_nested(), session.begin_nested():
            note.using(session=session).enqueue(1)
        session.rollback()
    assert app.drain() == {}


def test_an_enqueue_in_a_read_only_look_begins_a_transaction(orders: Engine, make: Any) -> None:
    """sqlite3 begins none for SELECT: the job must still go with the session."""
    app, note = make(orders)
    with Session(orders) as session:
        session.execute(text("SELECT 1"))
        note.using(session=session).enqueue(1)
        session.rollback()
    assert app.drain() == {}


def test_sqlite_is_set_up_as_promised(sqlite: Any) -> None:
    with sqlite.store.writing() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "busy_timeout")
        }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "busy_timeout": 5000}


def test_a_line_sets_its_patience_once_and_gives_its_connection_back_as_it_was(sqlite: Any) -> None:
    said: list[str] = []
    line = sqlite.store.line(lock=1.0, statement=1.0, idle=1.0)
    with line.transaction() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one() == 0
        connection.connection.driver_connection.set_trace_callback(said.append)
    said.clear()
    with line.transaction():
        pass
    assert said == ["BEGIN IMMEDIATE", "COMMIT"]
    line.close()
    with sqlite.store.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one() == 5000


def test_a_write_transaction_on_sqlite_is_immediate(sqlite: Any, sqlite_database: Database) -> None:
    with sqlite.store.writing():
        other = sqlite3.connect(sqlite_database.url.removeprefix("sqlite:///"), timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()


def test_own_transactions_are_read_committed_on_any_engine(
    postgresql_database: Database, open_store: Any
) -> None:
    for level in ("SERIALIZABLE", "AUTOCOMMIT"):
        store = open_store(postgresql_database, isolation_level=level)
        with store.writing() as connection:
            assert connection.exec_driver_sql("SHOW transaction_isolation").scalar_one() == "read committed"
            connection.exec_driver_sql("CREATE TABLE gone (x int)")
            connection.rollback()
        with store.reading() as connection:
            assert connection.exec_driver_sql("SELECT to_regclass('gone')").scalar_one() is None


def test_a_line_limits_its_waits_for_its_transaction_alone(
    postgresql_database: Database, open_store: Any
) -> None:
    store = open_store(postgresql_database)
    line = store.line(lock=0.5, statement=7, idle=9)
    try:
        with line.transaction() as connection:
            assert connection.exec_driver_sql("SHOW lock_timeout").scalar_one() == "500ms"
            assert connection.exec_driver_sql("SHOW statement_timeout").scalar_one() == "7s"
            idle = connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar_one()
            assert idle == "9s"
            for planner in ("enable_seqscan", "enable_sort", "enable_nestloop", "jit"):
                assert connection.exec_driver_sql(f"SHOW {planner}").scalar_one() == "off", planner
        with line.transaction() as connection:
            driver = connection.connection.driver_connection
        assert driver.execute("SHOW lock_timeout").fetchone() == ("0",)  # type: ignore[union-attr]
    finally:
        line.close()


def test_a_line_opens_anew_after_an_error(store: Store) -> None:
    line = store.line(lock=1, statement=1, idle=9)
    try:
        with pytest.raises(ZeroDivisionError), line.transaction() as first:
            raise ZeroDivisionError
        assert first.closed
        with line.transaction() as second:
            assert second is not first
    finally:
        line.close()


def test_secrets_are_not_described(postgresql_database: Database, open_store: Any) -> None:
    store = open_store(
        Database("postgresql", postgresql_database.url.replace("postgres@", "postgres:geheim@"), ""),
        made_tables=False,
    )
    assert "geheim" not in str(store.describe())
