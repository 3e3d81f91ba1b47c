"""One isolated attempt after the other, each in a cell of a real nursery; and what happens where there is none."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from duly import Context, JobHandle, Retry, given
from duly.model.events import Notice
from duly.model.report import Died, Ended, PutBack, Released, Report, Succeeded
from duly.task.context import Stop
from duly.worker import isolation
from duly.worker.cell import Cell, CellExecutor
from duly.worker.executor import Executor
from duly.worker.isolation import Isolation
from duly.worker.nursery import Nurse
from duly.worker.pool import Threads
from duly.worker.ticket import Ticket
from duly.worker.verdict import Verdict
from duly.worker.writeturn import WriteTurn
from tests.postgresql import wait_gone
from tests.worker.stage import PATIENCE, App, Stage


class Ward:
    """A nursery, and a thread of a worker that runs jobs in its cells."""

    def __init__(self, app: App) -> None:
        self.app = app
        app.store.disconnect()
        with warnings.catch_warnings():
            # From Python 3.12, where the test run itself may have threads.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.isolation = Isolation.start(app)
        self.losses: list[bool] = []
        self.isolation.on_loss = lambda: self.losses.append(True)
        self.executor = Executor(app, WriteTurn(shared=False), isolation=self.isolation)

    def ticket(self, handle: JobHandle[Any]) -> Ticket:
        with self.app.store.writing() as connection:
            job = self.app.store.jobs.claim_one(connection, "w1", handle.id)
        assert job is not None
        return Ticket(job, "w1", time.monotonic(), asynchronous=False, apart=True)

    def run(self, handle: JobHandle[Any], ticket: Ticket | None = None) -> Report:
        """As a thread of the lane of sync tasks does."""
        lane: Any = Threads._run
        thread: Any = type("Lane", (), {"_executor": self.executor})()
        report: Report = lane(thread, ticket or self.ticket(handle))
        return report

    def close(self) -> None:
        self.isolation.close()
        wait_gone(self.isolation._pid)


@pytest.fixture
def ward(sqlite: Stage) -> Iterator[Callable[[App], Ward]]:
    """Makes wards; call it when the tasks are declared."""
    with contextlib.ExitStack() as stack:

        def make(app: App) -> Ward:
            made = Ward(app)
            stack.callback(made.close)
            return made

        yield make


Wards = Callable[[App], Ward]


def fit_out(app: App) -> dict[str, Any]:
    """Isolated tasks."""

    @app.task(isolated=True, keep_result=True)
    def process() -> int:
        return os.getpid()

    @app.task(isolated=True, keep_result=True)
    async def aprocess() -> int:
        return os.getpid()

    @app.task(isolated=True)
    def again() -> None:
        raise Retry(after=7)

    @app.task(isolated=True, max_run_time=60)
    def stay(*, ctx: Context = given) -> None:
        threading.Event().wait()

    @app.task(isolated=True)
    def leave(code: int) -> None:
        os._exit(code)

    return dict(locals())


# ── what comes back ───────────────────────────────────────────────────────────────────────────


def test_reports_come_back_whatever_they_are(sqlite: Stage, ward: Wards) -> None:
    app = sqlite.app()
    tasks = fit_out(app)
    cells = ward(app)
    done = cells.run(tasks["process"].enqueue())
    assert isinstance(done, Succeeded)
    assert done.result
    assert isinstance(cells.run(tasks["aprocess"].enqueue()), Succeeded)
    retried = cells.run(tasks["again"].enqueue())
    assert isinstance(retried, PutBack)
    assert (retried.counted, retried.after.total_seconds()) == (True, 7)  # type: ignore[union-attr]
    died = cells.run(tasks["leave"].enqueue(3))
    assert isinstance(died, Died)
    assert died.cause == "exit status 3"
    assert died.started_at
    assert not cells.isolation.lost


def test_what_is_lost_is_killed_and_released(
    sqlite: Stage, ward: Wards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "AFTER_STOP", 0.1)
    app = sqlite.app()
    tasks = fit_out(app)
    cells = ward(app)
    handle = tasks["stay"].enqueue()
    ticket = cells.ticket(handle)
    ticket.cancellation.set(Stop.LOST)
    assert cells.run(handle, ticket) == Released(handle.id, 1)


# ── trouble of ours is no death of the job's ──────────────────────────────────────────────────


def assert_put_back(report: Report) -> None:
    assert isinstance(report, PutBack)
    assert not report.counted
    assert report.cause == "internal error: CellLost"


def test_a_cell_that_dies_before_the_task_begins_is_put_back(
    sqlite: Stage, ward: Wards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cell, "live", lambda self: os._exit(9))
    app = sqlite.app()
    tasks = fit_out(app)
    cells = ward(app)
    assert_put_back(cells.run(tasks["process"].enqueue()))
    assert not cells.isolation.lost


def test_a_cell_that_does_not_come_to_its_task_is_killed_and_put_back(
    sqlite: Stage, ward: Wards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cell, "live", lambda self: threading.Event().wait())
    monkeypatch.setattr(isolation, "STARTING", 0.1)
    app = sqlite.app()
    tasks = fit_out(app)
    assert_put_back(ward(app).run(tasks["process"].enqueue()))


def test_a_cell_that_does_not_come_to_its_report_is_killed_and_has_failed(
    sqlite: Stage, ward: Wards, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = sqlite.app()
    tasks = fit_out(app)
    with monkeypatch.context() as within:
        within.setattr(Verdict, "succeeded", lambda *_: threading.Event().wait())
        cells = ward(app)
    monkeypatch.setattr(isolation, "ENDING", 0.1)
    report = cells.run(tasks["process"].using(max_attempts=1).enqueue())
    assert isinstance(report, Ended)
    assert report.cause == "not over 0.1 s after the task had returned in attempt 1, the last"


def test_where_no_process_can_be_made_jobs_are_put_back(
    sqlite: Stage, ward: Wards, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    # In the nursery, just before its first order.
    monkeypatch.setattr(Nurse, "_warn_of_threads", lambda self: setattr(os, "fork", refuse))
    app = sqlite.app()
    tasks = fit_out(app)
    cells = ward(app)
    assert_put_back(cells.run(tasks["process"].enqueue()))
    assert "Resource temporarily unavailable" in app.journal.of(Notice)[-1].text
    assert not cells.isolation.lost


def test_a_nursery_that_is_gone_is_noticed_once(sqlite: Stage, ward: Wards) -> None:
    app = sqlite.app()
    tasks = fit_out(app)
    cells = ward(app)
    os.kill(cells.isolation._pid, signal.SIGKILL)
    for _ in range(2):
        assert_put_back(cells.run(tasks["process"].enqueue()))
    assert cells.losses == [True]
    assert cells.isolation.lost


def test_threads_in_a_nursery_are_warned_of(sqlite: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    app = sqlite.app()
    nurse: Any = type("Nurse", (), {"_home": app})()
    over = threading.Event()
    thread = threading.Thread(target=over.wait, args=(PATIENCE,), name="exporter")
    thread.start()
    Nurse._warn_of_threads(nurse)
    over.set()
    thread.join()
    (notice,) = app.journal.of(Notice)
    assert "exporter" in notice.text


# ── unrepeatable ──────────────────────────────────────────────────────────────────────────────


class Closed(Exception):
    """Raised before anything was done."""


@pytest.mark.parametrize(
    ("does", "outcome"),
    [
        ("return", "succeeded"),
        ("raise", "uncertain"),
        ("leave", "uncertain"),
        ("stay", "uncertain"),
        ("close", None),
    ],
)
def test_what_is_unrepeatable_is_marked_in_its_cell(
    sqlite: Stage, ward: Wards, monkeypatch: pytest.MonkeyPatch, does: str, outcome: str | None
) -> None:
    monkeypatch.setattr(isolation, "AFTER_TIME", 0.1)
    app = sqlite.app()

    @app.task(
        isolated=True, effects="unrepeatable", retry_on=(Closed,), max_run_time=5 if does != "stay" else 0.2
    )
    def launch(*, ctx: Context = given) -> None:
        assert sqlite.row(app, ctx.job_id)["started_at"] is not None  # type: ignore[index]
        if does == "raise":
            raise ValueError
        if does == "leave":
            os._exit(3)
        if does == "close":
            raise Closed
        if does == "stay":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGURG})
            threading.Event().wait()

    cells = ward(app)
    job = launch.enqueue()
    report = cells.run(job)
    with app.store.writing() as connection:
        app.store.jobs.exchange(connection, "w1", [report], ("",), 0)
    assert sqlite.outcome(app, job) == outcome
    row = sqlite.row(app, job)
    if outcome is None:
        assert row is not None
        assert (row["state"], row["attempt"], row["started_at"]) == ("scheduled", 1, None)


def test_a_cell_that_is_lost_after_its_mark_leaves_the_job_uncertain(
    sqlite: Stage, ward: Wards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker has not heard that the task began, so it gives the job back; the row knows better."""
    app = sqlite.app()

    @app.task(isolated=True, effects="unrepeatable")
    def launch() -> None:
        raise AssertionError("it ran")

    monkeypatch.setattr(CellExecutor, "_confined", lambda *_: os._exit(4))
    cells = ward(app)
    job = launch.enqueue()
    report = cells.run(job)
    assert_put_back(report)
    with app.store.writing() as connection:
        app.store.jobs.exchange(connection, "w1", [report], ("",), 0)
    assert sqlite.outcome(app, job) == "uncertain"


# ── without a nursery ─────────────────────────────────────────────────────────────────────────


def test_drain_and_inline_run_isolated_tasks_here(stage: Stage) -> None:
    app = stage.app()
    tasks = fit_out(app)
    handles = [tasks["process"].enqueue(), tasks["aprocess"].enqueue()]
    assert app.drain() == {"succeeded": 2}
    assert {handle.result() for handle in handles} == {os.getpid()}
    with app.inline():
        assert tasks["process"].enqueue().result() == os.getpid()
        assert tasks["aprocess"].enqueue().result() == os.getpid()
