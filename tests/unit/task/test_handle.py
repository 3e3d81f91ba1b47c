import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from duly.clock import Clock
from duly.errors import (
    JobDidNotSucceed,
    JobNotEnded,
    JobNotFound,
    JoinTimeout,
    ResultNotKept,
    UnknownKey,
)
from duly.model.ids import new_id
from duly.model.job import JobStatus
from duly.model.states import Outcome, State
from duly.task import JobHandle

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOB = new_id()

WAITING = JobStatus(
    id=JOB,
    origin=JOB,
    task="shop.send",
    queue="mail",
    priority=0,
    state=State.AVAILABLE,
    outcome=None,
    cause=None,
    attempts=0,
    rescues=0,
    claim=0,
    worker=None,
    run_at=NOW,
    enqueued_at=NOW,
    expires_at=NOW + timedelta(days=90),
    ended_at=None,
    principal=None,
    key_id=None,
)
RUNNING = replace(WAITING, state=State.RUNNING, worker="w1", claim=1)
SUCCEEDED = replace(WAITING, state=None, outcome=Outcome.SUCCEEDED, attempts=1, result=b"42")
FAILED = replace(
    WAITING, state=None, outcome=Outcome.FAILED, cause="attempts used up", attempts=3, error=b"x"
)


@dataclass
class Trouble:
    type: str
    message: str


class Desk:
    """Tells one status after the other, the last again and again."""

    def __init__(self, *statuses):
        self.statuses = list(statuses)
        self.looks = 0
        self.ran = []
        self.trouble = None

    def look(self, id_):
        assert id_ == JOB
        self.looks += 1
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]

    def cancel(self, id_):
        status = self.statuses[-1]
        if not (status and status.state and status.state.waiting):
            return False
        self.statuses = [replace(status, state=None, outcome=Outcome.CANCELLED)]
        return True

    def result_of(self, status):
        return int(status.result)

    def trouble_of(self, status):
        if isinstance(self.trouble, Exception):
            raise self.trouble
        return self.trouble

    async def run(self, function, *args):
        self.ran.append(function.__name__)
        return function(*args)


class TurnedClock(Clock):
    """Goes on only while somebody sleeps."""

    def __init__(self):
        self.now = 100.0
        self.naps = []

    def monotonic(self):
        return self.now

    def nap(self, seconds):
        self.naps.append(seconds)
        self.now += seconds

    async def anap(self, seconds):
        self.nap(seconds)


@pytest.fixture
def clock():
    return TurnedClock()


@pytest.fixture
def handle_of(clock):
    def make(*statuses, snapshot=None):
        desk = Desk(*statuses)
        return JobHandle(JOB, desk, snapshot, clock=clock, sleep=clock.nap, asleep=clock.anap), desk

    return make


# ── looking ───────────────────────────────────────────────────────────────────────────────────


def test_a_handle_fresh_from_enqueue_need_not_look(handle_of):
    handle, desk = handle_of(SUCCEEDED, snapshot=WAITING)
    assert (handle.state, handle.outcome, handle.attempts, handle.error) == (State.AVAILABLE, None, 0, None)
    assert desk.looks == 0


def test_a_handle_without_a_snapshot_looks_once(handle_of):
    handle, desk = handle_of(SUCCEEDED)
    assert (handle.state, handle.outcome, handle.attempts) == (None, Outcome.SUCCEEDED, 1)
    assert desk.looks == 1


def test_refresh_looks_again_and_returns_the_handle(handle_of):
    handle, _ = handle_of(RUNNING, snapshot=WAITING)
    assert handle.refresh().state is State.RUNNING
    assert asyncio.run(handle.arefresh()) is handle


def test_a_job_that_is_not_there_is_not_found(handle_of):
    handle, _ = handle_of(None, snapshot=WAITING)
    for ask in (handle.refresh, handle.join, lambda: asyncio.run(handle.ajoin()), handle.result):
        with pytest.raises(JobNotFound, match=f"{JOB}.*not committed or was rolled back"):
            ask()


def test_the_error_is_type_and_message(handle_of):
    handle, desk = handle_of(FAILED)
    assert handle.error is None
    desk.trouble = Trouble("ValueError", "no such user")
    assert handle.error == "ValueError: no such user"
    desk.trouble = Trouble("KeyError", "")
    assert handle.error == "KeyError"


def test_handles_of_one_job_are_equal(handle_of):
    (one, _), (two, _) = handle_of(WAITING), handle_of(SUCCEEDED)
    assert one == two
    assert len({one, two}) == 1
    assert one != JobHandle(uuid4(), Desk(WAITING))
    assert one != JOB


def test_a_repr_tells_the_last_known_state_without_looking(handle_of):
    handle, desk = handle_of(SUCCEEDED)
    assert repr(handle) == f"<JobHandle {JOB} not looked at>"
    assert desk.looks == 0
    assert repr(handle.refresh()) == f"<JobHandle {JOB} succeeded>"


