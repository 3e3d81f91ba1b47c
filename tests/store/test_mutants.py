"""Each rule of the protocol, broken on purpose: the check that shows the rule is seen to fail.

A mutant patches the SQL of the dialect or a step of the store. When the code moves on and a mutant no longer
finds what it breaks, it says so instead of passing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
from sqlalchemy import TextClause, bindparam, insert, literal, select, text, update
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import IntegrityError

from duly.errors import DatabaseBusy
from duly.store.dialect import mysql_sql
from duly.store.dialect.mysql_exchange import Claims
from duly.store.ledger import Ledger
from duly.store.rescue import Taken
from duly.store.statements import in_state
from tests.databases import NAMES, SERVERS
from tests.store import checks
from tests.store.checks import RENDEZVOUS
from tests.store.scene import Scene

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Mutant:
    """A broken store, and the check that must catch it. *only*: the databases on which it can be told."""

    name: str
    breaks: Callable[[Scene, Patch], None]
    check: Callable[[Scene], None]
    only: tuple[str, ...] = NAMES
    fails: type[Exception] | None = None
    """How the check fails, where not by an assertion."""


# ── tools ─────────────────────────────────────────────────────────────────────────────────────


def reword(scene: Scene, patch: Patch, **changes: tuple[str, str]) -> None:
    """Change the wording of the dialect's statements."""
    for name, (old, new) in changes.items():
        statement: TextClause = getattr(scene.store.dialect, name)
        assert old in statement.text, f"{name} says no longer {old!r}: this mutant breaks nothing"
        patch.setattr(scene.store.dialect, name, text(statement.text.replace(old, new)))


def reword_exchange(scene: Scene, patch: Patch, old: str, new: str) -> None:
    names = ("exchange_one", "exchange_several", "claim_one", "claim_several", "claim_behind")
    reword(
        scene, patch, **{name: (old, new) for name in names if old in getattr(scene.store.dialect, name).text}
    )
    assert old in _original(scene, "exchange_one") + _original(scene, "exchange_several")


def _original(scene: Scene, name: str) -> str:
    fresh = type(scene.store.dialect)(scene.store.tables)
    found: str = getattr(fresh, name).text
    return found


def reword_sqlite_claim(scene: Scene, patch: Patch, old: str, new: str) -> None:
    dialect: Any = scene.store.dialect
    honest = dialect.pick

    def pick(queues: int) -> TextClause:
        statement = honest(queues).text
        assert old in statement, f"the claim says no longer {old!r}: this mutant breaks nothing"
        return text(statement.replace(old, new))

    patch.setattr(dialect, "pick", pick)


def reword_mysql(patch: Patch, part: Any, **changes: tuple[str, str]) -> None:
    """Change the wording of one half of MySQL's exchange."""
    for name, (old, new) in changes.items():
        words = getattr(part, name).text
        assert old in words, f"{name} says no longer {old!r}: this mutant breaks nothing"
        statement = text(words.replace(old, new))
        if ":ids" in words:
            statement = statement.bindparams(bindparam("ids", expanding=True))
        patch.setattr(part, name, statement)


def reword_mysql_claim(scene: Scene, patch: Patch, old: str, new: str) -> None:
    """What may be claimed, of one queue and of several."""
    assert old in mysql_sql.FREE, f"the claim says no longer {old!r}: this mutant breaks nothing"
    patch.setattr(mysql_sql, "FREE", mysql_sql.FREE.replace(old, new))
    dialect: Any = scene.store.dialect
    patch.setattr(dialect, "claims", Claims(dialect._words, dialect.outcomes))


def dialect_of(scene: Scene) -> Any:
    return scene.store.dialect


class WithoutFence:
    """``settle`` as it would be if rows were held by id alone, or by id and claim alone."""

    def __init__(self, *, any_worker: bool, any_claim: bool) -> None:
        self.any_worker, self.any_claim = any_worker, any_claim

    def __call__(self, scene: Scene, patch: Patch) -> None:
        outcomes: Any = scene.store.outcomes
        table = scene.store.tables.jobs
        any_worker, any_claim = self.any_worker, self.any_claim

        def held(self: Any, connection: Any, worker: str, ids: Any) -> Any:
            mine = select(table, scene.store.dialect.clock.label("now")).where(table.c.id.in_(ids))
            if not any_worker:
                mine = mine.where(table.c.worker == worker)
            rows = connection.execute(mine).all()
            if any_claim:
                return {(row.id, claim): row for row in rows for claim in range(20)}
            return {(row.id, row.claim): row for row in rows}

        patch.setattr(outcomes, "_held", MethodType(held, outcomes))


