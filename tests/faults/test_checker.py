"""The checker itself: books that are in order pass, and each kind of disorder is seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.faults.checker import SLACK, Books, Effect, Ended, Start, Unfinished


def books() -> Books:
    """*paid* is transactional and needed two claims, *told* is not and needed one; *shot* is unrepeatable."""
    return Books(
        promised={"paid": True, "told": False, "shot": False},
        undone={"undone"},
        unrepeatable={"shot"},
        launches=Counter({"shot": 1}),
        starts=[
            Start("paid", 1, 1, "a", at=10.0, run_at=9.0, expires_at=99.0),
            Start("paid", 2, 2, "b", at=20.0, run_at=19.0, expires_at=99.0),
            Start("told", 1, 1, "a", at=10.0, run_at=9.0, expires_at=99.0),
            Start("shot", 1, 1, "a", at=10.0, run_at=9.0, expires_at=99.0),
        ],
        effects=[Effect("paid", 2, "b", at=20.0)],
        ended=[
            Ended("paid", "succeeded", 2, 2, "b", ended_at=21.0, expires_at=99.0),
            Ended("told", "succeeded", 1, 1, "a", ended_at=11.0, expires_at=99.0),
            Ended("shot", "succeeded", 1, 1, "a", ended_at=11.0, expires_at=99.0),
        ],
    )


def doubled_effect(one: Books) -> None:
    one.effects.append(Effect("paid", 1, "a", at=10.0))


def missing_effect(one: Books) -> None:
    one.effects.clear()


def effect_of_a_failed_job(one: Books) -> None:
    one.ended[0] = replace(one.ended[0], outcome="failed")


def effect_of_another_claim(one: Books) -> None:
    one.effects[0] = replace(one.effects[0], claim=1, worker="a")


def lost_job(one: Books) -> None:
    del one.ended[1]


def two_outcomes(one: Books) -> None:
    one.ended.append(replace(one.ended[1], outcome="failed"))


def ended_and_waiting(one: Books) -> None:
    one.unfinished.append(Unfinished("told", "available", 1))


def left_over(one: Books) -> None:
    del one.ended[1]
    one.unfinished.append(Unfinished("told", "available", 1))


def rolled_back_and_run(one: Books) -> None:
    one.starts.append(replace(one.starts[2], job="undone"))


def rolled_back_and_there(one: Books) -> None:
    one.unfinished.append(Unfinished("undone", "available", 0))


def never_enqueued(one: Books) -> None:
    one.starts.append(replace(one.starts[2], job="stranger"))


def one_claim_for_two(one: Books) -> None:
    one.starts.append(replace(one.starts[2], worker="b"))


def claims_go_down(one: Books) -> None:
    one.starts[1] = replace(one.starts[1], claim=3)
    one.effects[0] = replace(one.effects[0], claim=2)


def attempts_go_down(one: Books) -> None:
    one.starts[0] = replace(one.starts[0], attempt=3)


def attempts_without_starts(one: Books) -> None:
    one.ended[1] = replace(one.ended[1], attempts=2)


def success_without_a_start(one: Books) -> None:
    del one.starts[2]


def early_start(one: Books) -> None:
    one.starts[2] = replace(one.starts[2], at=8.999)


def late_start(one: Books) -> None:
    one.starts[2] = replace(one.starts[2], at=99.0 + 2 * SLACK)


def late_success(one: Books) -> None:
    one.ended[0] = replace(one.ended[0], ended_at=99.5)


def done_twice(one: Books) -> None:
    one.launches["shot"] = 2
    one.ended[2] = replace(one.ended[2], outcome="uncertain")


def succeeded_and_not_done(one: Books) -> None:
    one.launches.clear()


def done_and_failed(one: Books) -> None:
    one.ended[2] = replace(one.ended[2], outcome="failed")


DISORDERS: dict[Callable[[Books], None], str] = {
    doubled_effect: "paid: its effect happened 2 times",
    missing_effect: "paid: succeeded without its effect",
    effect_of_a_failed_job: "paid: has an effect, but failed",
    effect_of_another_claim: "paid: done by claim 1, the ledger says 2",
    lost_job: "told: lost, neither ended nor waiting",
    two_outcomes: "told: 2 outcomes",
    ended_and_waiting: "told: ended, and there again",
    left_over: "told: not finished",
    rolled_back_and_run: "undone: was rolled back, but ran",
    rolled_back_and_there: "undone: was rolled back, but is there",
    never_enqueued: "stranger: was never enqueued, but ran",
    one_claim_for_two: "told: claim 1 was started twice",
    claims_go_down: "paid: claim 3 was started, the database knows 2",
    attempts_go_down: "paid: a later claim has an earlier attempt",
    attempts_without_starts: "told: 2 attempts, but 1 starts",
    success_without_a_start: "told: succeeded without a start",
    early_start: "told: started 0.001 s too early",
    late_start: "told: started 2.000 s after it had expired",
    late_success: "paid: succeeded 0.500 s after it had expired",
    done_twice: "shot: is unrepeatable, and was done 2 times",
    succeeded_and_not_done: "shot: succeeded without being done",
    done_and_failed: "shot: was done, but failed",
}


def test_books_in_order_pass() -> None:
    assert books().complaints() == []


@pytest.mark.parametrize("disorder", DISORDERS, ids=lambda disorder: disorder.__name__)
def test_disorder_is_seen(disorder: Callable[[Books], None]) -> None:
    one = books()
    disorder(one)
    assert DISORDERS[disorder] in one.complaints()


def test_what_is_uncertain_may_have_been_done_or_not() -> None:
    one = books()
    one.ended[2] = replace(one.ended[2], outcome="uncertain")
    assert one.complaints() == []
    one.launches.clear()
    assert one.complaints() == []


def test_what_waits_is_not_lost_while_the_run_goes_on() -> None:
    one = books()
    left_over(one)
    assert one.complaints(finished=False) == []


def test_a_second_run_of_an_attempt_needs_a_reason() -> None:
    one = books()
    one.starts[1] = replace(one.starts[1], attempt=1)
    one.ended[0] = replace(one.ended[0], attempts=1)
    assert one.complaints() == []
    assert one.complaints(calm=True) == ["paid: an attempt ran twice, though nobody was killed"]
