"""The verdict, from runs that a stand-in makes up: which word, which divergence, which hint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from duly import Duly
from duly.proof import prover
from duly.proof.difference import rows_that_differ
from duly.proof.outside import Effect
from duly.proof.page import page
from duly.proof.points import Moment, Point, Stop
from duly.proof.prover import Prover
from duly.proof.run import Run
from duly.proof.snapshot import Row, Snapshot, Table
from duly.proof.verdict import Trial, Verdict, Word

POINTS = (
    Point(1, "statement", "INSERT INTO payments VALUES (?)", "tests/proof/test_prover.py:30"),
    Point(2, "commit", "COMMIT", "tests/proof/test_prover.py:30"),
    Point(3, "mail", "ann@example.org", "tests/proof/test_prover.py:30", held=True),
    Point(4, "returned", "", "tests/proof/test_prover.py:25"),
)
MAIL = Effect("mail", "ann@example.org", "digest", False, "x.py:1")
GOOD = Run(POINTS, (MAIL,), "succeeded", 1, ())


def paid(*amounts: int, at: str = "'x'") -> Snapshot:
    rows = [(str(number + 1), str(amount), at) for number, amount in enumerate(amounts)]
    came = tuple(Row(values, ("(new)", *values[1:])) for values in rows)
    return Snapshot({("shop.db", "payments"): Table("payments", ("id", "amount", "at"), ("id",), came, ())})


@dataclass
class Script:
    """What each run shows and leaves: ``good`` where nothing else is said for it."""

    good: tuple[Run, Snapshot] = (GOOD, paid(100))
    cleans: list[tuple[Run, Snapshot]] = field(default_factory=list)
    crashed: dict[Stop, tuple[Run, Snapshot]] = field(default_factory=dict)
    frozen: dict[int, tuple[Run, Snapshot]] = field(default_factory=dict)
    doubled: tuple[Run, Snapshot] | None = None
    notes: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)


@dataclass
class FakeWorld:
    left: Snapshot = field(default_factory=Snapshot)
    removed: bool = False

    def snapshot(self) -> Snapshot:
        return self.left

    def remove(self) -> None:
        self.removed = True


class FakeWorlds:
    def __init__(self, script: Script) -> None:
        self.script = script
        self.made: list[FakeWorld] = []

    @property
    def notes(self) -> list[str]:
        return self.script.notes

    def disregard(self, tables: Any) -> None:
        assert "duly_jobs" in tables

    def fresh(self) -> FakeWorld:
        self.made.append(FakeWorld())
        return self.made[-1]


class FakeRuns:
    script: Script

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def _play(self, world: FakeWorld, seen: tuple[Run, Snapshot] | None, name: str) -> Run:
        run, world.left = seen or self.script.good
        self.script.seen.append(name)
        return run

    def clean(self, world: FakeWorld) -> Run:
        return self._play(world, self.script.cleans.pop(0) if self.script.cleans else None, "clean")

    def crashed(self, world: FakeWorld, at: Stop) -> Run:
        return self._play(world, self.script.crashed.get(at), f"{at.moment} {at.point}")

    def frozen(self, world: FakeWorld, at: Stop) -> Run:
        return self._play(world, self.script.frozen.get(at.point), f"frozen {at.point}")

    def doubled(self, world: FakeWorld) -> Run:
        return self._play(world, self.script.doubled, "doubled")


Judge = Callable[..., Verdict]


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    """The verdict on a script, for a task that states these effects."""
    monkeypatch.setattr(prover, "Runs", FakeRuns)

    def given(script: Script, effects: Any = "idempotent", **how: Any) -> Verdict:
        jobs = Duly(f"sqlite:///{tmp_path}/shop.db")

        @jobs.task(name="charge", effects=effects)
        def charge(order_id: int) -> None: ...

        FakeRuns.script = script
        worlds: Any = FakeWorlds(script)
        verdict = Prover(jobs, charge, {"order_id": 1}, worlds, **how).prove()
        assert all(world.removed for world in worlds.made)
        return verdict

    return given


# ── words ─────────────────────────────────────────────────────────────────────────────────────


def test_task_that_leaves_the_same_each_time_is_proved(judge: Judge) -> None:
    script, told = Script(), []
    verdict = judge(script, progress=lambda *what: told.append(what))
    assert verdict.word is Word.PROVED
    assert script.seen == [
        "clean", "clean", "before 1", "after 1", "before 2", "after 2", "before 3", "after 3", "before 4",
        "frozen 1", "frozen 2", "frozen 4", "doubled", "doubled", "doubled",
    ]  # fmt: skip
    assert verdict.runs == 13
    assert told[-1] == (15, 15, "")
    assert "Crashed before and after each of 4 points" in page(verdict)


def test_row_that_is_doubled_diverges_and_says_where(judge: Judge) -> None:
    again = (replace(GOOD, attempts=2), paid(100, 100))
    verdict = judge(Script(crashed={Stop(2, Moment.AFTER): again}))
    assert verdict.word is Word.DIVERGES
    (found,) = verdict.divergences
    assert (found.trial, found.point, found.moment) == (Trial.KILLED, POINTS[1], Moment.AFTER)
    text = page(verdict)
    for words in (
        "DIVERGES  charge(order_id=1)",
        "The worker was killed (SIGKILL) right after point 2 of 4, the commit",
        "→   30 │ ",
        "payments in shop.db: a row once too often\n    + id=2  amount=100  at='x'",
        'effects="transactional"; or let a unique',
        "one input: other arguments",
    ):
        assert words in text
    assert (
        verdict.summary
        == "1 of 13 runs; first: killed after point 2 (commit at tests/proof/test_prover.py:30)"
    )


def test_data_and_arguments_are_not_in_what_is_saved(judge: Judge) -> None:
    verdict = judge(Script(crashed={Stop(2, Moment.AFTER): (GOOD, paid(100, 4711))}))
    assert "4711" in page(verdict)
    assert "4711" not in verdict.summary
    assert "order_id" not in verdict.summary


def test_frozen_and_doubled_runs_are_judged_too(judge: Judge) -> None:
    again = (GOOD, paid(100, 100))
    (frozen,) = judge(Script(frozen={4: again})).divergences
    assert frozen.trial is Trial.FROZEN
    doubled = judge(Script(doubled=again))
    assert [found.how for found in doubled.divergences] == ["delivered twice at once"] * 3
    assert "unique" in doubled.divergences[0].hint
    assert "So did 2 others of 13 runs:" in page(doubled)


def test_other_outcome_diverges(judge: Judge) -> None:
    failed = (replace(GOOD, outcome="failed"), paid(100))
    (found,) = judge(Script(crashed={Stop(1, Moment.AFTER): failed})).divergences
    assert found.differences[0].lines == ("- succeeded", "+ failed")


def test_mail_sent_twice_diverges_with_a_hint_at_the_key(judge: Judge) -> None:
    twice = (replace(GOOD, effects=(MAIL, MAIL)), paid(100))
    (found,) = judge(Script(crashed={Stop(3, Moment.AFTER): twice})).divergences
    assert "Message-ID" in found.hint


def test_mail_with_the_key_is_proved_and_relied_on(judge: Judge) -> None:
    keyed = replace(MAIL, keyed=True)
    good = (replace(GOOD, effects=(keyed,)), paid(100))
    twice = (replace(GOOD, effects=(keyed, keyed)), paid(100))
    verdict = judge(Script(good, crashed={Stop(3, Moment.AFTER): twice}))
    assert (verdict.word, verdict.relies_on) == (Word.PROVED, ("mail to ann@example.org",))
    assert "It relies on these" in page(verdict)


def test_unrepeatable_task_may_leave_out_and_not_double(judge: Judge) -> None:
    nothing = (replace(GOOD, outcome="uncertain", effects=()), Snapshot())
    doubled = (replace(GOOD, outcome="uncertain", effects=(MAIL, MAIL)), paid(100))
    at = Stop(1, Moment.BEFORE)
    verdict = judge(Script(crashed={at: nothing}), "unrepeatable")
    assert verdict.word is Word.PROVED
    assert "Nothing was done twice" in page(verdict)
    assert judge(Script(crashed={at: doubled}), "unrepeatable").word is Word.DIVERGES
    assert judge(Script(crashed={at: nothing}), "idempotent").word is Word.DIVERGES


# ── cannot tell ───────────────────────────────────────────────────────────────────────────────


def test_column_of_chance_is_named_with_what_to_write(judge: Judge) -> None:
    verdict = judge(Script(cleans=[(GOOD, paid(100, at="'a'")), (GOOD, paid(100, at="'b'"))]))
    assert (verdict.word, verdict.remedies) == (Word.CANNOT_TELL, ("payments.at",))
    assert "--free payments.at" in page(verdict)
    free = judge(
        Script(cleans=[(GOOD, paid(100, at="'a'")), (GOOD, paid(100, at="'b'"))]), free=["payments.at"]
    )
    assert free.word is Word.PROVED


def test_clock_that_ticked_between_runs_is_not_called_a_divergence(judge: Judge) -> None:
    clean = (GOOD, paid(100, at="'2026-01-01 10:00:00'"))
    later = (GOOD, paid(100, at="'2026-01-01 10:00:01'"))
    verdict = judge(Script(clean, crashed={Stop(1, Moment.AFTER): later}))
    assert (verdict.word, verdict.remedies) == (Word.CANNOT_TELL, ("payments.at",))


def test_clean_run_that_fails_cannot_be_told(judge: Judge) -> None:
    script = Script(cleans=[(replace(GOOD, outcome="failed", attempts=25), Snapshot())])
    verdict = judge(script)
    assert verdict.word is Word.CANNOT_TELL
    assert "ended failed after 25 attempts" in page(verdict)
    assert script.seen == ["clean"]


def test_connection_that_was_not_redirected_cannot_be_told(judge: Judge) -> None:
    verdict = judge(Script(notes=["shop.db was opened by sqlite3 (at shop.py:3)"]))
    assert verdict.word is Word.CANNOT_TELL
    assert verdict.reasons == ("shop.db was opened by sqlite3 (at shop.py:3)",)
    assert "shop.db" not in verdict.summary  # what is recorded says where nothing is, and quotes nothing


def test_run_that_cannot_tell_does_not_hide_a_divergence(judge: Judge) -> None:
    lost = (replace(GOOD, notes=("it did not come to point 1",)), Snapshot())
    again = (GOOD, paid(100, 100))
    first = judge(Script(crashed={Stop(1, Moment.BEFORE): lost}))
    assert (first.word, first.reasons) == (Word.CANNOT_TELL, ("it did not come to point 1",))
    both = judge(Script(crashed={Stop(1, Moment.BEFORE): lost, Stop(2, Moment.AFTER): again}))
    assert both.word is Word.DIVERGES


def test_what_was_sent_twice_unseen_cannot_be_told(judge: Judge) -> None:
    unseen = replace(MAIL, kind="socket", target="bank:443", payload=None)
    good = (replace(GOOD, effects=(unseen,)), paid(100))
    twice = (replace(GOOD, effects=(unseen, unseen)), paid(100))
    verdict = judge(Script(good, crashed={Stop(3, Moment.AFTER): twice}))
    assert verdict.word is Word.CANNOT_TELL
    assert "bank:443" in verdict.reasons[0]


def test_verdict_as_data_has_all_that_the_page_has(judge: Judge) -> None:
    data = judge(Script(crashed={Stop(2, Moment.AFTER): (GOOD, paid(100, 100))})).as_data()
    assert (data["verdict"], data["runs"], len(data["points"])) == ("diverges", 13, 4)
    (found,) = data["divergences"]
    assert (found["trial"], found["moment"], found["point"]) == ("killed", "after", 2)
    assert found["differences"][0]["fault"] == "doubled"


# ── mutants ───────────────────────────────────────────────────────────────────────────────────


def overlooks_rows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("duly.proof.difference.rows_that_differ", lambda *_, **__: iter(()))


def takes_missing_for_promised(patch: pytest.MonkeyPatch) -> None:
    def lenient(clean: Snapshot, other: Snapshot, **how: Any) -> Any:
        return rows_that_differ(clean, other, **{**how, "only_doubled": True})

    patch.setattr("duly.proof.difference.rows_that_differ", lenient)


@pytest.mark.parametrize("breaks", [overlooks_rows, takes_missing_for_promised])
def test_mutant_that_overlooks_a_row_is_caught(
    judge: Judge, breaks: Callable[[pytest.MonkeyPatch], None]
) -> None:
    script = Script(crashed={Stop(1, Moment.AFTER): (GOOD, Snapshot())})
    assert judge(script).word is Word.DIVERGES
    with pytest.MonkeyPatch.context() as patch:
        breaks(patch)
        assert judge(script).word is Word.PROVED
