"""Rows that somebody has touched: put back, edited; and a log that was cut."""

from __future__ import annotations

import contextlib
import random
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from duly.envelope.keys import new_key
from tests.faults.ground import LONG, Ground, figures
from tests.faults.tasks import effect, note

Record = Callable[[str, object], None]


def test_a_row_put_back_after_it_ended_is_removed_and_not_run(ground: Ground) -> None:
    later = note.using(run_in=timedelta(hours=1))
    jobs = ground.enqueue(effect.call(1), note.call(2), later.call(3))
    ground.database.rows("CREATE TABLE kept AS SELECT * FROM duly_jobs")
    ground.database.rows("UPDATE duly_jobs SET run_at = enqueued_at, state = 'available'")
    terminal = ground.terminal(processes=2)
    ground.all_done()
    before = len(ground.lines("start"))
    ground.database.rows("UPDATE kept SET run_at = enqueued_at, state = 'available'")
    for claim in (0, 7):
        ground.database.rows(f"UPDATE kept SET claim = {claim}")
        ground.database.rows("INSERT INTO duly_jobs SELECT * FROM kept")
        ground.all_done()
    (after,) = ground.enqueue(note.call(4))
    assert ground.outcome(after) == "succeeded"
    assert terminal.stop() == 0
    ground.check(calm=True)
    assert len(ground.lines("start")) == before + 1
    audited = ground.database.rows(
        "SELECT job_id, count(*) FROM duly_audit WHERE action = 'replayed row removed' GROUP BY job_id"
    )
    assert {(str(job), times) for job, times in audited} == {(job, 2) for job in jobs}
    assert len(terminal.said("security_alert")) == 6


def test_an_edited_row_ends_rejected_and_does_not_loop(ground: Ground) -> None:
    key = new_key()
    ground.reopen(keys=key)
    terminal = ground.terminal(processes=2, keys=key)
    far = timedelta(hours=1)
    jobs = ground.enqueue(*(effect.using(run_in=far).call(n) for n in range(4)))
    one, other, moved, well = jobs
    ((sealed,),) = ground.database.rows(f"SELECT envelope FROM duly_jobs WHERE id = '{one}'")
    mark = "?" if ground.database.name == "sqlite" else "%s"
    edited = bytearray(sealed)
    edited[-1] ^= 1
    ground.database.rows(f"UPDATE duly_jobs SET envelope = {mark} WHERE id = '{one}'", (bytes(edited),))
    ((swapped,),) = ground.database.rows(f"SELECT envelope FROM duly_jobs WHERE id = '{well}'")
    ground.database.rows(f"UPDATE duly_jobs SET envelope = {mark} WHERE id = '{other}'", (swapped,))
    ground.database.rows(f"UPDATE duly_jobs SET queue = 'elsewhere' WHERE id = '{moved}'")
    ground.database.rows("UPDATE duly_jobs SET run_at = enqueued_at")
    assert [ground.outcome(job) for job in jobs] == ["rejected", "rejected", "rejected", "succeeded"]
    assert terminal.stop() == 0
    entries = [ground.entry(job, "claim", "attempts") for job in (one, other, moved)]
    assert all(claim <= 2 and attempts == 0 for claim, attempts in entries), (
        "given back once, unstarted, at the most"
    )
    assert len(terminal.said("security_alert")) == 3
    books = ground.check(calm=True)
    assert {start.job for start in books.starts} == {well}


def test_a_cut_log_parts_no_job_from_its_effect(
    on_sqlite: Ground, tmp_path: Path, record_property: Record
) -> None:
    """Power loss, modelled: the write-ahead log ends somewhere, or a bit of it is wrong. What is left is a
    prefix of the commits: each effect stands with its ledger row, each enqueue whole."""
    ground = on_sqlite
    file = Path(ground.database.url.removeprefix("sqlite:///"))
    with contextlib.closing(sqlite3.connect(file)) as keeper:
        keeper.execute("SELECT 1 FROM duly_jobs").fetchall()  # the last one to close would empty the log
        terminal = ground.terminal(processes=2)
        for n in range(15):
            ground.enqueue(*(effect.call(n) for _ in range(2)))
        ground.all_done()
        assert terminal.stop() == 0
        log = file.with_name(file.name + "-wal").read_bytes()
        base = tmp_path / "cut.db"
        assert len(log) > 100_000, "the log was emptied: nothing to cut"
        copy = file.read_bytes()
        seen = set()
        for _ in range(1500 if LONG else 150):
            cut = bytearray(log[: random.randrange(len(log))])
            if cut and random.random() < 0.3:
                cut[random.randrange(len(cut))] ^= 1 << random.randrange(8)
            base.write_bytes(copy)
            base.with_name("cut.db-wal").write_bytes(cut)
            base.with_name("cut.db-shm").unlink(missing_ok=True)
            seen.add(_whole(base))
    ground.check(calm=True)
    figures(record_property, states_seen=len(seen))
    assert len(seen) > 20


def _whole(base: Path) -> tuple[int, int]:
    with contextlib.closing(sqlite3.connect(base)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        try:
            effects = connection.execute("SELECT job FROM effects").fetchall()
            ended = connection.execute(
                "SELECT job_id FROM duly_executions WHERE outcome = 'succeeded'"
            ).fetchall()
            waiting = connection.execute("SELECT id FROM duly_jobs").fetchall()
        except sqlite3.OperationalError:  # cut before the tables were made
            return -1, -1
    assert sorted(effects) == sorted(ended)
    assert not set(ended) & set(waiting)
    assert (len(ended) + len(waiting)) % 2 == 0, "half of an enqueue"
    return len(ended), len(waiting)