# ── what is broken ────────────────────────────────────────────────────────────────────────────


def finish_without_claim(scene: Scene, patch: Patch) -> None:
    if scene.sqlite:
        reword(
            scene, patch,
            record=("AND j.claim = json_extract(done.value, '$[1]')", ""),
            remove=("(id, claim) IN (\n    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]')",
                    "id IN (\n    SELECT json_extract(value, '$[0]')"),
        )  # fmt: skip
    elif scene.mysql:
        reword_mysql(
            patch, dialect_of(scene).outcomes,
            record_all=("AND j.claim = done.claim ", ""), remove_all=("AND j.claim = done.claim ", ""),
        )  # fmt: skip
    else:
        reword_exchange(scene, patch, "AND j.claim = done.claim ", "")


def finish_without_worker(scene: Scene, patch: Patch) -> None:
    if scene.sqlite:
        reword(
            scene, patch,
            record=("j.worker = :worker AND", "(:worker IS NOT NULL) AND"),
            remove=("worker = :worker AND", "(:worker IS NOT NULL) AND"),
        )  # fmt: skip
    elif scene.mysql:
        anyone = ("AND j.worker = :worker", "AND :worker IS NOT NULL")
        reword_mysql(patch, dialect_of(scene).outcomes, record_all=anyone, remove_all=anyone)
    else:
        reword_exchange(scene, patch, " AND j.worker = :worker\n", "\n")


def finish_asks_no_ledger(scene: Scene, patch: Patch) -> None:
    """Whatever met no row was lost, also what a lost reply had recorded."""
    if scene.sqlite:
        patch.setattr(scene.store.dialect, "_ended", lambda connection, ids: {})
    elif scene.mysql:
        patch.setattr(
            dialect_of(scene).outcomes, "not_recorded", lambda c, succeeded: {s.id for s in succeeded}
        )
    else:
        patch.setattr(scene.store.dialect, "_not_recorded", lambda c, succeeded: {s.id for s in succeeded})


def batch_fails_on_a_conflict(scene: Scene, patch: Patch) -> None:
    patch.setattr(scene.store.dialect, "insert_or_ignore", insert)
    if scene.sqlite:
        reword(scene, patch, record=("ON CONFLICT (job_id) DO NOTHING", ""))
    elif scene.mysql:
        ignore = "ON DUPLICATE KEY UPDATE job_id = duly_executions.job_id"
        reword_mysql(patch, dialect_of(scene).outcomes, record_all=(ignore, ""))
    else:
        reword_exchange(scene, patch, "ON CONFLICT (job_id) DO NOTHING", "")


def claim_without_ledger(scene: Scene, patch: Patch) -> None:
    if scene.sqlite:
        patch.setattr(scene.store.dialect, "_ended", lambda connection, ids: {})
    elif scene.mysql:
        patch.setattr(dialect_of(scene).outcomes, "ended", lambda connection, ids: {})
    else:
        reword_exchange(scene, patch, "WHERE job_id = ANY(ARRAY(SELECT id FROM claimed))", "WHERE false")


def claim_without_run_at(scene: Scene, patch: Patch) -> None:
    if scene.sqlite:
        reword_sqlite_claim(scene, patch, "run_at <=", "'' <=")
    elif scene.mysql:
        reword_mysql_claim(scene, patch, "run_at <= {clock}", "true")
    else:
        reword_exchange(scene, patch, "run_at <= (SELECT clock_timestamp())", "true")


def claim_without_expiry(scene: Scene, patch: Patch) -> None:
    if scene.sqlite:
        reword_sqlite_claim(scene, patch, "expires_at >", "'9999' >")
    elif scene.mysql:
        reword_mysql_claim(scene, patch, "expires_at > {clock}", "true")
    else:
        reword_exchange(scene, patch, "expires_at > (SELECT clock_timestamp())", "true")


def claim_without_membership(scene: Scene, patch: Patch) -> None:
    if scene.sqlite or scene.mysql:
        patch.setattr(scene.store.dialect, "_alive", lambda connection, worker: True)
    else:
        reword_exchange(scene, patch, "AND (SELECT alive FROM self)", "")


def claim_keeps_its_number(scene: Scene, patch: Patch) -> None:
    if scene.sqlite:
        reword(scene, patch, hold=("claim = claim + 1", "claim = 1"))
    elif scene.mysql:
        reword_mysql(patch, dialect_of(scene).claims, take=("claim = claim + 1", "claim = 1"))
    else:
        reword_exchange(scene, patch, "claim = claim + 1", "claim = 1")


