from duly.worker.pace import AHEAD, BATCH, Pace


def pace(threads: int = 4, coroutines: int = 10, share: float = 0.0) -> Pace:
    return Pace(threads, coroutines, async_share=share)


def test_a_task_not_yet_measured_counts_as_slow() -> None:
    assert pace().room(0, 0) == 4
    assert pace().room(3, 0) == 1
    assert pace().room(4, 0) == 0


def test_ahead_is_bounded_by_a_tenth_of_a_second_of_work() -> None:
    fresh = pace()
    fresh.learn("quick", 0.01)
    fresh.saw([("quick", False)])
    assert fresh.room(4, 0) == int(4 * AHEAD / 0.01)
    assert fresh.room(4 + 40, 0) == 0
    assert fresh.room(30, 0) == 40 - 26


def test_no_batch_is_larger_than_one_statement_takes() -> None:
    fresh = pace()
    fresh.learn("instant", 0.0)
    fresh.saw([("instant", False)])
    assert fresh.room(0, 0) == BATCH


def test_the_rate_is_of_the_tasks_seen_last() -> None:
    fresh = pace()
    fresh.learn("quick", 0.001)
    fresh.saw([("quick", False)])
    assert fresh.room(4, 0) > 100
    fresh.saw([("unmeasured", False)])
    assert fresh.room(4, 0) == 0


def test_a_measure_forgets_slowly() -> None:
    fresh = pace()
    fresh.learn("task", 1.0)
    fresh.learn("task", 0.0)
    assert fresh._seconds["task"] == 0.9


def test_async_jobs_take_the_slots_of_the_loop() -> None:
    only_async = pace(share=1.0)
    assert only_async.room(0, 0) == 10
    assert only_async.room(0, 7) == 3
    assert only_async.room(0, 12) == 0


def test_where_both_kinds_wait_neither_lane_is_overfilled() -> None:
    mixed = pace(share=0.5)
    assert mixed.room(0, 0) == min(int(4 / 0.5), int(10 / 0.5))
    assert mixed.room(4 + 4, 0) == 0
    assert mixed.room(0, 10) == 0


def test_the_share_follows_what_is_claimed_and_never_shuts_a_lane_out() -> None:
    mixed = pace(share=0.5)
    for _ in range(100):
        mixed.saw([("a", True)])
    assert mixed._async_share == 0.95
    for _ in range(100):
        mixed.saw([("a", False)])
    assert mixed._async_share == 0.05
