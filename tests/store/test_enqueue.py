"""What enqueue writes: all of it or nothing, once."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.orm import Session, sessionmaker

from duly import Duly
from duly.errors import DatabaseUnavailable, IdTaken
from duly.model.ids import new_id
from duly.store import Store
from tests.databases import Database
from tests.store import checks
from tests.store.scene import Scene, new_job, now, succeeded


@pytest.fixture
def jobs(database: Database, store: Store) -> Any:
    """An app on the store's database."""
    app = Duly(database.url)
    yield app
    app.close()


@pytest.fixture
def add(jobs: Duly) -> Any:
    @jobs.task(name="tests.add")
    def add(a: int, b: int = 0) -> int:
        return a + b

    return add


@pytest.fixture
def engine(database: Database) -> Any:
    """The application's own engine on the same database."""
    made = create_engine(database.url)
    with made.begin() as connection:
        connection.execute(text("CREATE TABLE orders (id INTEGER)"))
    yield made
    made.dispose()


# ── the store's own functions ─────────────────────────────────────────────────────────────────


def test_a_new_job_is_written_as_it_is(scene: Scene) -> None:
    job = scene.enqueue(principal="ann", trace="t1", key_id="k1", priority=-9, queue="mail")
    row: Any = scene.row(job.id)
    columns = [name for name in job.__slots__ if name != "keys"]
    assert {name: row[name] for name in columns} == {name: getattr(job, name) for name in columns}
    assert (row["claim"], row["attempt"], row["deaths"], row["rescues"], row["worker"]) == (0, 0, 0, 0, None)


def test_many_are_written_as_one_is(scene: Scene) -> None:
    """COPY on PostgreSQL: every column, odd bytes and NULLs among them."""
    jobs = [
        new_job(
            queue=f"q{n}", priority=n - 500, envelope=bytes(range(256)) * (n % 3), principal="ann" if n % 2 else None,
            digest=bytes([n % 256]) * 32, trace=None if n % 2 else "t\tt\\n", key_id=None if n % 3 else "k",
            run_at=now() + timedelta(microseconds=n), origin=new_id(),
        )
        for n in range(1001)
    ]  # fmt: skip
    with scene.store.writing() as connection:
        assert scene.store.jobs.insert_many(connection, jobs) is True
    assert scene.count() == 1001
    for job in (jobs[0], jobs[1], jobs[500], jobs[1000]):
        row: Any = scene.row(job.id)
        columns = [name for name in job.__slots__ if name != "keys"]
        assert {name: row[name] for name in columns} == {name: getattr(job, name) for name in columns}


def test_a_batch_with_an_existing_id_writes_nothing_and_leaves_the_transaction_whole(scene: Scene) -> None:
    old, fresh, other = scene.enqueue(), new_job(), new_job()
    with scene.store.writing() as connection:
        scene.store.jobs.insert(connection, other)
        assert scene.store.jobs.insert_many(connection, [fresh, old]) is False
        assert scene.store.jobs.insert_many(connection, [fresh, fresh]) is False
    assert scene.row(fresh.id) is None
    assert scene.row(other.id) is not None


def test_inserted_again_an_existing_job_stays_as_it_is(scene: Scene) -> None:
    old, fresh = scene.enqueue(priority=3), new_job()
    stored = scene.again(replace(old, priority=9, digest=b"other" * 4), fresh)
    assert stored == {old.id: (old.digest, None), fresh.id: (fresh.digest, None)}
    assert scene.row(old.id)["priority"] == 3  # type: ignore[index]
    assert scene.count() == 2


def test_a_running_job_is_not_touched_when_inserted_again(scene: Scene) -> None:
    job = scene.enqueue()
    worker = scene.worker()
    worker.claim_one()
    before = scene.everything()
    assert scene.again(job) == {job.id: (job.digest, None)}
    assert scene.everything() == before


def test_an_id_in_the_ledger_is_not_inserted_again(scene: Scene) -> None:
    checks.check_an_id_in_the_ledger_is_not_inserted_again(scene)


def test_an_id_that_ends_between_the_look_and_the_insert_is_not_inserted(server: Scene) -> None:
    checks.check_an_id_that_ends_between_the_look_and_the_insert_is_not_inserted(server)


def test_a_thousand_and_one_ids_are_inserted_again(scene: Scene) -> None:
    jobs = scene.enqueue_many(700)
    jobs += [new_job() for _ in range(301)]
    assert scene.again(*jobs).keys() == {job.id for job in jobs}
    assert scene.count() == 1001


# ── in the caller's transaction ───────────────────────────────────────────────────────────────


def _one(add: Any, target: Any) -> None:
    add.using(**target).enqueue(1)


def _two(add: Any, target: Any) -> None:
    add.client._home.enqueue_many([add.call(1), add.call(2)], **target)


def _again(add: Any, target: Any) -> None:
    add.using(id=new_id(), **target).enqueue(1)