def put_back_lowers_the_claim(scene: Scene, patch: Patch) -> None:
    """As if what was given back had never been claimed."""
    outcomes: Any = scene.store.outcomes
    honest, table = outcomes._update, scene.store.tables.jobs

    def lowered(connection: Any, updates: list[dict[str, Any]]) -> None:
        honest(connection, updates)
        ids = [row["job"] for row in updates]
        connection.execute(update(table).where(table.c.id.in_(ids)).values(claim=table.c.claim - 1))

    patch.setattr(outcomes, "_update", lowered)


def finish_without_expiry(scene: Scene, patch: Patch) -> None:
    """The worker's own clock, which stands still."""
    dialect, stopped = scene.store.dialect, datetime(2000, 1, 1, tzinfo=UTC)
    table = scene.store.tables.executions

    class Stopped:
        clock = literal(stopped, table.c.ended_at.type)

        def __getattr__(self, name: str) -> Any:
            return getattr(dialect, name)

    standing = Ledger(scene.store.tables, Stopped())  # type: ignore[arg-type]
    patch.setattr(scene.store.ledger, "_fence", standing._fence)
    if scene.mysql:
        honest = dialect.enter
        patch.setattr(dialect, "enter", lambda *row: honest(*row) and stopped)
    else:
        entry = dialect.insert_or_ignore(table).values(ended_at=Stopped.clock).returning(table.c.ended_at)
        patch.setattr(scene.store.ledger, "_entry", entry)


def transactional_finish_past_the_ledger(scene: Scene, patch: Patch) -> None:
    """The ledger's row is overwritten instead of refused."""
    table, now = scene.store.tables.executions, datetime.now(UTC)
    if scene.mysql:

        def over(connection: Any, _: Any, row: dict[str, Any]) -> datetime:
            written = mysql.insert(table).values(ended_at=now, **row)
            connection.execute(written.on_duplicate_key_update({"worker": "another"}))
            return now

        patch.setattr(scene.store.dialect, "enter", over)
        return
    if scene.sqlite:
        from sqlalchemy.dialects.sqlite import insert as upsert
    else:
        from sqlalchemy.dialects.postgresql import insert as upsert  # type: ignore[assignment]
    over_it = upsert(table).on_conflict_do_update(index_elements=["job_id"], set_={"worker": "another"})
    entry = over_it.values(ended_at=scene.store.dialect.clock).returning(table.c.ended_at)
    patch.setattr(scene.store.ledger, "_entry", entry)


def transactional_finish_without_claim(scene: Scene, patch: Patch) -> None:

    ledger: Any = scene.store.ledger
    honest = ledger.finish

    def finish(connection: Any, worker: str, job: Any, **more: Any) -> None:
        table = scene.store.tables.jobs
        claim = connection.scalar(select(table.c.claim).where(table.c.id == job.id)) or job.claim
        honest(connection, worker, job._replace(claim=claim), **more)

    patch.setattr(ledger, "finish", finish)


def insert_again_without_the_second_look(scene: Scene, patch: Patch) -> None:
    jobs: Any = scene.store.jobs
    honest, looks = jobs.digests_ended, []

    def first_look_only(connection: Any, ids: Any) -> Any:
        looks.append(ids)
        return honest(connection, ids) if len(looks) == 1 else {}

    patch.setattr(jobs, "digests_ended", first_look_only)


def insert_again_without_a_look(scene: Scene, patch: Patch) -> None:
    patch.setattr(scene.store.jobs, "digests_ended", lambda connection, ids: {})


def rescue_in_one_step(scene: Scene, patch: Patch) -> None:
    """One statement that looks for rows whose worker is gone, and locks them.

    It waits at the rendezvous after its snapshot was taken, where any scheduler may let it wait.
    """
    rescue: Any = scene.store.rescue
    table, workers = scene.store.tables.jobs, scene.store.tables.workers

    def offer_again(connection: Any, names: Any, limit: int = 500) -> Any:
        gone = ~select(workers.c.id).where(workers.c.id == table.c.worker).exists()
        wait = text(f"(SELECT pg_advisory_xact_lock_shared({RENDEZVOUS})) IS NOT NULL")
        orphans = (
            select(table).where(in_state(table.c, "running"), wait, gone).with_for_update(skip_locked=True)
        )
        rows = connection.execute(orphans).all()
        connection.execute(
            update(table)
            .where(table.c.id.in_([row.id for row in rows]))
            .values(state="available", worker=None, rescues=table.c.rescues + 1)
        )
        return Taken(list(rows))

    patch.setattr(rescue, "offer_again", offer_again)


