"""What goes in comes out: instants to the microsecond in UTC, ids, bytes, names; in any zone, under any prefix."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text

from duly import Duly
from duly.errors import InvalidOptions
from duly.model.ids import derived_id, new_id
from duly.store import Names
from tests.databases import Database
from tests.store.scene import Scene, new_job, retried, succeeded

INSTANTS = [
    datetime(2026, 3, 29, 1, 30, 0, 1, tzinfo=UTC),
    datetime(2026, 10, 25, 1, 30, 0, 999_999, tzinfo=UTC),
    datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(2024, 2, 29, 12, 0, tzinfo=timezone(timedelta(hours=5, minutes=45))),
    datetime(2500, 1, 1, 0, 0, 0, 123_456, tzinfo=timezone(-timedelta(hours=9, minutes=30))),
]


def round_trip(scene: Scene, moment: datetime) -> None:
    job = scene.enqueue(run_at=moment, enqueued_at=moment, expires_at=datetime(2600, 1, 1, tzinfo=UTC))
    row: Any = scene.row(job.id)
    assert row["run_at"] == row["enqueued_at"] == moment
    assert row["run_at"].utcoffset() == timedelta(0)
    status: Any = scene.status(job.id)
    assert (status.run_at, status.run_at.utcoffset()) == (moment, timedelta(0))


@pytest.mark.parametrize("moment", INSTANTS, ids=str)
def test_instants_are_kept_to_the_microsecond_in_utc(scene: Scene, moment: datetime) -> None:
    round_trip(scene, moment)


@pytest.mark.parametrize("zone", ["Asia/Kathmandu", "America/St_Johns", "Pacific/Kiritimati"])
def test_the_servers_time_zone_does_not_matter(
    postgresql_database: Database, open_store: Any, zone: str
) -> None:
    name = postgresql_database.url.rpartition("/")[2]
    postgresql_database.rows(f"ALTER DATABASE \"{name}\" SET timezone = '{zone}'")
    scene = Scene(open_store(postgresql_database))
    with scene.store.reading() as connection:
        assert connection.exec_driver_sql("SHOW timezone").scalar_one() == zone
    for moment in INSTANTS:
        round_trip(scene, moment)
    job = scene.enqueue(priority=-5)
    worker = scene.worker()
    held = worker.claim_one()
    assert held.binding == job.binding
    assert (held.run_at, held.expires_at) == (job.run_at, job.expires_at)
    worker.exchange(retried(held, timedelta(seconds=5)))
    assert timedelta(0) < scene.row(job.id)["run_at"] - datetime.now(UTC) < timedelta(seconds=6)  # type: ignore[index]
    assert abs(scene.store.clock.now() - datetime.now(UTC)) < timedelta(seconds=5)


@pytest.mark.parametrize("zone", ["Asia/Kathmandu", "America/St_Johns"])
def test_a_job_at_the_end_of_the_calendar_does_not_stop_its_queue(
    postgresql_database: Database, open_store: Any, zone: str
) -> None:
    """psycopg cannot read year 10000, which is what the last hours of 9999 are in eastern zones."""
    name = postgresql_database.url.rpartition("/")[2]
    postgresql_database.rows(f"ALTER DATABASE \"{name}\" SET timezone = '{zone}'")
    open_store(postgresql_database)
    app = Duly(postgresql_database.url)

    @app.task(name="tests.late")
    def late() -> None: ...

    try:
        end = datetime.max.replace(tzinfo=UTC)
        with pytest.raises(InvalidOptions, match="out of bounds"):
            late.using(expires_at=end).enqueue()
        with pytest.raises(InvalidOptions, match="out of bounds"):
            late.using(run_at=datetime.min.replace(tzinfo=UTC)).enqueue()
        late.using(expires_in=timedelta(days=36_500)).enqueue()
        assert app.drain() == {"succeeded": 1}
    finally:
        app.close()


@pytest.mark.parametrize(
    "identity", [UUID(int=0), UUID(int=2**128 - 1), uuid4(), new_id(), derived_id(uuid4(), "x")]
)
def test_ids_of_all_kinds(scene: Scene, identity: UUID) -> None:
    scene.enqueue(id=identity)
    worker = scene.worker()
    held = worker.claim_one()
    assert held.id == held.origin == identity
    worker.exchange(succeeded(held))
    assert scene.ended(identity) is not None
    assert scene.again(new_job(id=identity)).keys() == {identity}
    assert scene.count() == 0


@pytest.mark.parametrize(
    "envelope", [b"", b"\x00", bytes(range(256)) * 256, b'{"a":"\\u0000\'--;"}', b"\xff\xfe"]
)
def test_bytes_come_back_as_they_went(scene: Scene, envelope: bytes) -> None:
    job = scene.enqueue(envelope=envelope, digest=envelope[:32])
    worker = scene.worker()
    held = worker.claim_one()
    assert held.envelope == envelope
    worker.exchange(succeeded(held, envelope))
    ended: Any = scene.ended(job.id)
    assert (ended["result"], ended["digest"]) == (envelope, envelope[:32])


ODD = ["x", "0", "_", "a.b-c_9", "Z" * 200, "select", "null", "1.-_", "default", "DEFAULT"]


def test_odd_but_legal_names_of_queues_and_tasks(scene: Scene) -> None:
    for name in ODD:
        scene.enqueue(queue=name, task=name)
    worker = scene.worker()
    for name in ODD:
        (job,) = worker.claim(10, name)
        assert (job.queue, job.task) == (name, name)
    with scene.store.writing() as connection:
        worker.exchange(on=connection)
        rows = scene.store.jobs.held_by(connection, worker.name)
    assert len(rows) == len(ODD)


NASTY = ["a'b", 'a"b', "a%b", "a%%sb", "a:b", "a;--", "a b", "ä☃𝄞", "a\\b", "{}", "a,b", "$1", "?"]


@pytest.mark.parametrize("text", NASTY)
def test_texts_that_look_like_sql_are_texts(scene: Scene, text: str) -> None:
    """Names are checked before they get here; the store does not rely on it."""
    job = scene.enqueue(queue=text, task=text, principal=text, trace=text)
    other = scene.enqueue()
    worker = scene.worker(f"w-{text.encode().hex()}")
    (held,) = worker.claim(10, text, "nothing")
    assert (held.id, held.queue, held.task, held.principal) == (job.id, text, text, text)
    worker.exchange(succeeded(held))
    with scene.store.writing() as connection:
        assert scene.store.jobs.clear(connection, queue=text, task=text) == 0
    assert scene.row(other.id) is not None


# ── names of tables ───────────────────────────────────────────────────────────────────────────

PREFIXES = ["", "jobs_", "order_", "p" * 40, "_9"]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_prefix_is_configurable(database: Database, open_store: Any, prefix: str) -> None:
    scene = Scene(open_store(database, Names(prefix)))
    job = scene.enqueue()
    worker = scene.worker()
    for queues in (("default",), ("default", "b")):
        (held,) = worker.claim(1, *queues)
        worker.exchange(retried(held, timedelta(0)))
    worker.exchange(succeeded(worker.claim_one()))
    assert scene.outcome(job.id) == "succeeded"
    assert scene.again(new_job(id=job.id)).keys() == {job.id}
    with scene.store.writing() as connection:
        assert scene.store.jobs.insert_many(connection, [new_job(), new_job()])
        assert scene.store.upkeep.waiting_queues(connection) == ["default"]


@pytest.mark.parametrize("schema", ["work", "user", "order", "_x1"])
def test_the_postgresql_schema_is_configurable(
    postgresql_database: Database, open_store: Any, schema: str
) -> None:
    scene = Scene(open_store(postgresql_database, Names("duly_", schema)))
    scene.enqueue_many(3)
    worker = scene.worker()
    one, two, three = worker.claim(10, "default", "b")
    worker.exchange(succeeded(one), retried(two))
    worker.die()
    assert scene.rescue() == [three.id]
    with scene.store.reading() as connection:
        found = connection.scalars(select(text("schemaname")).select_from(text("pg_tables")).where(
            text("tablename LIKE 'duly_%'")
        )).all()  # fmt: skip
    assert set(found) == {schema}


def test_two_installations_live_side_by_side_in_one_database(database: Database, open_store: Any) -> None:
    one, two = (Scene(open_store(database, Names(prefix))) for prefix in ("one_", "two_"))
    assert one.store.installation != two.store.installation
    job = one.enqueue()
    assert two.worker().claim() == []
    assert two.count() == 0
    held = one.worker("same").claim_one()
    other = two.worker("other")
    assert other.exchange(succeeded(held)).lost == {job.id}
    assert one.row(job.id) is not None


def test_two_schemas_of_one_database_are_two_installations(
    postgresql_database: Database, open_store: Any
) -> None:
    one, two = (Scene(open_store(postgresql_database, Names("duly_", schema))) for schema in ("one", "two"))
    one.enqueue_many(2)
    assert two.worker().claim(10, "default", "b") == []
    assert len(one.worker().claim(10, "default", "b")) == 2