# ── cancelling ────────────────────────────────────────────────────────────────────────────────


def test_a_waiting_job_can_be_cancelled_and_is_then_seen_so(handle_of):
    handle, _ = handle_of(WAITING, snapshot=WAITING)
    assert handle.cancel() is True
    assert handle.outcome is Outcome.CANCELLED


@pytest.mark.parametrize("status", [RUNNING, SUCCEEDED, None])
def test_no_other_job_can_be_cancelled(handle_of, status):
    handle, _ = handle_of(status, snapshot=WAITING)
    assert handle.cancel() is False
    assert handle.state == (status or WAITING).state


def test_cancelling_from_async_code_asks_off_the_loop(handle_of):
    handle, desk = handle_of(WAITING)
    assert asyncio.run(handle.acancel()) is True
    assert desk.ran == ["cancel"]
    assert handle.outcome is Outcome.CANCELLED
    assert handle._snapshot is not None  # so that reading the outcome did not block the loop


# ── waiting ───────────────────────────────────────────────────────────────────────────────────


def test_join_waits_for_the_end_longer_and_longer(handle_of, clock):
    handle, desk = handle_of(*[RUNNING] * 20, SUCCEEDED)
    assert handle.join() is Outcome.SUCCEEDED
    assert desk.looks == 21
    assert clock.naps[0] == 0.005
    assert clock.naps == sorted(clock.naps)
    assert clock.naps[-1] == 0.25


def test_join_of_an_ended_job_does_not_even_look(handle_of, clock):
    handle, desk = handle_of(None, snapshot=FAILED)  # pruned by now
    assert handle.join(timeout=0) is Outcome.FAILED
    assert (desk.looks, clock.naps) == (0, [])


def test_join_gives_up_after_its_time_and_looks_once_more_at_the_end(handle_of, clock):
    handle, desk = handle_of(RUNNING)
    with pytest.raises(JoinTimeout, match=r"not ended within 1 s \(it is running\)") as caught:
        handle.join(timeout=1)
    assert isinstance(caught.value, TimeoutError)
    assert sum(clock.naps) == pytest.approx(1)
    assert desk.looks == len(clock.naps) + 1


def test_join_without_any_time_looks_once(handle_of, clock):
    handle, desk = handle_of(RUNNING)
    with pytest.raises(JoinTimeout):
        handle.join(timeout=0)
    assert (desk.looks, clock.naps) == (1, [])


def test_ajoin_waits_on_the_loop(handle_of, clock):
    handle, desk = handle_of(WAITING, RUNNING, SUCCEEDED)
    assert asyncio.run(handle.ajoin(timeout=5)) is Outcome.SUCCEEDED
    assert desk.ran == ["look"] * 3
    assert len(clock.naps) == 2


def test_ajoin_lets_others_run_meanwhile():
    handle = JobHandle(JOB, Desk(RUNNING, SUCCEEDED))
    seen = []

    async def other():
        seen.append(handle._ended())

    async def both():
        task = asyncio.create_task(other())
        await handle.ajoin()
        await task

    asyncio.run(both())
    assert seen == [None]


# ── results ───────────────────────────────────────────────────────────────────────────────────


def test_the_result_of_a_job_that_succeeded(handle_of):
    handle, desk = handle_of(SUCCEEDED, snapshot=WAITING)
    assert handle.result() == 42
    assert handle.result() == 42
    assert desk.looks == 1
    assert asyncio.run(handle_of(SUCCEEDED)[0].aresult()) == 42


def test_no_result_before_the_end_unless_one_waits(handle_of):
    handle, _ = handle_of(RUNNING, snapshot=WAITING)
    with pytest.raises(JobNotEnded, match="it is running"):
        handle.result()
    with pytest.raises(JobNotEnded):
        asyncio.run(handle.aresult())
    with pytest.raises(JoinTimeout):
        handle.result(timeout=0.1)


def test_result_can_wait(handle_of):
    assert handle_of(RUNNING, SUCCEEDED)[0].result(timeout=None) == 42
    assert asyncio.run(handle_of(RUNNING, SUCCEEDED)[0].aresult(timeout=1)) == 42


def test_no_result_of_a_job_that_did_not_succeed(handle_of):
    handle, desk = handle_of(FAILED)
    desk.trouble = Trouble("ValueError", "no such user")
    with pytest.raises(
        JobDidNotSucceed, match=r"ended failed \(attempts used up; ValueError: no such user\)"
    ):
        handle.result()


def test_it_did_not_succeed_also_when_nobody_can_read_why(handle_of):
    handle, desk = handle_of(replace(FAILED, cause=None))
    desk.trouble = UnknownKey("no key k1")
    with pytest.raises(JobDidNotSucceed, match=r"ended failed$"):
        handle.result()


def test_a_result_that_was_not_kept_is_not_there(handle_of):
    handle, _ = handle_of(replace(SUCCEEDED, result=None))
    with pytest.raises(ResultNotKept, match="keep_result=True"):
        handle.result()
