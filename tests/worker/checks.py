"""The worker's rules, as functions of a stage.

Each holds on a sound worker (the tests beside this file call them), and each is seen to fail on a worker
that breaks its rule (``test_mutants.py``).
"""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Connection, text

from duly import Context, given
from duly.envelope.keys import new_key
from duly.errors import LeaseLost
from duly.model.events import DatabaseLost, JobPutBack, LeaseWasLost, Rescued, SecurityAlert
from tests.worker.stage import Gate, Stage


def check_a_lost_exchange_reply_strands_nothing(stage: Stage) -> None:
    app, ran = stage.app(), []

    @app.task(name="note")
    def note(number: int) -> None:
        ran.append(number)

    jobs = app.enqueue_many([note.call(n) for n in range(3)])
    turned = stage.turned(app, threads=3)
    turned.lose_reply()
    assert not turned.turn()
    assert turned.held == set()
    for job in jobs:
        row: Any = stage.row(app, job)
        assert (row["state"], row["worker"]) == ("running", turned.id)
    turned.until_ended(*jobs)
    assert sorted(ran) == [0, 1, 2]
    for job in jobs:
        ended: Any = stage.ended(app, job)
        assert (ended["outcome"], ended["attempts"], ended["rescues"], ended["claim"]) == (
            "succeeded",
            1,
            0,
            2,
        )
    assert len(app.journal.of(DatabaseLost)) == 1


def check_a_gap_of_the_database_rescues_nobody_who_lives(stage: Stage) -> None:
    """All workers are cut off for several leases; the first one back finds everybody silent."""
    gate, app = Gate(), stage.app()

    @app.task(name="wait")
    def wait() -> None:
        gate.pass_through()

    try:
        jobs = [wait.enqueue(), wait.enqueue()]
        crew = [stage.turned(app, threads=1), stage.turned(app, threads=1)]
        for turned in crew:
            turned.turn()
            assert len(turned.held) == 1
        gate.wait_running(2)
        lease, beat = app.settings.lease, app.settings.beat
        for _ in range(5):  # long enough to judge
            for turned in crew:
                turned.turn(beat)
        assert all(turned.pump.membership.may_judge() for turned in crew)
        ids = [turned.id for turned in crew]
        with crew[0].cut_off(), crew[1].cut_off():
            for turned in crew:
                assert not turned.turn(4 * lease)
        stage.silence(app, 4 * lease)
        for _ in range(2):  # one is back two beats before the other
            crew[0].turn(beat)
        for _ in range(8):
            for turned in crew:
                turned.turn(beat)
        assert [turned.id for turned in crew] == ids
        assert app.journal.of(Rescued) == []
        gate.open()
        for turned, job in zip(crew, jobs, strict=True):
            turned.until_ended(job)
            assert stage.ended(app, job)["rescues"] == 0  # type: ignore[index]
        assert gate.runs == 2
    finally:
        gate.open()


def check_an_edited_task_is_rejected_though_nobody_knows_it(stage: Stage) -> None:
    app = stage.app(keys=new_key())

    @app.task(name="known")
    def known() -> None:
        raise AssertionError("it ran")

    job = known.enqueue()
    stage.alter(app, job, task="not.known")
    turned = stage.turned(app)
    turned.until(lambda: app.journal.of(SecurityAlert) or app.journal.of(JobPutBack))
    turned.until_ended(job)
    assert job.outcome == "rejected"


def check_an_effect_stands_only_with_its_outcome(stage: Stage) -> None:
    """The job is taken away while it runs: when the attempt ends its fence is gone."""
    app = stage.app()
    stage.make_effects()
    taken = []

    @app.task(name="write", effects="transactional")
    def write(*, connection: Connection = given, ctx: Context = given) -> None:
        connection.execute(text("INSERT INTO effects VALUES ('doubled')"))
        # What a rescue does, in the task's own transaction on SQLite, which has one writer.
        claims = text(f"UPDATE duly_jobs SET claim = claim + 1 WHERE claim = {1 if not taken else -1}")
        if stage.sqlite:
            connection.execute(claims)
        else:
            with app.store.writing() as other:
                other.execute(claims)
        taken.append(ctx.job_id)

    job = write.enqueue()
    turned = stage.turned(app, threads=1)
    turned.until(lambda: app.journal.of(LeaseWasLost))
    assert taken == [job.id]
    assert stage.effects() == []
    assert stage.outcome(app, job) is None


def check_a_put_back_uses_no_attempt(stage: Stage) -> None:
    app, other = stage.app(), stage.app()

    @other.task(name="of.the.other.release")
    def unknown_here() -> None: ...

    job = unknown_here.enqueue()
    turned = stage.turned(app)
    turned.until(lambda: app.journal.of(JobPutBack))
    turned.until(lambda: not turned.held)
    row: Any = stage.row(app, job)
    assert (row["state"], row["attempt"], row["worker"], row["claim"]) == ("scheduled", 0, None, 1)
    assert timedelta(seconds=4) < row["run_at"] - row["enqueued_at"]
    assert app.manage.attempts(job.id) == []


def check_what_waited_too_long_goes_back_as_if_nothing_had_happened(stage: Stage) -> None:
    """And the worker that gave it back has no hold on it any more."""
    gate, app = Gate(), stage.app()

    @app.task(name="wait")
    def wait() -> None:
        gate.pass_through()

    try:
        first, second = wait.enqueue(), wait.enqueue()
        turned = stage.turned(app, threads=1)
        turned.pump._pace.room = lambda *_: 2  # type: ignore[method-assign]  # as if both had been quick
        turned.pump._pace.fit = lambda tasks, _: len(tasks)  # type: ignore[method-assign]
        turned.turn()
        gate.wait_running()
        assert turned.held == {first.id, second.id}
        turned.pump._pace.room = lambda *_: 0  # type: ignore[method-assign]
        turned.turn(0.5)
        assert turned.held == {first.id, second.id}
        turned.turn(0.6)
        assert turned.held == {first.id}
        row: Any = stage.row(app, second)
        assert (row["state"], row["attempt"], row["claim"]) == ("available", 0, 1)
        claimed: Any = SimpleNamespace(id=second.id, claim=1)
        with pytest.raises(LeaseLost), app.store.writing() as connection:
            app.store.ledger.finish(connection, turned.id, claimed, started_at=row["run_at"], result=None)
        assert row["worker"] is None
    finally:
        gate.open()


def check_a_worker_taken_for_dead_takes_a_new_id(stage: Stage) -> None:
    """Its late outcome is refused: the job belongs to whoever took it next."""
    gate, app, ran = Gate(), stage.app(), []

    @app.task(name="wait")
    def wait(*, ctx: Context = given) -> None:
        ran.append(ctx.worker)
        if len(ran) == 1:
            gate.pass_through()

    try:
        job = wait.enqueue()
        turned = stage.turned(app, threads=1)
        old = turned.id
        turned.turn()
        gate.wait_running()
        stage.remove_worker(app, old)
        turned.beat()
        assert turned.id != old
        assert stage.workers(app) == {turned.id}
        gate.open()
        turned.until(lambda: app.journal.of(LeaseWasLost))
        assert stage.outcome(app, job) is None
        other = stage.turned(app)
        with app.store.writing() as connection:
            app.store.rescue.offer_again(connection, [old])  # on SQLite it has judged itself by now
        other.until_ended(job)
        ended: Any = stage.ended(app, job)
        assert (ended["worker"], ended["rescues"], ended["attempts"]) == (other.id, 1, 1)
        assert ran == [old, other.id]
    finally:
        gate.open()
