"""The tables: made once, by whoever comes first; never worked on when they are not this release's."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, update

from duly import Duly
from duly.clock import Clock
from duly.errors import SchemaError
from duly.store import Names, Store, migrate
from tests.databases import Database
from tests.store.scene import Scene

MIGRATED = True
NAMES = [Names(), Names("other_")]


def test_a_fresh_database_gets_its_tables_and_an_installation_id(database: Database, open_store: Any) -> None:
    store = open_store(database, made_tables=False)
    assert migrate(store) == (None, "0003")
    store.open()
    assert store.installation is not None
    assert Scene(store).worker().claim() == []


def test_migrating_again_changes_nothing(database: Database, open_store: Any) -> None:
    store = open_store(database)
    before, job = store.installation, Scene(store).enqueue()
    assert migrate(store) == ("0003", "0003")
    store.open()
    assert store.installation == before
    assert Scene(store).row(job.id) is not None


def test_two_migrations_at_once_make_one_installation(database: Database, open_store: Any) -> None:
    stores = [open_store(database, made_tables=False) for _ in range(4)]
    found, faults, start = [], [], threading.Barrier(len(stores))

    def run(store: Store) -> None:
        start.wait()
        try:
            found.append(migrate(store))
        except Exception as fault:
            faults.append(fault)

    threads = [threading.Thread(target=run, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert sorted(found, key=str) == [("0003", "0003")] * 3 + [(None, "0003")]
    for store in stores:
        store.open()
    assert len({store.installation for store in stores}) == 1


def test_missing_tables_are_a_schema_error_with_the_remedy(database: Database, open_store: Any) -> None:
    store = open_store(database, made_tables=False)
    with pytest.raises(SchemaError, match="duly migrate"):
        store.open()


def set_revision(store: Store, revision: str) -> None:
    version = store.tables.version
    with store.writing() as connection:
        connection.execute(update(version).values(version_num=revision))


def test_a_newer_schema_is_refused_by_open_and_by_migrate(database: Database, open_store: Any) -> None:
    store = open_store(database)
    set_revision(store, "0999")
    for act in (store.open, lambda: migrate(store)):
        with pytest.raises(SchemaError, match="upgrade the package"):
            act()
    assert Scene(store).count("version") == 1


def test_an_older_schema_is_refused_until_it_is_migrated(
    database: Database, open_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(database)
    set_revision(store, "0000")
    monkeypatch.setattr("duly.store.store.REVISIONS", ("0000", "0003"))
    with pytest.raises(SchemaError, match="run `duly migrate`"):
        store.open()


def test_an_app_refuses_a_newer_schema_in_one_line(database: Database, open_store: Any) -> None:
    set_revision(open_store(database), "0999")
    app = Duly(database.url)
    try:
        with pytest.raises(SchemaError) as fault:
            _ = app.store
        assert "\n" not in str(fault.value)
    finally:
        app._engine.dispose()  # type: ignore[union-attr]


def test_a_new_sqlite_file_is_made_by_itself_and_a_servers_tables_are_not(
    sqlite_database: Database, postgresql_database: Database
) -> None:
    for database, works in ((sqlite_database, True), (postgresql_database, False)):
        app = Duly(database.url)
        try:
            if works:
                assert app.store.installation is not None
            else:
                with pytest.raises(SchemaError, match="duly migrate"):
                    _ = app.store
        finally:
            app._engine.dispose()  # type: ignore[union-attr]


def test_a_failed_migration_leaves_nothing_behind(
    database: Database, open_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(database, made_tables=False)
    monkeypatch.setattr("alembic.op.create_index", _fail)
    with pytest.raises(ZeroDivisionError):
        migrate(store)
    monkeypatch.undo()
    with store.reading() as connection:
        assert inspect(connection).get_table_names() == [] or database.name == "mysql"
    with pytest.raises(SchemaError, match="duly migrate"):  # MySQL commits each table: the next one goes on
        store.open()
    assert migrate(store) == (None, "0003")
    store.open()


def _fail(*_: Any, **__: Any) -> None:
    raise ZeroDivisionError


def test_a_failed_migration_leaves_no_schema_either(
    postgresql_database: Database, open_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(postgresql_database, Names("duly_", "work"), made_tables=False)
    monkeypatch.setattr("alembic.op.create_index", _fail)
    with pytest.raises(ZeroDivisionError):
        migrate(store)
    with store.reading() as connection:
        assert "work" not in inspect(connection).get_schema_names()


@pytest.mark.parametrize("names", NAMES, ids=lambda names: names.prefix)
def test_the_schema_module_says_what_the_migrations_make(
    database: Database, open_store: Any, names: Names
) -> None:
    """Tables, columns, types, nullability, defaults and indexes, as Alembic compares them and as we read them."""
    store = open_store(database, names)
    with store.reading() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "compare_server_default": database.name != "mysql",  # there it takes false and 0 for two
                "include_name": _all,
            },
        )
        context.version_table = ""  # else Alembic's own bookkeeping is left out of the comparison
        assert compare_metadata(context, store.tables.metadata) == []
        migrated = description(connection, names)
    again = create_engine(database.url)
    try:
        with again.begin() as connection:
            store.tables.metadata.drop_all(connection)
            store.tables.metadata.create_all(connection)
        with again.connect() as connection:
            assert description(connection, names) == migrated
    finally:
        again.dispose()


def _all(*_: Any) -> bool:
    return True


def description(connection: Any, names: Names) -> dict[str, Any]:
    seen = inspect(connection)
    found: dict[str, Any] = {}
    for table in seen.get_table_names(schema=names.schema):
        assert table.startswith(names.prefix)
        columns = [(c["name"], str(c["type"]), c["nullable"], c["default"]) for c in seen.get_columns(table)]
        indexes = [
            (
                i["name"],
                i["column_names"],
                i["unique"],
                sorted(map(str, (i.get("dialect_options") or {}).values())),
            )
            for i in seen.get_indexes(table)
        ]
        key = seen.get_pk_constraint(table)["constrained_columns"]
        found[table] = (columns, sorted(indexes), key)
    assert len(found) == 13
    return found


def test_a_store_needs_a_database_that_duly_runs_on() -> None:
    from duly.errors import SettingsError

    class Other:
        class dialect:  # noqa: N801
            name = "oracle"

    with pytest.raises(SettingsError, match="postgresql and sqlite, not on oracle"):
        Store(Other(), Names(), Clock())  # type: ignore[arg-type]


def test_an_in_memory_sqlite_is_refused_with_the_reason(open_store: Any) -> None:
    from duly.errors import SettingsError

    store = open_store(Database("sqlite", "sqlite://", ""), made_tables=False)
    with pytest.raises(SettingsError, match="name a file"):
        store.open()
