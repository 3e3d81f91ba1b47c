"""``duly migrate``: the only place that imports Alembic, which takes half a second."""

from __future__ import annotations

from pathlib import Path

from duly.store.store import Store


def migrate(store: Store) -> tuple[str | None, str | None]:
    """Bring the tables to this release's revision; the revisions before and after (None: no tables).

    One transaction, except on MySQL, which commits with each table: there a migration that was cut off
    is finished by the next one, and until then the store does not open. Safe to run again, and from
    several machines at once: the one that comes second waits, and finds nothing to do. It never goes
    back, and refuses tables that are newer.
    """
    from alembic import command
    from alembic.config import Config

    with store.guarded(), store.engine.connect() as connection:
        store.dialect.attach(connection)
        connection.rollback()
        store.dialect.begin(connection)
        store.dialect.prepare_schema(connection)
        try:
            before = store.revision(connection)
            if before is not None:
                store.check_not_newer(before)
            config = Config()
            config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
            config.attributes["store"] = store
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            after = store.revision(connection)
            connection.commit()
        finally:
            store.dialect.leave_schema(connection)
    return before, after
