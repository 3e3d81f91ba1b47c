"""What wakes a worker: NOTIFY on PostgreSQL, the -wal file on SQLite. And what says that nothing does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from duly.model.report import Released
from duly.model.states import State
from duly.store.dialect.base import Waker
from duly.store.dialect.listener import Listener, channel_of
from tests.store.scene import LEASE, Scene, Worker, new_job

PATIENCE = 20.0


class Bell:
    """Rung from another thread."""

    def __init__(self) -> None:
        self._rung = threading.Semaphore(0)

    def ring(self) -> None:
        self._rung.release()

    def wait(self) -> None:
        assert self._rung.acquire(timeout=PATIENCE), "the bell was not rung"

    def forget(self) -> None:
        while self._rung.acquire(blocking=False):
            pass

    @property
    def silent(self) -> bool:
        return not self._rung.acquire(blocking=False)


@contextmanager
def woken(scene: Scene, worker: str, bell: Bell) -> Iterator[Waker]:
    waker = scene.store.dialect.waker(scene.store.engine)
    assert waker is not None
    waker.start(bell.ring, lambda: worker)
    try:
        yield waker
    finally:
        waker.close()


def beat(scene: Scene, worker: Worker, waker: Waker) -> None:
    waker.expect_echo()
    with scene.store.writing() as connection:
        scene.store.workers.pulse(connection, worker.name, LEASE)


def until_proven(scene: Scene, worker: Worker, waker: Waker) -> None:
    """As the worker does: a beat as soon as it is wanted."""
    ended = threading.Event()
    timer = threading.Timer(PATIENCE, ended.set)
    timer.start()
    try:
        while not waker.proven:
            assert not ended.is_set(), "it never heard itself"
            if waker.wants_ping:
                beat(scene, worker, waker)
    finally:
        timer.cancel()
        timer.join()


def fall_asleep(scene: Scene, worker: Worker, *, asleep: bool = True) -> None:
    with scene.store.writing() as connection:
        scene.store.workers.sleeps(connection, worker.name, asleep=asleep)


def notified(scene: Scene, act: Any) -> int:
    """How many notifications everybody is sent by what *act* does in one transaction."""
    with scene.store.engine.connect() as listening:
        driver: Any = listening.connection.driver_connection
        listening.detach()
        driver.autocommit = True
        driver.execute(f"LISTEN {channel_of(scene.store.tables)}")
        with scene.store.writing() as connection:
            act(connection)
        with scene.store.writing() as connection:  # what is heard last was sent last
            connection.exec_driver_sql(f"NOTIFY {channel_of(scene.store.tables)}, 'end'")
        count = 0
        for note in driver.notifies(timeout=PATIENCE):
            if note.payload == "end":
                return count
            count += note.payload == ""
    raise AssertionError("nothing was heard")


# ── PostgreSQL ────────────────────────────────────────────────────────────────────────────────


def test_an_enqueue_wakes_a_worker_that_sleeps(postgresql: Scene) -> None:
    scene, bell = postgresql, Bell()
    worker = scene.worker()
    fall_asleep(scene, worker)
    with woken(scene, worker.name, bell) as waker:
        until_proven(scene, worker, waker)
        bell.forget()
        scene.enqueue()
        bell.wait()


def test_nobody_is_notified_while_nobody_sleeps(postgresql: Scene) -> None:
    worker = postgresql.worker()
    jobs = postgresql.store.jobs
    assert notified(postgresql, lambda c: jobs.insert(c, new_job())) == 0
    fall_asleep(postgresql, worker)
    assert notified(postgresql, lambda c: jobs.insert(c, new_job())) == 1
    fall_asleep(postgresql, worker, asleep=False)
    assert notified(postgresql, lambda c: jobs.insert(c, new_job())) == 0


@pytest.mark.parametrize("way", ["one by one", "in bulk", "again"])
def test_a_transaction_notifies_once(postgresql: Scene, way: str) -> None:
    for _ in range(2):
        fall_asleep(postgresql, postgresql.worker())
    jobs, new = postgresql.store.jobs, [new_job() for _ in range(3)]

    def act(connection: Any) -> None:
        match way:
            case "one by one":
                for job in new:
                    jobs.insert(connection, job)
            case "in bulk":
                assert jobs.insert_many(connection, new)
            case _:
                jobs.insert_again(connection, new)

    assert notified(postgresql, act) == 1


def test_what_is_given_back_wakes_others(postgresql: Scene) -> None:
    """One that took too many gives them back while its neighbours sleep."""
    worker = postgresql.worker()
    postgresql.enqueue()
    job = worker.claim_one()
    fall_asleep(postgresql, postgresql.worker())
    assert notified(postgresql, lambda c: worker.exchange(Released(job.id, job.claim), on=c)) == 1
    job = worker.claim_one()
    worker.die()
    rescue = postgresql.store.rescue
    assert notified(postgresql, lambda c: rescue.offer_again(c, [worker.name])) == 1


def test_what_becomes_due_wakes_others(postgresql: Scene) -> None:
    fall_asleep(postgresql, postgresql.worker())
    postgresql.enqueue(state=State.SCHEDULED)
    assert notified(postgresql, postgresql.store.upkeep.promote) == 1


def test_a_listener_whose_connection_dies_is_replaced(postgresql: Scene) -> None:
    scene, bell = postgresql, Bell()
    worker = scene.worker()
    fall_asleep(scene, worker)
    with woken(scene, worker.name, bell) as waker:
        until_proven(scene, worker, waker)
        with scene.store.writing() as connection:
            killed = connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE query LIKE 'LISTEN duly%%' AND datname = current_database()"
            ).all()
        assert killed == [(True,)]
        bell.forget()
        bell.wait()  # the new one looks once, since nobody told it what came meanwhile
        until_proven(scene, worker, waker)
        bell.forget()
        scene.enqueue()
        bell.wait()


def test_one_that_hears_nothing_of_its_own_is_not_relied_on(
    postgresql: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler in transaction mode: LISTEN is answered, and nothing ever comes."""
    monkeypatch.setattr("duly.store.dialect.listener.ECHO", 0.05)
    scene, bell = postgresql, Bell()
    worker = scene.worker()
    listener = Listener(scene.store.engine, "duly_elsewhere")
    listener.start(bell.ring, lambda: worker.name)
    try:
        bell.wait()  # it listens
        assert listener.wants_ping
        beat(scene, worker, listener)
        bell.wait()  # it was deaf, and has been replaced
        assert not listener.proven
    finally:
        listener.close()