def rescue_waits_for_locks(scene: Scene, patch: Patch) -> None:
    patch.setattr(scene.store.dialect, "lock_rows", lambda statement, **_: statement.with_for_update())


def rescue_takes_the_living(scene: Scene, patch: Patch) -> None:
    table = scene.store.tables.jobs
    everyone = select(table.c.worker).where(table.c.worker.is_not(None)).distinct()
    patch.setattr(
        scene.store.rescue, "orphaning_workers", lambda connection: list(connection.scalars(everyone))
    )


def everything_is_blamed(scene: Scene, patch: Patch) -> None:
    """Whatever the worker held, as if nobody had kept a black box."""
    rescue: Any = scene.store.rescue
    honest = rescue.mourn

    def mourn(connection: Any, names: Any, started: Any, cause: str) -> Any:
        return honest(connection, names, _held_by(scene, connection, names), cause)

    patch.setattr(rescue, "mourn", mourn)


def blamed_by_id_alone(scene: Scene, patch: Patch) -> None:
    """Whichever claim it was that had started."""
    rescue: Any = scene.store.rescue
    honest = rescue.mourn

    def mourn(connection: Any, names: Any, started: Any, cause: str) -> Any:
        held = _held_by(scene, connection, names)
        return honest(connection, names, {job: held[job] for job in started}, cause)

    patch.setattr(rescue, "mourn", mourn)


def _held_by(scene: Scene, connection: Any, names: Any) -> dict[Any, int]:
    jobs = scene.store.tables.jobs.c
    return {
        row.id: row.claim
        for row in connection.execute(select(jobs.id, jobs.claim).where(jobs.worker.in_(names)))
    }


def own_kills_rescue_everything(scene: Scene, patch: Patch) -> None:
    rescue: Any = scene.store.rescue
    honest = rescue.offer_again
    patch.setattr(rescue, "offer_again", lambda connection, names, **_: honest(connection, names))


def deaths_never_end(scene: Scene, patch: Patch) -> None:
    patch.setattr("duly.store.deaths.LAST_DEATH", 1_000)


def suspects_are_claimed_ahead(scene: Scene, patch: Patch) -> None:
    patch.setattr(scene.store.suspects.jobs, "held_by", lambda connection, worker: {})


def rescue_never_ends(scene: Scene, patch: Patch) -> None:
    patch.setattr("duly.store.rescue.MOST_RESCUES", 1_000)


def the_judge_judges_itself(scene: Scene, patch: Patch) -> None:
    honest = scene.store.dialect.dead_workers
    patch.setattr(scene.store.dialect, "dead_workers", lambda c, lease, judge: honest(c, lease, "nobody"))


def retry_past_expiry(scene: Scene, patch: Patch) -> None:
    patch.setattr("duly.store.outcomes._too_late", lambda report, row: False)


def retry_by_the_workers_clock(scene: Scene, patch: Patch) -> None:
    from datetime import timedelta

    behind = datetime.now(UTC) - timedelta(hours=1)
    patch.setattr("duly.store.outcomes._when", lambda report, row: behind + report.after)


