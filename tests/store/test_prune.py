"""How the ledger ages: what is emptied and what is removed when, and that pruning does each row once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, insert, select, update

from duly.model.ids import new_id
from duly.model.pruning import Keep, Pruned
from duly.model.states import Outcome
from duly.store.prune import Prune
from tests.store.scene import HOUR, Scene, now, succeeded

DAY = timedelta(days=1)
KEEP = Keep.days(7, 30, 20)
TOGETHER = {"succeeded": 7, "failed": 30, "uncertain": 30, "rejected": 30, "expired": 20, "cancelled": 20}
CONTENT = ("cause", "result", "envelope", "trace")


def end(scene: Scene, outcome: str, ended: timedelta, expired: timedelta, **changes: Any) -> UUID:
    """A ledger row of a job that ended so long ago, and expired so long ago; with all that a row can hold."""
    job, moment = new_id(), now()
    row = {
        "job_id": job, "origin": job, "task": "tests.task", "queue": "default", "fingerprint": "f", "priority": 0,
        "outcome": outcome, "cause": "c", "claim": 1, "attempts": 2, "deaths": 0, "rescues": 0, "worker": "w",
        "enqueued_at": moment - 99 * DAY, "run_at": moment - 99 * DAY, "ended_at": moment - ended,
        "expires_at": moment - expired, "digest": b"d", "envelope": b"e", "result": b"r", "trace": "t",
        "principal": "ann",
    } | changes  # fmt: skip
    attempt = {"job_id": job, "claim": 1, "attempt": 1, "ended_at": moment, "cause": "c", "error": b"e"}
    with scene.store.writing() as connection:
        connection.execute(insert(scene.store.tables.executions), [row])
        connection.execute(insert(scene.store.tables.attempts), [attempt])
    return job


def rounds(scene: Scene, keep: Keep = KEEP, limit: int = 100) -> Pruned:
    """Rounds until there is nothing left, each in a transaction of its own."""
    done = Pruned()
    for _ in range(100):
        with scene.store.writing() as connection:
            some = scene.store.prune.round(connection, keep, limit)
        done += some
        if not some.more:
            return Pruned(done.emptied, done.removed, done.keys, done.steps)
    raise AssertionError("it never ends")


def look(scene: Scene, keep: Keep = KEEP) -> bool:
    with scene.store.writing() as connection:
        return scene.store.prune.look(connection, keep, now())


def count(scene: Scene, keep: Keep = KEEP) -> Pruned:
    with scene.store.reading() as connection:
        return scene.store.prune.count(connection, keep)


def is_whole(scene: Scene, job: UUID) -> bool:
    row: Any = scene.ended(job)
    return all(row[name] is not None for name in CONTENT) and len(scene.attempts(job)) == 1


def is_empty(scene: Scene, job: UUID) -> bool:
    row: Any = scene.ended(job)
    return all(row[name] is None for name in CONTENT) and scene.attempts(job) == []


# ── checks, which mutants must fail ───────────────────────────────────────────────────────────


def check_what_was_kept_for_long_enough_is_emptied(scene: Scene) -> None:
    old = [end(scene, outcome, days * DAY + HOUR, -DAY) for outcome, days in TOGETHER.items()]
    young = [end(scene, outcome, days * DAY - HOUR, -DAY) for outcome, days in TOGETHER.items()]
    assert look(scene)
    assert count(scene) == Pruned(emptied=6)
    assert rounds(scene) == Pruned(emptied=6)
    assert all(is_empty(scene, job) for job in old)
    assert all(is_whole(scene, job) for job in young)
    row: Any = scene.ended(old[0])
    assert (row["outcome"], row["worker"], row["principal"], row["digest"]) == ("succeeded", "w", "ann", b"d")
    assert not look(scene)


def check_a_key_stays_until_a_day_after_the_expiry(scene: Scene) -> None:
    kept = [end(scene, outcome, 40 * DAY, DAY - HOUR) for outcome in TOGETHER]
    gone = [end(scene, outcome, 40 * DAY, DAY + HOUR) for outcome in TOGETHER]
    assert count(scene) == Pruned(emptied=6, removed=6)
    assert rounds(scene) == Pruned(emptied=6, removed=6)
    assert [scene.ended(job) for job in gone] == [None] * 6
    assert all(is_empty(scene, job) for job in kept)
    assert scene.count("attempts") == 0


def check_what_has_expired_is_kept_as_long_as_it_should_be(scene: Scene) -> None:
    kept = end(scene, "failed", 29 * DAY, 28 * DAY)
    assert rounds(scene) == Pruned()
    assert is_whole(scene, kept)
    assert rounds(scene, Keep.days(7, 20, 20)) == Pruned(removed=1)
    assert scene.ended(kept) is None


def check_whichever_comes_second_removes_a_row(scene: Scene) -> None:
    """Its end first, and its expiry first; each with rounds in between that see nothing new."""
    ended_first = end(scene, "succeeded", 8 * DAY, -DAY)
    expired_first = end(scene, "succeeded", 6 * DAY, 2 * DAY)
    assert rounds(scene) == Pruned(emptied=1)
    assert rounds(scene) == Pruned()
    table, time_passes = scene.store.tables.executions, {}
    time_passes[ended_first] = {"expires_at": now() - 25 * HOUR}
    time_passes[expired_first] = {"ended_at": now() - 7 * DAY - HOUR}
    with scene.store.writing() as connection:
        for job, changed in time_passes.items():
            connection.execute(update(table).where(table.c.job_id == job).values(**changed))
    assert rounds(scene) == Pruned(removed=2)
    assert scene.count("executions") == 0


def check_a_pruned_row_that_is_put_back_never_runs(scene: Scene) -> None:
    """While it could run its key is there; when the key is gone it has expired."""
    worker, held = scene.running()
    row = scene.row(held.id)
    worker.exchange(succeeded(held))
    ledger = scene.store.tables.executions
    with scene.store.writing() as connection:
        connection.execute(update(ledger).values(ended_at=now() - 10 * DAY))
    rounds(scene)
    scene.put_back(row | {"state": "available", "worker": None})  # type: ignore[operator]
    reply = worker.exchange(queues=("default",), limit=5)
    assert (reply.claimed, reply.replayed) == ([], [held.id])
    past = {"expires_at": now() - DAY - HOUR}
    with scene.store.writing() as connection:
        connection.execute(update(ledger).values(**past))
    assert rounds(scene).removed == 1
    scene.put_back(row | past | {"state": "available", "worker": None})  # type: ignore[operator]
    assert worker.claim() == []
    assert scene.upkeep()[1] == [held.id]
    assert scene.outcome(held.id) == "expired"


CHECKS = [
    check_what_was_kept_for_long_enough_is_emptied,
    check_a_key_stays_until_a_day_after_the_expiry,
    check_what_has_expired_is_kept_as_long_as_it_should_be,
    check_whichever_comes_second_removes_a_row,
    check_a_pruned_row_that_is_put_back_never_runs,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_promise(scene: Scene, check: Callable[[Scene], None]) -> None:
    check(scene)


# ── mutants ───────────────────────────────────────────────────────────────────────────────────


def no_day_of_grace(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("duly.store.prune.FREE_AFTER", timedelta(0))


def the_end_alone_decides(patch: pytest.MonkeyPatch) -> None:
    """What was kept for long enough is removed, whether or not its job has expired."""
    import duly.store.prune as module

    sound = module._sorted_out

    def sorted_out(what: str, rows: Any, places: Any) -> Any:
        gone, over = sound(what, rows, places)
        return [*gone, *(row.job_id for row in over)], []

    patch.setattr(module, "_sorted_out", sorted_out)


def the_expiry_alone_decides(patch: pytest.MonkeyPatch) -> None:
    import duly.store.prune as module

    sound = module._sorted_out

    def sorted_out(what: str, rows: Any, places: Any) -> Any:
        return ([row.job_id for row in rows], []) if what == "expired" else sound(what, rows, places)

    patch.setattr(module, "_sorted_out", sorted_out)


def the_order_by_expiry_forgotten(patch: pytest.MonkeyPatch) -> None:
    import duly.store.prune as module

    sound = module._sorted_out
    patch.setattr(
        module, "_sorted_out", lambda what, *rest: ([], []) if what == "expired" else sound(what, *rest)
    )


def attempts_stay(patch: pytest.MonkeyPatch) -> None:
    sound = Prune._clear

    def clear(self: Prune, connection: Any, gone: Any, over: Any) -> Any:
        table = self.tables.attempts
        saved = connection.execute(select(table)).mappings().all()
        done = sound(self, connection, gone, over)
        left = {row[:2] for row in connection.execute(select(table.c.job_id, table.c.claim))}
        if lost := [dict(row) for row in saved if (row["job_id"], row["claim"]) not in left]:
            connection.execute(insert(table), lost)
        return done

    patch.setattr(Prune, "_clear", clear)


MUTANTS = [
    (no_day_of_grace, check_a_key_stays_until_a_day_after_the_expiry),
    (the_end_alone_decides, check_a_key_stays_until_a_day_after_the_expiry),
    (the_end_alone_decides, check_a_pruned_row_that_is_put_back_never_runs),
    (the_expiry_alone_decides, check_what_has_expired_is_kept_as_long_as_it_should_be),
    (the_order_by_expiry_forgotten, check_whichever_comes_second_removes_a_row),
    (attempts_stay, check_what_was_kept_for_long_enough_is_emptied),
]


@pytest.mark.parametrize(("mutate", "check"), MUTANTS, ids=[f"{m.__name__}" for m, _ in MUTANTS])
def test_the_check_notices(
    sqlite: Scene,
    monkeypatch: pytest.MonkeyPatch,
    mutate: Callable[..., None],
    check: Callable[[Scene], None],
) -> None:
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        check(sqlite)


# ── batches ───────────────────────────────────────────────────────────────────────────────────


def test_small_batches_do_as_much_as_large_ones_and_equal_instants_are_told_apart(scene: Scene) -> None:
    moment = now()
    for n in range(12):
        end(scene, ("succeeded", "failed")[n % 2], 40 * DAY, 0 * DAY,
            ended_at=moment - 40 * DAY, expires_at=moment - (2 if n < 6 else 0) * DAY)  # fmt: skip
    end(scene, "succeeded", HOUR, -DAY)
    assert rounds(scene, limit=2) == Pruned(emptied=6, removed=6)
    assert scene.count("executions") == 7
    assert not look(scene)


def test_what_is_done_is_not_read_again(scene: Scene) -> None:
    """As many rows as there are statements to see: none is changed, and no page comes back."""
    for _ in range(5):
        end(scene, "succeeded", 8 * DAY, -DAY)
    rounds(scene)
    writes: list[str] = []

    def note(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.split(maxsplit=1)[0] in {"UPDATE", "DELETE", "INSERT"}:
            writes.append(statement)

    event.listen(scene.store.engine, "before_cursor_execute", note)
    try:
        assert rounds(scene) == Pruned()
    finally:
        event.remove(scene.store.engine, "before_cursor_execute", note)
    assert writes == []


def test_the_look_is_one_statement(scene: Scene) -> None:
    seen: list[str] = []
    with scene.frozen() as connection, scene.hook(connection, lambda _, said: seen.append(said)):
        assert scene.store.prune.look(connection, KEEP, now()) is False
    assert len(seen) == 1


def test_one_prunes_at_a_time_and_who_is_patient_waits(server: Scene) -> None:
    scene = server
    job = end(scene, "succeeded", 8 * DAY, -DAY)
    rounds(scene)
    late = end(scene, "succeeded", 8 * DAY - HOUR, -DAY)
    with scene.frozen() as frozen:
        assert scene.store.prune.round(frozen, KEEP).emptied == 1
        assert rounds(scene) == Pruned()
    assert is_empty(scene, job)
    assert is_whole(scene, late)
    assert rounds(scene).emptied == 1


def test_a_row_of_a_job_that_expired_while_nobody_looked_is_removed_in_its_time(scene: Scene) -> None:
    """It comes in behind the order by expiry, which does not go back."""
    end(scene, "succeeded", 8 * DAY, 2 * DAY)
    assert rounds(scene).removed == 1
    job = end(scene, "expired", HOUR, 5 * DAY)
    assert rounds(scene) == Pruned()
    assert scene.ended(job) is not None
    assert rounds(scene, Keep.days(7, 30, 0.02)) == Pruned(removed=1)


# ── what has a time of its own ────────────────────────────────────────────────────────────────


def key(scene: Scene, name: str, until_at: datetime | None) -> None:
    with scene.store.writing() as connection:
        row = {"key": name, "job_id": new_id(), "until": "window", "until_at": until_at}
        connection.execute(insert(scene.store.tables.keys), [row])


def step(scene: Scene, origin: UUID, name: str, expires_at: datetime) -> None:
    row = {"origin": origin, "name": name, "job_id": origin, "claim": 1, "at": now(), "result": b"r"}
    row |= {"expires_at": expires_at}
    with scene.store.writing() as connection:
        connection.execute(insert(scene.store.tables.steps), [row])


def names(scene: Scene, table: str, column: str) -> set[str]:
    rows = scene.store.tables
    with scene.store.reading() as connection:
        return set(connection.scalars(select(getattr(rows, table).c[column])))


def test_keys_go_when_their_time_is_over_and_others_stay(scene: Scene) -> None:
    key(scene, "over", now() - timedelta(seconds=1))
    key(scene, "stands", now() + HOUR)
    key(scene, "for ever", None)
    assert look(scene)
    assert count(scene) == Pruned(keys=1)
    assert rounds(scene, limit=1) == Pruned(keys=1)
    assert names(scene, "keys", "key") == {"stands", "for ever"}


def test_the_steps_of_an_origin_go_together_a_day_after_the_last_of_them(scene: Scene) -> None:
    gone, retried, late = new_id(), new_id(), new_id()
    step(scene, gone, "a", now() - DAY - HOUR)
    step(scene, gone, "b", now() - 2 * DAY)
    step(scene, retried, "c", now() - 2 * DAY)
    step(scene, retried, "d", now() + HOUR)
    step(scene, late, "e", now() - HOUR)
    assert look(scene)
    assert rounds(scene).steps == 1
    assert names(scene, "steps", "name") == {"c", "d", "e"}


def test_a_key_that_is_taken_anew_meanwhile_stays(server: Scene) -> None:
    scene = server
    key(scene, "window", now() - HOUR)
    keys = scene.store.tables.keys
    with scene.store.engine.connect() as other:
        scene.store.dialect.begin(other)
        other.execute(update(keys).where(keys.c.key == "window").values(until_at=now() + HOUR))
        assert rounds(scene).keys == 0
        other.commit()
    assert rounds(scene).keys == 0
    assert names(scene, "keys", "key") == {"window"}


def test_outcomes_are_of_one_kind_each() -> None:
    from duly.model.pruning import ORDERS, order_of

    assert {order_of(outcome) for outcome in Outcome} == set(ORDERS)
    assert {outcome.value: KEEP.by_order[order_of(outcome)].days for outcome in Outcome} == TOGETHER


def test_pruning_finds_its_places_on_each_database(scene: Scene) -> None:
    assert scene.count("pruning") == 0
    rounds(scene)
    assert names(scene, "pruning", "what") == {"expired", "failed", "other", "succeeded"}