ways = pytest.mark.parametrize("enqueue", [_one, _two, _again])


@ways
def test_rolled_back_enqueue_never_runs(jobs: Duly, add: Any, engine: Any, enqueue: Any) -> None:
    with Session(engine) as session:
        session.execute(text("INSERT INTO orders VALUES (1)"))
        enqueue(add, {"session": session})
        session.rollback()
    with engine.connect() as connection:
        enqueue(add, {"connection": connection})
        connection.rollback()
    with contextlib.suppress(ZeroDivisionError), engine.begin() as connection:
        enqueue(add, {"connection": connection})
        raise ZeroDivisionError
    assert jobs.drain() == {}


@ways
def test_committed_enqueue_runs_once(jobs: Duly, add: Any, engine: Any, enqueue: Any) -> None:
    with Session(engine) as session, session.begin():
        session.execute(text("INSERT INTO orders VALUES (1)"))
        enqueue(add, {"session": session})
        assert jobs.manage.overview().states == {}, "not seen before the commit"
    assert jobs.drain()["succeeded"] == 2 if enqueue is _two else 1


@ways
def test_an_enqueue_in_a_savepoint_that_is_rolled_back_never_runs(
    jobs: Duly, add: Any, engine: Any, enqueue: Any
) -> None:
    with Session(engine) as session, session.begin():
        add.using(session=session).enqueue(1)
        with session.begin_nested() as savepoint:
            enqueue(add, {"session": session})
            savepoint.rollback()
        session.execute(text("INSERT INTO orders VALUES (1)"))
    with engine.begin() as connection:
        savepoint = connection.begin_nested()
        enqueue(add, {"connection": connection})
        savepoint.rollback()
    assert jobs.drain() == {"succeeded": 1}
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM orders")).scalar_one() == 1


@ways
def test_an_outer_rollback_takes_what_a_released_savepoint_enqueued(
    jobs: Duly, add: Any, engine: Any, enqueue: Any
) -> None:
    """On SQLite an application's savepoints are made real ones."""
    with Session(engine) as session:
        add.using(session=session).enqueue(1)
        session.rollback()
        with session.begin_nested():
            session.execute(text("INSERT INTO orders VALUES (1)"))
            enqueue(add, {"session": session})
        session.rollback()
    with engine.connect() as connection:
        with connection.begin_nested():
            enqueue(add, {"connection": connection})
        connection.rollback()
    assert jobs.drain() == {}
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM orders")).scalar_one() == 0


def test_a_refused_batch_leaves_the_callers_transaction_whole(jobs: Duly, add: Any, engine: Any) -> None:
    taken = new_id()
    add.using(id=taken).enqueue(1)
    with Session(engine) as session, session.begin():
        session.execute(text("INSERT INTO orders VALUES (1)"))
        with pytest.raises(IdTaken):
            jobs.enqueue_many([add.call(7), add.using(id=taken).call(2)], session=session)
        add.using(session=session).enqueue(3)
    assert jobs.drain() == {"succeeded": 2}
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM orders")).scalar_one() == 1


def test_a_scoped_session_and_a_sessionmakers_work_too(jobs: Duly, add: Any, engine: Any) -> None:
    from sqlalchemy.orm import scoped_session

    scoped = scoped_session(sessionmaker(engine))
    add.using(session=scoped).enqueue(1)
    scoped.commit()
    scoped.remove()
    assert jobs.drain() == {"succeeded": 1}


# ── ids given, replies lost ───────────────────────────────────────────────────────────────────


