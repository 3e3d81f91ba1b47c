"""MySQL's and MariaDB's own ways: sessions that remember, collations that blur, tables that commit, scans that lock."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, event, func, select, text
from sqlalchemy.exc import DataError, IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.orm import Session

from duly import Duly
from duly.errors import DatabaseBusy, DatabaseUnavailable, SchemaError, SettingsError
from duly.store import engines, make_engine, migrate
from duly.store.dialect.mysql import OLDEST_MARIADB
from tests.databases import Database
from tests.store.scene import Scene, failed, new_job, retried, succeeded

LIMITS = (
    "SELECT @@innodb_lock_wait_timeout, @@lock_wait_timeout, @@max_statement_time, @@idle_transaction_timeout"
)


@pytest.fixture
def app(mysql_database: Database, open_store: Any) -> Iterator[Duly]:
    open_store(mysql_database)
    app = Duly(mysql_database.url)
    app.task(name="tests.note")(_note)
    yield app
    app.close()


def _note(n: int = 0) -> None: ...


def limits(connection: Connection) -> list[float]:
    return [float(value) for value in connection.exec_driver_sql(LIMITS).one()]


# ── sessions ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("level", [None, "SERIALIZABLE", "AUTOCOMMIT", "READ COMMITTED"])
def test_own_transactions_are_read_committed_on_any_engine(
    mysql_database: Database, open_store: Any, level: str | None
) -> None:
    store = open_store(mysql_database, **({"isolation_level": level} if level else {}))
    for n in range(2):
        with store.writing() as connection:
            store.jobs.insert(connection, new_job())
            jobs = select(func.count()).select_from(store.tables.jobs)
            assert connection.scalar(jobs) == n + 1
            Scene(store).enqueue()
            assert connection.scalar(jobs) == n + 2, "what others have committed meanwhile is seen"
            connection.rollback()
    assert Scene(store).count() == 2
    with store.engine.connect() as connection:
        usual = connection.exec_driver_sql("SELECT @@tx_isolation").scalar_one()
    assert usual == (level or "REPEATABLE READ").replace(" ", "-") or level == "AUTOCOMMIT"


def test_a_line_tells_its_session_once_and_gives_it_back_as_it_came(
    mysql_database: Database, open_store: Any
) -> None:
    store = open_store(mysql_database, pool_size=1, max_overflow=0)
    with store.engine.connect() as connection:
        usual, session = limits(connection), connection.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one()
    said: list[str] = []
    event.listen(store.engine, "before_cursor_execute", lambda *a: said.append(a[2]))
    line = store.line(lock=1.5, statement=7.5, idle=9)
    for _ in range(3):
        with line.transaction() as connection:
            assert limits(connection) == [2, 2, 7.5, 9]
    line.close()
    assert sum(statement.startswith("SET SESSION") for statement in said) == 1
    with store.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one() == session
        assert limits(connection) == usual


def test_what_duly_makes_of_a_url_is_read_committed_from_the_start(mysql_database: Database) -> None:
    for scheme in ("mysql", "mariadb", "mysql+pymysql", "mariadb+pymysql"):
        engine = make_engine(mysql_database.url.replace("mysql+pymysql", scheme))
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT @@tx_isolation").scalar_one() == "READ-COMMITTED"
            with pytest.raises(ProgrammingError):
                connection.exec_driver_sql("SELECT 1; SELECT 2")
        engine.dispose()


def test_both_schemes_are_one_database(mysql_database: Database, app: Duly) -> None:
    engine = create_engine(mysql_database.url.replace("mysql+", "mariadb+"))
    with Session(engine) as session, session.begin():
        app.find("tests.note").using(session=session).enqueue(1)  # type: ignore[union-attr]
    other = Duly(engine)
    other.task(name="tests.note")(_note)
    assert other.drain() == {"succeeded": 1}
    other.close()


def test_a_frozen_transaction_of_a_task_ends_by_itself(mysql: Scene) -> None:
    store = mysql.store
    job = mysql.enqueue()
    with pytest.raises(DatabaseUnavailable), store.guarded(), store.engine.connect() as connection:  # noqa: PT012
        store.dialect.begin(connection)
        store.dialect.limit_task(connection, statement=60, idle=1)
        jobs = store.tables.jobs
        connection.execute(select(jobs).where(jobs.c.id == job.id).with_for_update())
        mysql.until_free(job.id)
        connection.execute(select(jobs))


# ── the server ────────────────────────────────────────────────────────────────────────────────


def test_servers_that_are_too_old_are_refused(
    mysql_database: Database, open_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = (OLDEST_MARIADB[0] + 90, 1)
    monkeypatch.setattr("duly.store.dialect.mysql.OLDEST_MARIADB", newer)
    store = open_store(mysql_database, made_tables=False)
    for act in (store.open, lambda: migrate(store)):
        with pytest.raises(SettingsError, match=r"MariaDB 1.*needs 100\.1 or newer"):
            act()


def test_a_default_engine_without_transactions_is_refused(mysql_database: Database, open_store: Any) -> None:
    told = {"init_command": "SET default_storage_engine = MyISAM"}
    store = open_store(mysql_database, made_tables=False, connect_args=told)
    with pytest.raises(SettingsError, match=r"MyISAM.*default_storage_engine=InnoDB"):
        migrate(store)


def test_a_schema_is_refused_with_the_remedy(mysql_database: Database) -> None:
    with pytest.raises(SettingsError, match="the URL's database"):
        _ = Duly(mysql_database.url, schema="jobs").store


def test_tables_are_innodb_and_their_words_exact(mysql: Scene) -> None:
    """Whatever the server's default collation is: no case, accent or trailing space is lost."""
    with mysql.store.reading() as connection:
        made = connection.exec_driver_sql("SHOW CREATE TABLE duly_jobs").one()[1]
    assert "ENGINE=InnoDB" in made
    assert "`queue` varchar(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin" in made
    assert "`id` char(36) CHARACTER SET ascii COLLATE ascii_bin" in made
    names = ["mail", "Mail", "mail ", "máil", "MAIL"]
    for name in names:
        mysql.enqueue(queue=name)
    worker = mysql.worker()
    for name in names:
        (job,) = worker.claim(10, name)
        assert job.queue == name
    assert mysql.store.tables.jobs.c.queue.type.length == 200


