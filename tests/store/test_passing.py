"""Which faults of a task's own statements pass by themselves, on each database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm.exc import StaleDataError

from duly.errors import DatabaseBusy, DatabaseUnavailable, WrongDatabase
from duly.store.passing import passes
from tests.databases import Database

TOO_LONG = {
    "postgresql": ["SET statement_timeout = 20", "SELECT pg_sleep(5)"],
    "mysql": ["SET max_statement_time = 0.02", "SELECT SLEEP(5) FROM things"],
}
CUT_OFF = {"postgresql": "SELECT pg_terminate_backend(pg_backend_pid())", "mysql": "KILL CONNECTION_ID()"}


@pytest.fixture
def engine(database: Database) -> Iterator[Engine]:
    """An application's own, with a table; whose names look like trouble."""
    engine = create_engine(
        database.url, **({"connect_args": {"timeout": 0}} if database.name == "sqlite" else {})
    )
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE things (locked_disk INTEGER PRIMARY KEY)")
        connection.exec_driver_sql("INSERT INTO things VALUES (1)")
    yield engine
    engine.dispose()


def met(connection: Connection, *statements: str) -> DBAPIError:
    """What the database says to the last of them."""
    *before, last = statements
    for statement in before:
        connection.exec_driver_sql(statement)
    with pytest.raises(DBAPIError) as raised:
        connection.exec_driver_sql(last)
    return raised.value


def test_a_lock_that_others_hold_passes(engine: Engine, database: Database) -> None:
    with engine.connect() as other, engine.connect() as connection:
        if database.name == "sqlite":
            other.exec_driver_sql("BEGIN IMMEDIATE")
            error = met(connection, "INSERT INTO things VALUES (2)")
        else:
            other.exec_driver_sql("SELECT * FROM things FOR UPDATE")
            error = met(connection, "SELECT * FROM things FOR UPDATE NOWAIT")
        assert passes(error)


def test_what_is_wrong_does_not_pass(engine: Engine) -> None:
    wrong = (
        "SELECT no_such_locked FROM things",
        "SELECT * FROM disk_busy",
        "INSERT INTO things VALUES (1)",
        "SELEC",
    )
    for statement in wrong:
        with engine.connect() as connection:
            assert not passes(met(connection, statement)), statement


@pytest.mark.parametrize("name", ["postgresql", "mysql"])
def test_a_lost_connection_passes_and_a_statement_that_takes_too_long_does_not(
    name: str, request: pytest.FixtureRequest
) -> None:
    database: Database = request.getfixturevalue(f"{name}_database")
    engine = create_engine(database.url)
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE things (n INTEGER)")
            connection.exec_driver_sql("INSERT INTO things VALUES (1)")
        with engine.connect() as connection:
            assert passes(met(connection, CUT_OFF[name]))
        with engine.connect() as connection:
            assert not passes(met(connection, *TOO_LONG[name]))
    finally:
        engine.dispose()


def test_a_database_that_is_not_there_passes() -> None:
    for url in ("postgresql+psycopg://postgres@127.0.0.1:1/x", "mysql+pymysql://root@127.0.0.1:1/x"):
        with pytest.raises(OperationalError) as raised, create_engine(url).connect():
            pass
        assert passes(raised.value)


class Said(Exception):
    """What a driver says."""

    def __init__(self, *args: object, sqlstate: str | None = None, pgcode: str | None = None) -> None:
        super().__init__(*args)
        self.sqlstate, self.pgcode = sqlstate, pgcode


@pytest.mark.parametrize(
    ("orig", "does"),
    [
        (Said(sqlstate="40P01"), True),
        (Said(sqlstate="40001"), True),
        (Said(pgcode="40001"), True),
        (Said(sqlstate="55P03"), True),
        (Said(sqlstate="57P01"), True),
        (Said(sqlstate="08006"), True),
        (Said(sqlstate="57014"), False),
        (Said(sqlstate="23505"), False),
        (Said(1213, "Deadlock found"), True),
        (Said(1205, "Lock wait timeout"), True),
        (Said(2013, "Lost connection"), True),
        (Said(1062, "Duplicate entry"), False),
        (Said("locked"), False),
    ],
)
def test_the_driver_says_so_by_number(orig: Said, does: bool) -> None:
    kind = IntegrityError if orig.sqlstate == "23505" else OperationalError
    assert passes(kind("SELECT 1", None, orig)) is does


def test_a_lost_race_and_what_duly_itself_met_pass() -> None:
    assert passes(StaleDataError("UPDATE … matched 0 rows"))
    assert passes(DatabaseBusy("locked"))
    assert passes(DatabaseUnavailable("gone"))
    for error in (
        WrongDatabase("another"),
        ConnectionError("a bank"),
        ValueError("locked"),
        KeyboardInterrupt(),
    ):
        assert not passes(error)
