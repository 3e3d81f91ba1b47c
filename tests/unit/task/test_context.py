from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from duly.errors import Cancel, TimeLimit
from duly.task import Context
from duly.task.context import Cancellation, Stop

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def a_context(**more):
    return Context(
        **{
            "job_id": uuid4(),
            "origin": uuid4(),
            "task": "shop.send",
            "queue": "mail",
            "attempt": 1,
            "max_attempts": 25,
            "enqueued_at": NOW,
            "run_at": NOW,
            "expires_at": NOW + timedelta(days=90),
            "worker": "w1",
        }
        | more
    )


def test_the_idempotency_key_is_the_same_for_all_jobs_of_an_origin():
    origin = uuid4()
    first, retried = a_context(origin=origin), a_context(origin=origin, attempt=2)
    assert first.idempotency_key == retried.idempotency_key == str(origin)


def test_check_raises_cancel_once_the_worker_says_stop():
    stop = Cancellation()
    ctx = a_context(cancellation=stop)
    ctx.check()
    assert not ctx.cancelled
    stop.set()
    assert ctx.cancelled
    with pytest.raises(Cancel):
        ctx.check()


def test_check_says_so_when_the_time_is_up():
    ctx = a_context()
    ctx.cancellation.set(Stop.TIME)
    assert ctx.cancelled
    with pytest.raises(TimeLimit):
        ctx.check()


def test_the_first_reason_to_stop_counts():
    told = Cancellation()
    told.set(Stop.CANCELLED)
    told.set(Stop.TIME)
    assert told.reason is Stop.CANCELLED


def test_a_task_cannot_change_it():
    with pytest.raises(FrozenInstanceError):
        a_context().attempt = 2