def test_a_migration_that_was_cut_off_is_finished_by_the_next(
    mysql_database: Database, open_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every table, index and column; one installation, whatever happens."""
    from alembic import op

    store = open_store(mysql_database, made_tables=False)
    steps = 0
    while True:
        steps += 1
        left = steps
        with monkeypatch.context() as patch:
            for name in ("create_table", "create_index", "add_column"):
                honest = getattr(op, name)

                def cut(*given: Any, honest: Callable[..., Any] = honest, **options: Any) -> Any:
                    nonlocal left
                    left -= 1
                    if not left:
                        raise ZeroDivisionError
                    return honest(*given, **options)

                patch.setattr(op, name, cut)
            try:
                migrate(store)
            except ZeroDivisionError:
                with pytest.raises(SchemaError):
                    store.open()
            else:
                break
    assert steps >= 8
    store.open()
    with store.reading() as connection:
        assert len(connection.execute(select(store.tables.installation)).all()) == 1
    Scene(store).enqueue()


# ── errors ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (1205, DatabaseBusy), (1213, DatabaseBusy), (1317, DatabaseBusy), (1969, DatabaseBusy), (3024, DatabaseBusy),
        (3572, DatabaseBusy), (1020, DatabaseBusy), (1040, DatabaseUnavailable), (1053, DatabaseUnavailable),
        (1203, DatabaseUnavailable), (1290, DatabaseUnavailable), (1927, DatabaseUnavailable),
        (2006, DatabaseUnavailable), (2013, DatabaseUnavailable), (4031, DatabaseUnavailable),
        (1146, SchemaError), (1054, SchemaError),
    ],
)  # fmt: skip
def test_numbers_are_translated(mysql: Scene, code: int, error: type[Exception]) -> None:
    with pytest.raises(error) as fault, mysql.store.writing() as connection:
        connection.exec_driver_sql(f"SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = {code}, MESSAGE_TEXT = 'm'")
    assert fault.value.__cause__ is not None
    assert getattr(fault.value, "repeat", False) == (code in {1213, 1020})


@pytest.mark.parametrize(("code", "error"), [(1062, IntegrityError), (1064, ProgrammingError)])
def test_faults_that_are_ours_to_see_pass_as_they_are(
    mysql: Scene, code: int, error: type[Exception]
) -> None:
    with pytest.raises(error), mysql.store.writing() as connection:
        connection.exec_driver_sql(f"SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = {code}, MESSAGE_TEXT = 'm'")


def test_what_passes_over_known_keys_passes_over_nothing_else(mysql: Scene) -> None:
    """INSERT IGNORE would cut the text to its length."""
    job = mysql.enqueue()
    store = mysql.store
    row = mysql.row(job.id)
    assert row is not None
    with store.writing() as connection:
        connection.execute(store.dialect.insert_or_ignore(store.tables.jobs), [row | {"task": "other"}])
    assert mysql.row(job.id) == row
    with pytest.raises(DataError), store.writing() as connection:  # noqa: PT012
        longer = row | {"id": new_job().id, "task": "x" * 201}
        connection.execute(store.dialect.insert_or_ignore(store.tables.jobs), [longer])


def test_rows_of_many_packets_go_in_and_out(mysql: Scene) -> None:
    jobs = [new_job(envelope=bytes([n]) * 300_000) for n in range(100)]
    with mysql.store.writing() as connection:
        assert mysql.store.jobs.insert_many(connection, jobs)
    worker = mysql.worker()
    held = worker.claim(100)
    assert [job.envelope for job in held] == [job.envelope for job in jobs]
    worker.exchange(*(failed(job) for job in held[:50]), *(succeeded(job, job.envelope) for job in held[50:]))
    assert mysql.ended(held[0].id)["envelope"] == jobs[0].envelope  # type: ignore[index]
    assert mysql.ended(held[99].id)["result"] == jobs[99].envelope  # type: ignore[index]


# ── locks ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("count", [2, 3, 6, 20])
def test_no_statement_reads_past_its_own_rows(mysql: Scene, count: int) -> None:
    """In a small table the planner prefers to read it all, and a locking statement then waits for others' rows."""
    scene = mysql
    scene.enqueue_many(count)
    worker, other = scene.worker(), scene.worker()
    (foreign,) = other.claim(1)
    held = worker.claim(count - 1)
    jobs = scene.store.tables.jobs
    with scene.frozen() as frozen, scene.store.line(lock=1, statement=5, idle=30).transaction() as own:
        frozen.execute(select(jobs).where(jobs.c.id == foreign.id).with_for_update())
        third = (len(held) + 2) // 3
        reports = [succeeded(job, b"r") for job in held[:third]]
        reports += [failed(job) for job in held[third : 2 * third]]
        reports += [retried(job) for job in held[2 * third :]]
        assert worker.exchange(*reports, on=own).lost == set()
        scene.store.jobs.insert_again(own, [new_job(id=job.id) for job in held])
        scene.store.workers.remove(own, [worker.name])
    assert scene.row(foreign.id) is not None


def test_workers_and_enqueuers_meet_no_deadlock(mysql: Scene) -> None:
    """READ COMMITTED locks no gaps: four workers exchange over two queues while others enqueue and rescue."""
    scene, faults, done = mysql, list[BaseException](), list[int]()
    scene.enqueue_many(400, queue="a")
    scene.enqueue_many(400, queue="b")

    def work(worker: Any) -> None:
        held: list[Any] = []
        try:
            for n in range(40):
                reports = [retried(job) if n % 7 == 6 else succeeded(job) for job in held]
                held = worker.exchange(*reports, queues=("a", "b"), limit=10).claimed
                done.append(len(held))
                scene.enqueue_many(3, queue="ab"[n % 2])
                scene.upkeep()
                scene.rescue("nobody")
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(scene.worker(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert sum(done) > 600


class Embrace:
    """A deadlock that the other one survives: it has changed more rows."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.jobs = scene, scene.enqueue_many(5)
        self.table = scene.store.tables.jobs

    def lock(self, connection: Any, n: int) -> None:
        job = self.jobs[n].id
        connection.execute(self.table.update().where(self.table.c.id == job).values(trace="locked"))

    def meet(self, victim: Callable[[Callable[[], None]], None]) -> None:
        """*victim* takes row 0, calls what it is given, and asks for row 1."""
        scene = self.scene
        with scene.frozen() as connection:
            for n in (1, 2, 3, 4):
                self.lock(connection, n)
            thread = threading.Thread(target=self.lock, args=(connection, 0))

            def close_the_circle() -> None:
                thread.start()
                deadline = time.monotonic() + 20
                while not scene.lock_waits():
                    assert time.monotonic() < deadline

            victim(close_the_circle)
            thread.join()


def test_an_enqueue_that_is_a_deadlocks_victim_is_repeated(
    mysql: Scene, app: Duly, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a savepoint as well, which the deadlock undoes too."""
    store, tries = app.store, list[int]()
    honest = store.dialect.insert_many

    def met(connection: Any, jobs: Any) -> bool:
        tries.append(len(jobs))
        with connection.begin_nested():
            if len(tries) == 1:
                connection.exec_driver_sql(
                    "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'm'"
                )
            return honest(connection, jobs)

    monkeypatch.setattr(store.dialect, "insert_many", met)
    note: Any = app.find("tests.note")
    app.enqueue_many([note.call(1), note.call(2)])
    assert app.drain() == {"succeeded": 2}


def test_a_deadlock_under_a_savepoint_is_busy_and_worth_repeating(mysql: Scene) -> None:
    embrace, store = Embrace(mysql), mysql.store

    def victim(close_the_circle: Callable[[], None]) -> None:
        with pytest.raises(DatabaseBusy) as fault, store.writing() as connection, connection.begin_nested():  # noqa: PT012
            embrace.lock(connection, 0)
            close_the_circle()
            embrace.lock(connection, 1)
        assert fault.value.repeat

    embrace.meet(victim)


@pytest.mark.parametrize("swallowed", [False, True])
def test_a_task_that_is_a_deadlocks_victim_has_written_nothing_and_is_tried_again(
    mysql: Scene, app: Duly, swallowed: bool
) -> None:
    """It is no commit from outside; and who swallows it must not commit the other half."""
    embrace = Embrace(mysql)
    with app.store.writing() as connection:
        connection.exec_driver_sql("CREATE TABLE effects (n int)")

    def act(close_the_circle: Callable[[], None]) -> None:
        transaction = app.store.task_transaction("w", held, run_time=60, lease=15, session=None)
        transaction.start()
        session = transaction.session()
        session.execute(text("INSERT INTO effects VALUES (1)"))
        embrace.lock(session, 0)
        close_the_circle()
        with pytest.raises(OperationalError, match="1213"):
            embrace.lock(session, 1)
        if swallowed:
            connection = transaction.connection
            connection.exec_driver_sql("INSERT INTO effects VALUES (2)")
            with pytest.raises(DatabaseBusy, match="deadlock"):
                transaction._steps.record(connection, held.run_at, None)
        assert transaction.abandon() is True, "nothing of it can stand"

    held = mysql.worker("w").claim_one() if mysql.enqueue(queue="default") else None
    assert held is not None
    embrace.meet(act)
    with app.store.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM effects").scalar_one() == 0


def test_a_table_that_a_task_makes_commits_and_is_noticed(mysql: Scene, app: Duly) -> None:
    mysql.enqueue()
    held = mysql.worker("w").claim_one()
    transaction = app.store.task_transaction("w", held, run_time=60, lease=15, session=None)
    transaction.start()
    transaction.session().execute(text("CREATE TABLE orders (n int)"))
    assert transaction.abandon() is False


# ── the network ───────────────────────────────────────────────────────────────────────────────


def test_a_server_that_says_nothing_is_noticed_and_a_slow_statement_is_not_cut(
    mysql_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(engines._CONNECT, "connect_timeout", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        app = Duly(f"mysql://somebody@127.0.0.1:{silent.getsockname()[1]}/nothing")
        with pytest.raises(DatabaseUnavailable):
            _ = app.store
    engine = make_engine(mysql_database.url)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT SLEEP(1.2)").scalar_one() == 0
        line: Any = connection.connection.driver_connection
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT):
            assert 0 < line._sock.getsockopt(socket.IPPROTO_TCP, option) <= 10
    engine.dispose()
