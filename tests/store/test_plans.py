"""Plans of the hot statements, with many rows: indexes are used, nothing reads the jobs or the ledger from end to end.

The statements are those that the store sends: caught on their way, never copied. On PostgreSQL each is explained
as it is sent, and once more with a generic plan, which is what a prepared statement gets after some executions:
a partial index is only found there when its condition stands in the statement as a word, not as a parameter.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
from sqlalchemy import event

from duly.model.pruning import Keep
from duly.model.report import Ended, PutBack, Released, Succeeded
from duly.model.states import Outcome
from duly.model.wanted import Wanted
from duly.store import Store
from tests.store.scene import LEASE, Scene, new_job, now, succeeded

MIGRATED = True
MANY = 50_000

FILL_JOBS = """
INSERT INTO duly_jobs (id, origin, task, fingerprint, queue, priority, state, run_at, expires_at, enqueued_at,
                       claim, attempt, deaths, rescues, worker, digest, envelope)
SELECT {id}, {id}, 'tests.task', 'f', 'q' || (n % 5), n % 3,
       CASE WHEN n % 10 < 5 THEN 'available' WHEN n % 10 < 9 THEN 'scheduled' ELSE 'running' END,
       {run_at}, {expires_at}, {now},
       0, 0, 0, 0, CASE WHEN n % 10 = 9 THEN 'worker-' || (n % 200) END, {bytes}, {bytes}
FROM {numbers}
"""
FILL_LEDGER = """
INSERT INTO duly_executions (job_id, origin, task, queue, fingerprint, priority, outcome, claim, attempts, deaths,
                             rescues, enqueued_at, run_at, ended_at, expires_at, digest)
