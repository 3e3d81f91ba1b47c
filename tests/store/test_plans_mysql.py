"""Plans on MySQL and MariaDB, as ``test_plans.py`` guards them elsewhere: each statement, explained as it is sent."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event

from duly.store import Store
from tests.store.scene import LEASE, Scene, new_job
from tests.store.test_plans import ACTS, FILL_ATTEMPTS, FILL_JOBS, FILL_LEDGER

MANY = 12_000
WORDS = {
    "id": "UUID()", "now": "UTC_TIMESTAMP(6)", "bytes": "x'00'",
    "numbers": f"(SELECT CAST(seq AS SIGNED) AS n FROM seq_1_to_{MANY}) AS numbers",
    "run_at": "UTC_TIMESTAMP(6) + INTERVAL (n % 1000 - 500) SECOND",
    "expires_at": "UTC_TIMESTAMP(6) + INTERVAL 9 DAY",
}  # fmt: skip
TABLES = {
    "duly_jobs": "jobs",
    "j": "jobs",
    "gone": "jobs",
    "duly_executions": "ledger",
    "duly_attempts": "attempts",
}


def fill(store: Store) -> None:
    with store.writing() as connection:
        for statement in (FILL_JOBS, FILL_LEDGER, FILL_ATTEMPTS):
            words = statement.format(**WORDS)
            words = re.sub(r"'(\w+-?)' \|\| \(([^()]*)\)", r"CONCAT('\1', \2)", words)
            connection.exec_driver_sql(words.replace("%", "%%"))
        connection.exec_driver_sql("ANALYZE TABLE duly_jobs, duly_executions, duly_attempts").all()


@pytest.fixture
def filled(mysql: Scene) -> Scene:
    fill(mysql.store)
    mysql.worker("w")
    mysql.enqueue_many(100, queue="mine")
    return mysql


@contextlib.contextmanager
def explained(store: Store, plans: list[tuple[str, list[dict[str, Any]]]]) -> Iterator[None]:
    """Each statement that is sent, with its plan: a row for each table that it reads."""

    def before(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if re.match(r"\s*(WITH|SELECT|UPDATE|DELETE|INSERT)\b", statement):
            asking = conn.connection.driver_connection.cursor()
            asking.execute("EXPLAIN " + statement, parameters[0] if many else parameters)
            names = [column[0] for column in asking.description]
            plans.append((statement, [dict(zip(names, row, strict=True)) for row in asking.fetchall()]))

    event.listen(store.engine, "before_cursor_execute", before)
    try:
        yield
    finally:
        event.remove(store.engine, "before_cursor_execute", before)


def reads_it_all(line: dict[str, Any]) -> bool:
    """A table, or an index of it, from one end to the other; the first to expire is taken from its index's end."""
    if line["table"] not in TABLES or line["key"] == "duly_jobs_expiring":
        return False
    if line["key"] == "duly_executions_ended" and line["type"] == "index":
        return False  # the newest, from its other end
    return line["type"] in {"ALL", "index"} and int(line["rows"] or 0) > 1000


BY = {
    "exchange_one": "duly_jobs_claim", "exchange_several": "duly_jobs_claim", "waiting_queues": "duly_jobs_claim",
    "upkeep": "duly_jobs_expiring", "promote": "duly_jobs_scheduled", "expire": "duly_jobs_expiring",
    "held_by": "duly_jobs_running", "offer_again": "duly_jobs_running", "prune": "duly_executions_ended",
}  # fmt: skip


def test_plans_of_all_hot_statements_use_indexes(filled: Scene) -> None:
    scene, wrong = filled, []
    for name, act in ACTS.items():
        plans: list[tuple[str, list[dict[str, Any]]]] = []
        with scene.frozen() as connection:
            held = scene.store.jobs.exchange(connection, "w", [], ("mine",), 100)[0].claimed
            assert len(held) == 100
            with explained(scene.store, plans):
                act(scene, connection, held)
        assert plans, name
        used = {line["key"] for _, lines in plans for line in lines}
        if BY.get(name) not in used | {None}:
            wrong.append(f"{name}: not by {BY[name]} but {used}")
        wrong += [
            f"{name}: {line}\n{statement}"
            for statement, lines in plans
            for line in lines
            if reads_it_all(line)
        ]
    assert not wrong, "\n\n".join(wrong)


