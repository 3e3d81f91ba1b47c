"""Bad days: each of the driver's errors becomes one of Duly's that says what to do, and nothing is half-written."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, ProgrammingError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from duly import Duly
from duly.clock import Clock
from duly.errors import DatabaseBusy, DatabaseUnavailable, SchemaError, SettingsError
from duly.store import Names, Store, make_engine
from tests.databases import SERVERS, Database
from tests.store.scene import Scene, new_job


@pytest.fixture
def app(database: Database, store: Store) -> Any:
    made = Duly(database.url)
    made.task(name="tests.note")(_note)
    yield made
    made.close()


def _note(n: int) -> None: ...


def fails_with(store: Store, statement: str, **parameters: Any) -> None:
    with store.writing() as connection:
        connection.execute(text(statement), parameters)


# ── unreachable ───────────────────────────────────────────────────────────────────────────────


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_an_unreachable_server_is_unavailable_with_what_to_do(scheme: str) -> None:
    app = Duly(f"{scheme}://somebody@127.0.0.1:{closed_port()}/nothing")
    note = app.task(name="tests.note")(_note)
    with pytest.raises(DatabaseUnavailable, match=r"see that it runs.*DULY_DATABASE_URL") as fault:
        note.enqueue(1)
    assert fault.value.__cause__ is not None
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("server", SERVERS)
def test_a_database_that_does_not_exist_is_unavailable(request: pytest.FixtureRequest, server: str) -> None:
    url = make_url(request.getfixturevalue(f"{server}_database").url).set(database="nothing")
    app = Duly(url.render_as_string(hide_password=False))
    note = app.task(name="tests.note")(_note)
    with pytest.raises(DatabaseUnavailable, match=r"does not exist|Unknown database"):
        note.enqueue(1)


def test_a_sqlite_file_in_a_folder_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    note = Duly(f"sqlite:///{tmp_path}/nowhere/jobs.db").task(name="tests.note")(_note)
    with pytest.raises(DatabaseUnavailable, match="folder exists"):
        note.enqueue(1)


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"not a database, but long enough to be looked at" * 100)
    app = Duly(f"sqlite:///{tmp_path}/jobs.db")
    note = app.task(name="tests.note")(_note)
    with pytest.raises(DatabaseUnavailable, match="not a database"):
        note.enqueue(1)
    app._engine.dispose()  # type: ignore[union-attr]


CUT = {
    "postgresql": ("SELECT pg_backend_pid()", "SELECT pg_terminate_backend({})"),
    "mysql": ("SELECT CONNECTION_ID()", "KILL {}"),
}


def test_a_cut_connection_is_unavailable_and_the_next_one_works(server: Scene) -> None:
    store = server.store
    whoami, cut = CUT[store.dialect.name]
    with pytest.raises(DatabaseUnavailable), store.writing() as connection:  # noqa: PT012
        store.jobs.insert(connection, new_job())
        session = connection.exec_driver_sql(whoami).scalar_one()
        with store.engine.connect() as other:
            other.exec_driver_sql(cut.format(session))
        store.jobs.insert(connection, new_job())
    assert server.count() == 0
    server.enqueue()


def test_a_connection_cut_in_copy_is_unavailable_and_nothing_is_written(postgresql: Scene) -> None:
    store = postgresql.store

    def jobs() -> Any:
        for n in range(20_000):
            if n == 5_000:
                with store.engine.connect() as other:
                    other.exec_driver_sql(f"SELECT pg_terminate_backend({pid})")
            yield new_job()

    with pytest.raises(DatabaseUnavailable), store.writing() as connection:  # noqa: PT012
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        store.jobs.insert_many(connection, jobs())
    assert postgresql.count() == 0


def test_an_enqueue_after_the_server_cut_all_connections_works_at_once(
    postgresql_database: Database, open_store: Any
) -> None:
    """The pool's connections are dead; a repeated enqueue takes a fresh one."""
    open_store(postgresql_database)
    app = Duly(create_engine(postgresql_database.url, connect_args={"application_name": "to-be-cut"}))
    note = app.task(name="tests.note")(_note)
    try:
        note.enqueue(1)
        postgresql_database.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'to-be-cut'"
        )
        note.enqueue(2)
        app.enqueue_many([note.call(3), note.call(4)])
        assert app.drain() == {"succeeded": 4}
    finally:
        app.close()


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("57P01", DatabaseUnavailable), ("57P03", DatabaseUnavailable), ("08006", DatabaseUnavailable),
        ("53100", DatabaseUnavailable), ("53200", DatabaseUnavailable), ("53300", DatabaseUnavailable),
        ("25006", DatabaseUnavailable), ("55P03", DatabaseBusy), ("40001", DatabaseBusy), ("40P01", DatabaseBusy),
        ("57014", DatabaseBusy), ("42P01", SchemaError), ("3F000", SchemaError), ("42703", SchemaError),
    ],
)  # fmt: skip
def test_sqlstates_are_translated(postgresql: Scene, code: str, error: type[Exception]) -> None:
    with pytest.raises(error) as fault, postgresql.store.writing() as connection:
        connection.exec_driver_sql(
            f"DO $$ BEGIN RAISE EXCEPTION 'a message' USING ERRCODE = '{code}'; END $$"
        )
    assert fault.value.__cause__ is not None