class LostReplies:
    """Commits, then says that the connection was lost; *times* in a row."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        self.left, self.sent, self.inner = times, 0, store.writing
        monkeypatch.setattr(store, "writing", self.writing)

    @contextlib.contextmanager
    def writing(self) -> Any:
        with self.inner() as connection:
            yield connection
        self.sent += 1
        if self.left:
            self.left -= 1
            raise DatabaseUnavailable("the reply was lost")


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("count", [1, 3])
def test_an_enqueue_whose_reply_was_lost_makes_one_job(
    jobs: Duly, add: Any, monkeypatch: pytest.MonkeyPatch, times: int, count: int
) -> None:
    replies = LostReplies(jobs.store, monkeypatch, times)
    handles = jobs.enqueue_many([add.call(n) for n in range(count)]) if count > 1 else [add.enqueue(1)]
    assert replies.sent == times + 1
    assert len({handle.id for handle in handles}) == count
    assert jobs.drain() == {"succeeded": count}


def test_an_enqueue_whose_reply_was_lost_and_whose_job_has_run_meanwhile_makes_no_second_one(
    jobs: Duly, add: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = LostReplies(jobs.store, monkeypatch, 1)
    inner = replies.inner

    @contextlib.contextmanager
    def run_meanwhile() -> Any:
        if replies.sent == 1:
            monkeypatch.setattr(jobs.store, "writing", inner)
            jobs.drain()
        with inner() as connection:
            yield connection

    replies.inner = run_meanwhile
    handle = add.enqueue(1)
    assert handle.refresh().outcome == "succeeded"
    assert jobs.drain() == {}


def test_an_enqueue_gives_up_after_some_tries_and_says_so(
    jobs: Duly, add: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = LostReplies(jobs.store, monkeypatch, 100)
    with pytest.raises(DatabaseUnavailable):
        add.enqueue(1)
    assert replies.sent == 3
    assert jobs.drain() == {"succeeded": 1}


def test_the_same_id_and_content_again_is_the_same_job(jobs: Duly, add: Any) -> None:
    identity = new_id()
    for _ in range(3):
        assert add.using(id=identity, priority=4).enqueue(1).id == identity
    assert jobs.drain() == {"succeeded": 1}
    assert add.using(id=identity).enqueue(1).refresh().outcome == "succeeded"
    assert jobs.drain() == {}


def test_the_same_id_with_other_content_is_taken_and_writes_nothing(jobs: Duly, add: Any) -> None:
    @jobs.task(name="tests.other")
    def other(a: int) -> None: ...

    identity = new_id()
    add.using(id=identity).enqueue(1)
    clashes = [
        lambda: add.using(id=identity).enqueue(2),
        lambda: add.using(id=identity, queue="mail").enqueue(1),
        lambda: add.using(id=identity, max_attempts=3).enqueue(1),
        lambda: other.using(id=identity).enqueue(1),
        lambda: jobs.enqueue_many([add.call(8), add.using(id=identity).call(2)]),
    ]
    for clash in clashes:
        with pytest.raises(IdTaken, match=str(identity)):
            clash()
    scene = Scene(jobs.store)
    assert scene.count() == 1
    assert jobs.drain() == {"succeeded": 1}
    for clash in clashes:
        with pytest.raises(IdTaken):
            clash()
    assert scene.count() == 0


def test_an_existing_id_in_a_batch_goes_by_the_careful_path(jobs: Duly, add: Any) -> None:
    identity = new_id()
    add.using(id=identity).enqueue(1)
    handles = jobs.enqueue_many([add.call(5), add.using(id=identity).call(1), add.call(6)])
    assert handles[1].id == identity
    assert jobs.drain() == {"succeeded": 3}


def test_an_id_that_has_ended_is_not_inserted_again_also_in_a_batch(jobs: Duly, add: Any) -> None:
    identity = new_id()
    add.using(id=identity).enqueue(1)
    jobs.drain()
    jobs.enqueue_many([add.call(5), add.using(id=identity).call(1)])
    assert jobs.drain() == {"succeeded": 1}


def test_a_clash_of_new_ids_goes_by_the_careful_path(
    jobs: Duly, add: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes that made the same id: improbable, and no job is silently swallowed."""
    ids = [new_id(), new_id()]
    monkeypatch.setattr("duly.client.new_id", iter([*ids, *ids]).__next__)
    jobs.enqueue_many([add.call(1), add.call(2)])
    with pytest.raises(IdTaken):
        jobs.enqueue_many([add.call(3), add.call(4)])
    assert jobs.drain() == {"succeeded": 2}


def test_with_another_key_at_the_front_the_same_content_is_still_the_same(
    database: Database, store: Store
) -> None:
    old, new = "old:" + "A" * 43 + "=", "new:" + "B" * 42 + "A="
    identity = new_id()
    for keys, content, fits in (
        (old, 1, True),
        (f"{new},{old}", 1, True),
        (f"{new},{old}", 2, False),
        (new, 1, False),
    ):
        app = Duly(database.url, keys=keys)

        @app.task(name="tests.keyed")
        def keyed(a: int) -> None: ...

        try:
            if fits:
                assert keyed.using(id=identity).enqueue(content).id == identity
            else:
                with pytest.raises(IdTaken):
                    keyed.using(id=identity).enqueue(content)
        finally:
            app.close()


def test_the_ledgers_digest_decides_too(scene: Scene) -> None:
    job = scene.enqueue(digest=b"x" * 32, key_id="k7")
    worker = scene.worker()
    worker.exchange(succeeded(worker.claim_one()))
    assert scene.again(replace(job, digest=b"y" * 32)) == {job.id: (b"x" * 32, "k7")}


def test_enqueue_many_of_nothing_writes_nothing(jobs: Duly, add: Any) -> None:
    assert jobs.enqueue_many([]) == []


def test_a_connection_given_is_left_open_and_uncommitted(jobs: Duly, add: Any, engine: Any) -> None:
    with engine.connect() as connection:
        assert isinstance(connection, Connection)
        add.using(connection=connection).enqueue(1)
        assert connection.in_transaction()
        connection.commit()
    assert jobs.drain() == {"succeeded": 1}