MUTANTS = [
    Mutant("a finish without the claim number", finish_without_claim,
           checks.check_an_old_claim_is_lost_and_changes_nothing),
    Mutant("a finish without the worker", finish_without_worker,
           checks.check_another_worker_is_lost_and_changes_nothing),
    Mutant("a finish without the worker", finish_without_worker,
           checks.check_a_woken_worker_cannot_finish_what_was_rescued),
    Mutant("a retry or failure without the claim number", WithoutFence(any_worker=False, any_claim=True),
           checks.check_an_old_claim_is_lost_and_changes_nothing),
    Mutant("a release without the claim number", WithoutFence(any_worker=False, any_claim=True),
           checks.check_given_back_lost_reply_and_repeated_release_do_not_give_one_job_to_two),
    Mutant("a retry or failure without the worker", WithoutFence(any_worker=True, any_claim=False),
           checks.check_another_worker_is_lost_and_changes_nothing),
    Mutant("a lost reply taken for a lost lease", finish_asks_no_ledger,
           checks.check_a_repeated_exchange_is_not_lost_and_writes_nothing_twice),
    Mutant("a conflict that fails its batch", batch_fails_on_a_conflict,
           checks.check_a_ledger_conflict_at_the_finish_never_fails_the_batch, fails=IntegrityError),
    Mutant("a claim without the ledger", claim_without_ledger,
           checks.check_a_row_put_back_after_it_ended_is_removed_and_never_handed_out),
    Mutant("a claim before run_at", claim_without_run_at,
           checks.check_nothing_is_claimed_before_run_at),
    Mutant("a claim before run_at, several queues", claim_without_run_at,
           checks.check_several_queues_obey_the_clock_too),
    Mutant("a claim after expires_at", claim_without_expiry,
           checks.check_nothing_is_claimed_after_expires_at),
    Mutant("a claim after expires_at, several queues", claim_without_expiry,
           checks.check_several_queues_obey_the_clock_too),
    Mutant("a claim by a worker without a row", claim_without_membership,
           checks.check_a_worker_whose_row_is_gone_is_given_nothing),
    Mutant("a claim that keeps its number", claim_keeps_its_number,
           checks.check_claim_numbers_only_rise),
    Mutant("a put-back that lowers the claim", put_back_lowers_the_claim,
           checks.check_claim_numbers_only_rise),
    Mutant("a put-back that lowers the claim", put_back_lowers_the_claim,
           checks.check_given_back_lost_reply_and_repeated_release_do_not_give_one_job_to_two),
    Mutant("a transactional finish by a clock that stands", finish_without_expiry,
           checks.check_a_transactional_finish_refuses_when_expired),
    Mutant("a transactional finish without the claim number", transactional_finish_without_claim,
           checks.check_a_transactional_finish_needs_its_claim),
    Mutant("a transactional finish past the ledger", transactional_finish_past_the_ledger,
           checks.check_a_transactional_finish_refuses_what_is_in_the_ledger),
    Mutant("an enqueue again without the second look", insert_again_without_the_second_look,
           checks.check_an_id_that_ends_between_the_look_and_the_insert_is_not_inserted, only=SERVERS),
    Mutant("an enqueue again without a look", insert_again_without_a_look,
           checks.check_an_id_in_the_ledger_is_not_inserted_again),
    Mutant("a rescue in one step", rescue_in_one_step,
           checks.check_a_worker_that_registers_meanwhile_is_not_rescued, only=("postgresql",)),
    Mutant("a rescue that waits", rescue_waits_for_locks,
           checks.check_rescue_passes_over_rows_that_a_frozen_transaction_holds,
           only=SERVERS, fails=DatabaseBusy),
    Mutant("a rescue of the living", rescue_takes_the_living,
           checks.check_only_rows_of_dead_workers_are_rescued),
    Mutant("a rescue without end", rescue_never_ends,
           checks.check_the_eleventh_rescue_ends_the_job_as_failed),
    Mutant("a death that everything is blamed for", everything_is_blamed,
           checks.check_only_what_had_started_is_blamed),
    Mutant("a death blamed on another claim", blamed_by_id_alone,
           checks.check_only_what_had_started_is_blamed),
    Mutant("a kill of ours that rescues everything", own_kills_rescue_everything,
           checks.check_of_a_worker_that_we_killed_only_what_had_started_counts_a_rescue),
    Mutant("deaths without end", deaths_never_end, checks.check_the_third_death_ends_the_job_as_failed),
    Mutant("suspects claimed ahead", suspects_are_claimed_ahead,
           checks.check_suspects_are_claimed_apart_and_one_at_a_time),
    Mutant("a judge that judges itself", the_judge_judges_itself,
           checks.check_the_judge_is_never_dead, only=SERVERS),
    Mutant("a retry past expires_at", retry_past_expiry,
           checks.check_a_retry_that_could_only_come_after_expires_at_ends_expired),
    Mutant("a retry by the worker's clock", retry_by_the_workers_clock,
           checks.check_a_retry_is_timed_by_the_databases_clock),
]  # fmt: skip


CASES = [
    pytest.param(mutant, name, id=f"{name}-{mutant.name}: {mutant.check.__name__}")
    for mutant in MUTANTS
    for name in NAMES
    if name in mutant.only
]


@pytest.mark.parametrize(("mutant", "database"), CASES, indirect=["database"])
def test_the_suite_catches(mutant: Mutant, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        mutant.breaks(scene, patch)
        with pytest.raises((AssertionError, pytest.fail.Exception) if mutant.fails is None else mutant.fails):
            mutant.check(scene)


def test_every_check_has_a_mutant() -> None:
    named = {check for name, check in vars(checks).items() if name.startswith("check_")}
    assert {mutant.check for mutant in MUTANTS} == named


def test_every_check_is_a_test_too() -> None:
    """Held by the sound store: each check is called by a conformance test."""
    suite = "".join(
        file.read_text() for file in Path(__file__).parent.glob("test_*.py") if file != Path(__file__)
    )
    for name in vars(checks):
        if name.startswith("check_"):
            assert f"checks.{name}(" in suite