@pytest.mark.parametrize(("code", "error"), [("23505", IntegrityError), ("42601", ProgrammingError)])
def test_faults_that_are_ours_to_see_pass_as_they_are(
    postgresql: Scene, code: str, error: type[Exception]
) -> None:
    with pytest.raises(error), postgresql.store.writing() as connection:
        connection.exec_driver_sql(
            f"DO $$ BEGIN RAISE EXCEPTION 'a message' USING ERRCODE = '{code}'; END $$"
        )


# ── locks ─────────────────────────────────────────────────────────────────────────────────────


def test_a_lock_not_granted_in_time_is_busy(server: Scene) -> None:
    scene = server
    lock_wait, too_long = ("55P03", "57014") if scene.store.dialect.name == "postgresql" else ("1205", "1969")
    job, table = scene.enqueue(), scene.store.tables.jobs
    lock = table.select().where(table.c.id == job.id).with_for_update()
    with scene.frozen() as holder:
        holder.execute(lock)
        line = scene.store.line(lock=0.05, statement=5, idle=30)
        with pytest.raises(DatabaseBusy, match=lock_wait), line.transaction() as connection:
            connection.execute(lock)
        line = scene.store.line(lock=5, statement=0.05, idle=30)
        with pytest.raises(DatabaseBusy, match=too_long), line.transaction() as connection:
            connection.execute(lock)


def test_a_deadlock_is_busy_for_one_and_nothing_for_the_other(server: Scene) -> None:
    scene = server
    one, two = scene.enqueue(), scene.enqueue()
    table, met, busy, done = scene.store.tables.jobs, threading.Barrier(2), [], []

    def embrace(first: Any, second: Any) -> None:
        try:
            with scene.store.writing() as connection:
                if scene.store.dialect.name == "postgresql":
                    connection.exec_driver_sql("SET LOCAL deadlock_timeout = '20ms'")
                connection.execute(table.select().where(table.c.id == first.id).with_for_update())
                met.wait()
                connection.execute(table.select().where(table.c.id == second.id).with_for_update())
            done.append(True)
        except DatabaseBusy as fault:
            busy.append(fault)

    threads = [threading.Thread(target=embrace, args=pair) for pair in ((one, two), (two, one))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(busy), len(done)) == (1, 1)
    assert busy[0].repeat, "it is worth repeating at once"