SELECT {id}, {id}, 'tests.task', 'q' || (n % 5), 'f', 0, 'succeeded', 1, 1, 0, 0, {now}, {now}, {run_at}, {now}, {bytes}
FROM {numbers}
"""
FILL_ATTEMPTS = """
INSERT INTO duly_attempts (job_id, claim, attempt, ended_at, cause) SELECT {id}, 1, 1, {now}, 'c' FROM {numbers}
"""
WORDS = {
    "postgresql": {
        "id": "gen_random_uuid()", "now": "now()", "bytes": r"'\x00'::bytea",
        "numbers": f"generate_series(1, {MANY}) AS n",
        "run_at": "now() + interval '1 s' * (n % 1000 - 500)", "expires_at": "now() + interval '9 days'",
    },
    "sqlite": {
        "id": "lower(substr(hex(randomblob(4)),1,8)||'-'||hex(randomblob(2))||'-7'||substr(hex(randomblob(2)),2)"
        "||'-8'||substr(hex(randomblob(2)),2)||'-'||hex(randomblob(6)))",
        "now": "strftime('%Y-%m-%d %H:%M:%f000', 'now')", "bytes": "x'00'",
        "run_at": "strftime('%Y-%m-%d %H:%M:%f000', 'now', (n % 1000 - 500) || ' seconds')",
        "expires_at": "strftime('%Y-%m-%d %H:%M:%f000', 'now', '9 days')",
        "numbers": "(WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL "
        f"SELECT n + 1 FROM c WHERE n < {MANY}) SELECT n FROM c)",
    },
}  # fmt: skip


def fill(store: Store) -> None:
    words, percent = WORDS[store.dialect.name], "%" if store.dialect.name == "sqlite" else "%%"
    with store.writing() as connection:
        for statement in (FILL_JOBS, FILL_LEDGER, FILL_ATTEMPTS):
            connection.exec_driver_sql(statement.format(**words).replace("%", percent))
        connection.exec_driver_sql("ANALYZE")


Act = Callable[[Scene, Any, list[Any]], Any]

JOBS = [new_job() for _ in range(100)]
STARTED = now()
KEEP = Keep.days(7, 30, 30)

ACTS: dict[str, Act] = {
    "exchange_one": lambda s, c, held: s.store.jobs.exchange(
        c, "w", [Succeeded(job.id, job.claim, STARTED) for job in held], ("q1",), 100
    ),
    "exchange_several": lambda s, c, held: s.store.jobs.exchange(
        c, "w", [Succeeded(job.id, job.claim, STARTED, b"r") for job in held], ("q1", "q2", "q3", "other"), 100
    ),
    "exchange_several_empty": lambda s, c, held: s.store.jobs.exchange(c, "w", [], ("none", "nowhere"), 100),
    "a repeated exchange": lambda s, c, held: s.store.jobs.exchange(
        c, "w", [Succeeded(job.id, 1, STARTED) for job in JOBS], ("q1",), 1
    ),
    "settle": lambda s, c, held: s.store.outcomes.settle(
        c, "w",
        [PutBack(job.id, job.claim, "c", counted=True, after=timedelta(1), error=b"e") for job in held[:30]]
        + [Ended(job.id, job.claim, Outcome.FAILED, "c", counted=True, error=b"e") for job in held[30:60]]
        + [Released(job.id, job.claim) for job in held[60:]],
    ),
    "settle what is lost": lambda s, c, held: s.store.outcomes.settle(
        c, "w", [PutBack(job.id, 1, "c", counted=True, after=timedelta(1)) for job in JOBS]
    ),
    "finish": lambda s, c, held: s.store.ledger.finish(c, "w", held[0], started_at=STARTED, result=None),
    "waiting_queues": lambda s, c, held: s.store.upkeep.waiting_queues(c),
    "upkeep": lambda s, c, held: s.store.upkeep.look(c),
    "promote": lambda s, c, held: s.store.upkeep.promote(c),
    "expire": lambda s, c, held: s.store.upkeep.expire(c),
    "held_by": lambda s, c, held: s.store.jobs.held_by(c, "worker-19"),
    "offer_again": lambda s, c, held: s.store.rescue.offer_again(c, ["worker-19", "worker-29"], limit=100),
    "cancel": lambda s, c, held: s.store.jobs.cancel(c, JOBS[0].id, "c"),
    "claim_one": lambda s, c, held: s.store.jobs.claim_one(c, "w", JOBS[0].id),
    "status": lambda s, c, held: s.store.ledger.status(c, JOBS[0].id),
    "attempts": lambda s, c, held: s.store.ledger.attempts(c, JOBS[0].id),
    "insert_again": lambda s, c, held: s.store.jobs.insert_again(c, JOBS),
    "prune look": lambda s, c, held: s.store.prune.look(c, KEEP, STARTED),
    "prune": lambda s, c, held: s.store.prune.round(c, KEEP),
    "ledger": lambda s, c, held: s.store.ledger.page(c, Wanted(), before=None, limit=20),
    "ledger of failed": lambda s, c, held: s.store.ledger.page(
        c, Wanted(outcome=Outcome.FAILED), before=None, limit=20
    ),
}  # fmt: skip

OF_CLIENTS = {"status", "attempts", "insert_again", "cancel", "claim_one", "ledger", "ledger of failed"}
"""What is not said through a worker's line."""

TABLES = ("jobs", "executions", "attempts")


# ── PostgreSQL ────────────────────────────────────────────────────────────────────────────────