def test_installations_beside_each_other_have_channels_of_their_own(postgresql: Scene) -> None:
    from duly.store import Names
    from duly.store.schema import tables

    names = [Names(), Names("other_"), Names(schema="jobs"), Names("x" * 40, "y" * 40)]
    channels = {channel_of(tables(name, "postgresql")) for name in names}
    assert len(channels) == 4
    assert all(len(channel) <= 63 and channel.isidentifier() for channel in channels)


# ── SQLite ────────────────────────────────────────────────────────────────────────────────────


def test_a_commit_to_the_file_wakes_its_workers(sqlite: Scene) -> None:
    bell = Bell()
    with woken(sqlite, "w", bell) as waker:
        assert waker.proven
        sqlite.enqueue()
        bell.wait()


def test_writes_to_other_files_beside_it_do_not(sqlite: Scene) -> None:
    bell = Bell()
    folder = sqlite.store.dialect.lives.database.parent  # type: ignore[attr-defined]
    with woken(sqlite, "w", bell):
        (folder / "another.db-wal").write_bytes(b"x")
        assert bell.silent
        sqlite.enqueue()
        bell.wait()


def test_what_a_connection_wrote_itself_is_no_news_to_it(sqlite: Scene) -> None:
    line = sqlite.store.line(lock=1, statement=1, idle=1)
    try:
        with line.transaction() as connection:
            sqlite.store.jobs.insert(connection, new_job())
        line.news()
        with line.transaction() as connection:
            sqlite.store.jobs.insert(connection, new_job())
        assert not line.news()
        sqlite.enqueue()
        assert line.news()
        assert not line.news()
    finally:
        line.close()