def test_a_locked_sqlite_names_the_cause_and_the_remedy(
    sqlite_database: Database, open_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enqueue beside one's own open writing session: it would wait for itself."""
    open_store(sqlite_database)
    monkeypatch.setattr("duly.store.dialect.writelock.PATIENCE", 0.05)
    app = Duly(sqlite_database.url)
    note = app.task(name="tests.note")(_note)
    engine = create_engine(sqlite_database.url)
    try:
        assert app.store.installation is not None
        with Session(engine) as session:
            session.execute(text("CREATE TABLE orders (id INTEGER)"))
            session.execute(text("INSERT INTO orders VALUES (1)"))
            start = time.monotonic()
            with pytest.raises(DatabaseBusy, match=r"using\(session=session\)"):
                note.enqueue(1)
            assert time.monotonic() - start < 5
            note.using(session=session).enqueue(2)
            session.commit()
        assert app.drain() == {"succeeded": 1}
    finally:
        engine.dispose()
        app.close()


def test_an_exhausted_pool_says_so(database: Database, open_store: Any) -> None:
    store = open_store(database, pool_size=1, max_overflow=0, pool_timeout=0.05)
    with store.reading(), pytest.raises(DatabaseUnavailable, match="pool"), store.writing():
        pass


# ── tables ────────────────────────────────────────────────────────────────────────────────────


def test_tables_that_vanish_are_a_schema_error(scene: Scene) -> None:
    with scene.store.writing() as connection:
        connection.exec_driver_sql("DROP TABLE duly_jobs")
    for act in (scene.enqueue, lambda: scene.enqueue_many(3), lambda: scene.status(new_job().id)):
        with pytest.raises(SchemaError, match="duly migrate"):
            act()


def test_an_enqueue_that_fails_in_the_callers_transaction_is_translated_too(
    app: Duly, database: Database
) -> None:
    assert app.store.installation is not None
    engine = create_engine(database.url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE duly_jobs"))
    with Session(engine) as session, pytest.raises(SchemaError):
        app.find("tests.note").using(session=session).enqueue(1)  # type: ignore[union-attr]


# ── URLs ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "is none"), ("jobs.db", "is none"), ("://x", "cannot be read"), ("orakel://x/y", "not on 'orakel'"),
        ("sqlite+aiosqlite:///x.db", "async driver.*async_engine="),
        ("postgresql+asyncpg://h/db", "async driver.*async_engine="),
        ("postgresql+psycopg_async://h/db", "async driver|not psycopg_async"),
        ("postgresql+pg8000://h/db", "psycopg"), ("postgresql+psycopg2://h/db", "psycopg"),
        ("postgresql://h:port/db", "cannot be read"), ("mssql+pyodbc://h/db", "not on 'mssql'"),
        ("mysql+aiomysql://h/db", "async driver.*async_engine=|aiomysql is not installed"),
        ("mysql+mysqlconnector://h/db", "PyMySQL or mysqlclient|not installed"), ("mysql://h", "names no database"),
    ],
)  # fmt: skip
def test_a_wrong_url_is_said_in_one_line(url: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as fault:
        Store(make_engine(url), Names(), Clock())
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("postgresql://h/db", "postgresql+psycopg"), ("postgres://h/db", "postgresql+psycopg"),
        ("postgresql+psycopg://h/db", "postgresql+psycopg"), ("sqlite:///x.db", "sqlite"),
        ("mysql://h/db", "mysql+pymysql"), ("mariadb://h/db", "mariadb+pymysql"),
    ],
)  # fmt: skip
def test_the_driver_is_filled_in(url: str, driver: str) -> None:
    assert make_engine(url).url.drivername == driver


def test_no_message_shows_the_password(tmp_path: Path) -> None:
    for url in ("postgresql+pg8000://ann:geheim@h/db", "orakel://ann:geheim@h", "ann:geheim@h"):
        with pytest.raises(SettingsError) as fault:
            make_engine(url)
        assert "geheim" not in str(fault.value)
    app = Duly(f"postgresql://ann:geheim@127.0.0.1:{closed_port()}/x")
    with pytest.raises(DatabaseUnavailable) as down:
        _ = app.store
    assert "geheim" not in str(down.value)