def test_beats_and_looks_for_the_dead_use_indexes(filled: Scene) -> None:
    plans: list[tuple[str, list[dict[str, Any]]]] = []
    with filled.frozen() as connection, explained(filled.store, plans):
        filled.store.workers.pulse(connection, "w", LEASE)
        filled.store.dialect.dead_workers(connection, LEASE, "judge")
        filled.store.rescue.orphaning_workers(connection)
    assert plans
    assert [line for _, lines in plans for line in lines if reads_it_all(line)] == []


def test_a_plan_without_its_index_is_noticed(filled: Scene) -> None:
    """The guard can fail."""
    with filled.store.writing() as connection:
        connection.exec_driver_sql("DROP INDEX duly_jobs_running ON duly_jobs")
        connection.exec_driver_sql("DROP INDEX duly_jobs_claim ON duly_jobs")
        connection.exec_driver_sql("DROP INDEX duly_jobs_scheduled ON duly_jobs")
    plans: list[tuple[str, list[dict[str, Any]]]] = []
    with filled.frozen() as connection, explained(filled.store, plans):
        filled.store.jobs.held_by(connection, "worker-19")
    assert any(reads_it_all(line) for _, lines in plans for line in lines)


def rows_read(scene: Scene, act: Any) -> int:
    """How many rows the server read for it."""
    handlers = "SHOW SESSION STATUS WHERE Variable_name LIKE 'Handler_read%%'"
    with scene.frozen() as connection:
        before = sum(int(row[1]) for row in connection.exec_driver_sql(handlers))
        act(connection)
        return sum(int(row[1]) for row in connection.exec_driver_sql(handlers)) - before


def test_claims_and_looks_read_no_more_than_they_take(filled: Scene) -> None:
    """Rows, not only plans: 20 jobs out of 5,000 available ones in four queues, and the names of all queues."""
    worker = filled.worker()
    queues = ("q1", "q2", "q3", "q4")
    assert rows_read(filled, lambda c: worker.claim(20, "q1", on=c)) < 20 * 10
    assert rows_read(filled, lambda c: worker.claim(20, *queues, on=c)) < 20 * 4 * 10
    assert rows_read(filled, filled.store.upkeep.waiting_queues) < 200
    assert rows_read(filled, filled.store.upkeep.look) < 50
    assert rows_read(filled, lambda c: filled.store.workers.pulse(c, "w", LEASE)) < MANY / 10 + 500


def test_a_claim_from_a_position_begins_there(filled: Scene) -> None:
    """And leaves nothing out: pages of 50 are the whole queue, in its order."""
    scene, jobs = filled, filled.store.jobs
    with scene.frozen() as connection:
        whole = jobs.exchange(connection, "w", [], ("q1",), 3000)[0].claimed
    assert len(whole) > 276
    place = {"q1": (whole[250].priority, whole[250].run_at, whole[250].id)}

    def claim(connection: Any) -> None:
        (exchanged, _) = jobs.exchange(connection, "w", [], ("q1",), 20, after=place)
        assert [job.id for job in exchanged.claimed] == [job.id for job in whole[251:271]]
        (exchanged, _) = jobs.exchange(connection, "w", [], ("q1", "none"), 5, after=place)
        assert [job.id for job in exchanged.claimed] == [job.id for job in whole[271:276]]

    assert rows_read(scene, claim) < 25 * 10


def test_positions_tell_equals_apart(mysql: Scene) -> None:
    moment = new_job().run_at
    for priority in (0, 1):
        mysql.enqueue_many(6, run_at=moment, priority=priority)
    mysql.enqueue_many(3, run_at=moment.replace(microsecond=0), priority=1)
    worker, seen = mysql.worker(), list[Any]()
    place: dict[str, Any] = {}
    while True:
        with mysql.store.writing() as connection:
            found = mysql.store.jobs.exchange(connection, worker.name, [], ("default",), 4, after=place)
        claimed = found[0].claimed
        if not claimed:
            break
        seen += claimed
        place = {"default": (claimed[-1].priority, claimed[-1].run_at, claimed[-1].id)}
    assert [(job.priority, job.run_at, job.id) for job in seen] == sorted(
        (job.priority, job.run_at, job.id) for job in seen
    )
    assert len({job.id for job in seen}) == 15