class Explainer:
    """Between SQLAlchemy and psycopg: explains each statement before it is sent."""

    def __init__(self, store: Store, *, generic: bool) -> None:
        self._store, self._generic = store, generic
        self.plans: list[tuple[str, str]] = []
        self._asking = False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        event.listen(self._store.engine, "before_cursor_execute", self._before)
        try:
            yield
        finally:
            event.remove(self._store.engine, "before_cursor_execute", self._before)

    def _before(
        self, conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        if not re.match(r"\s*(WITH|SELECT|UPDATE|DELETE|INSERT)\b", statement):
            return
        one = parameters[0] if many else parameters
        self.plans.append((statement, self._explain(conn.connection.driver_connection, statement, one)))

    def _explain(self, driver: Any, statement: str, parameters: Any) -> str:
        asking = driver.cursor()
        if not self._generic:
            asking.execute("EXPLAIN " + statement, parameters)
            return "\n".join(row[0] for row in asking.fetchall())
        names: list[str] = []
        statement = re.sub(r"- %\((\w+)\)s", r"- CAST(%(\1)s AS interval)", statement)  # sent with its type

        def number(found: re.Match[str]) -> str:
            if found[1] not in names:
                names.append(found[1])
            return f"${names.index(found[1]) + 1}"

        asking.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        asking.execute("PREPARE asked AS " + re.sub(r"%\((\w+)\)s", number, statement).replace("%%", "%"))
        try:
            values = ", ".join(f"%({name})s" for name in names)
            literal = psycopg.ClientCursor(driver)
            arguments = f"({values})" if names else ""
            literal.execute(f"EXPLAIN EXECUTE asked{arguments}", {n: parameters[n] for n in names})  # type: ignore[arg-type]
            return "\n".join(row[0] for row in literal.fetchall())
        finally:
            asking.execute("DEALLOCATE asked")


def test_postgresql_plans_of_all_hot_statements_use_indexes(postgresql: Scene) -> None:
    """One database, filled once: filling it is what takes the time."""
    scene = postgresql
    fill(scene.store)
    scene.worker("w")
    scene.enqueue_many(100, queue="mine")
    wrong = []
    for generic in (False, True):
        for name, act in ACTS.items():
            with scene.frozen() as connection:
                held = scene.store.jobs.exchange(connection, "w", [], ("mine",), 100)[0].claimed
                assert len(held) == 100
                if name not in OF_CLIENTS:
                    scene.store.dialect.limit_waits(connection, lock=1, statement=60, idle=60)
                explainer = Explainer(scene.store, generic=generic)
                with explainer.watching():
                    act(scene, connection, held)
            assert explainer.plans, name
            for statement, plan in explainer.plans:
                read = [table for table in TABLES if re.search(rf"Seq Scan on duly_{table}\b", plan)]
                if read:
                    kind = "generic" if generic else "custom"
                    wrong.append(f"{name} ({kind}): reads {read}\n{statement[:300]}\n{plan}")
    assert not wrong, "\n\n".join(wrong)


def test_a_plan_without_its_index_is_noticed(postgresql: Scene) -> None:
    """The guard can fail."""
    scene = postgresql
    fill(scene.store)
    with scene.store.writing() as connection:
        connection.exec_driver_sql("DROP INDEX duly_jobs_claim")
        connection.exec_driver_sql("DROP INDEX duly_jobs_running")
    for generic, name in ((False, "waiting_queues"), (True, "held_by")):
        explainer = Explainer(scene.store, generic=generic)
        with scene.frozen() as connection, explainer.watching():
            ACTS[name](scene, connection, [])
        assert any("Seq Scan on duly_jobs" in plan for _, plan in explainer.plans)


def test_the_claims_of_several_queues_read_no_more_than_they_take(postgresql: Scene) -> None:
    """Rows, not only plans: 20 jobs out of 25,000 available ones in four queues."""
    scene = postgresql
    fill(scene.store)
    worker = scene.worker()
    seen: list[str] = []

    def explain(conn: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asking = conn.connection.driver_connection.cursor()
        asking.execute("EXPLAIN (ANALYZE, TIMING OFF, SUMMARY OFF) " + statement, parameters)
        seen.append("\n".join(row[0] for row in asking.fetchall()))

    with scene.frozen() as connection:
        event.listen(scene.store.engine, "before_cursor_execute", explain)
        try:
            worker.claim(20, "q1", "q2", "q3", "q4", on=connection)
        finally:
            event.remove(scene.store.engine, "before_cursor_execute", explain)
    (plan,) = seen
    reads = [
        int(rows) * int(loops)
        for rows, loops in re.findall(r"Scan.* on duly_jobs.*actual rows=(\d+) loops=(\d+)", plan)
    ]
    assert reads, plan
    assert max(reads) <= 20 * 4, plan


def test_dead_rows_of_the_ledger_and_workers_do_not_matter(postgresql: Scene) -> None:
    """dead_workers and orphaning_workers look at workers and at the running index alone."""
    scene = postgresql
    fill(scene.store)
    explainer = Explainer(scene.store, generic=True)
    with scene.frozen() as connection, explainer.watching():
        scene.store.dialect.dead_workers(connection, LEASE, "judge")
        scene.store.rescue.orphaning_workers(connection)
    for _, plan in explainer.plans:
        assert not re.search(r"Seq Scan on duly_(jobs|executions)", plan), plan


# ── SQLite ────────────────────────────────────────────────────────────────────────────────────


def sqlite_plans(store: Store, act: Callable[[Any], Any]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []

    def before(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if re.match(r"\s*(WITH|SELECT|UPDATE|DELETE|INSERT)\b", statement):
            asking = conn.connection.driver_connection.cursor()
            asking.execute("EXPLAIN QUERY PLAN " + statement, parameters[0] if many else parameters)
            found.append((statement, "\n".join(row[3] for row in asking.fetchall())))

    event.listen(store.engine, "before_cursor_execute", before)
    try:
        with store.engine.connect() as connection:
            store.dialect.begin(connection)
            act(connection)
            connection.rollback()
    finally:
        event.remove(store.engine, "before_cursor_execute", before)
    return found


SQLITE_INDEXES = {
    "exchange_one": "duly_jobs_claim", "exchange_several": "duly_jobs_claim", "waiting_queues": "duly_jobs_claim",
    "upkeep": "duly_jobs_scheduled", "promote": "duly_jobs_scheduled", "expire": "duly_jobs_expiring",
    "held_by": "duly_jobs_running", "offer_again": "duly_jobs_running",
    "prune look": "duly_executions_expiring", "prune": "duly_executions_ended",
    "ledger": "duly_executions_ended", "ledger of failed": "duly_executions_troubled",
}  # fmt: skip


def test_sqlite_plans_of_all_hot_statements_use_indexes(sqlite: Scene) -> None:
    scene = sqlite
    fill(scene.store)
    worker = scene.worker("w")
    scene.enqueue_many(100, queue="mine")
    held = worker.claim(100, "mine")
    assert len(held) == 100
    wrong = []
    for name, act in ACTS.items():
        plans = sqlite_plans(scene.store, lambda connection, act=act: act(scene, connection, held))  # type: ignore[misc]
        assert plans, name
        whole = "\n".join(plan for _, plan in plans)
        if SQLITE_INDEXES.get(name, "") not in whole:
            wrong.append(f"{name}: not by {SQLITE_INDEXES[name]}\n{whole}")
        for statement, plan in plans:
            for line in plan.splitlines():
                reads = re.match(r"SCAN (duly_)?(jobs|j|executions|attempts)\b(?!.* USING .*INDEX)", line)
                if reads:
                    wrong.append(f"{name}: {line}\n{statement[:300]}\n{plan}")
    assert not wrong, "\n\n".join(wrong)


def test_sqlites_record_and_remove_find_their_rows_by_id(sqlite: Scene) -> None:
    scene = sqlite
    fill(scene.store)
    scene.enqueue(queue="mine")
    worker = scene.worker("w")
    (held,) = worker.claim(1, "mine")
    plans = dict(sqlite_plans(scene.store, lambda c: worker.exchange(succeeded(held), on=c)))
    dialect: Any = scene.store.dialect
    for statement in (dialect.record, dialect.remove):
        verb = str(statement).strip().split()[0]
        (plan,) = [plan for sent, plan in plans.items() if sent.strip().startswith(verb)]
        assert re.search(r"SEARCH (j|duly_jobs) USING INDEX sqlite_autoindex_duly_jobs_1 \(id=\?\)", plan), (
            plan
        )


def test_a_claim_among_fifty_thousand_rows_of_a_hundred_and_one_queues_still_works(sqlite: Scene) -> None:
    fill(sqlite.store)
    worker = sqlite.worker()
    assert len(worker.claim(10, *[f"q{n}" for n in range(101)])) == 10
    assert sqlite.status(uuid4()) is None
