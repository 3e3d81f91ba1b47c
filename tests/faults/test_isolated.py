"""``isolated=True``: a process of its own for each job, which can be killed, and dies with its worker."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.faults import cells
from tests.faults.ground import Ground
from tests.faults.tasks import effect, hold, note
from tests.faults.terminal import Terminal, pause, until
from tests.postgresql import children_of, wait_gone


def start(ground: Ground, *, processes: int = 1, **settings: Any) -> Terminal:
    """Workers whose app has isolated tasks, and the app to enqueue them with."""
    ground.app.include(cells.apart)
    terminal = ground.terminal("--app", "tests.faults.cellapp:jobs", processes=processes, **settings)
    terminal.workers(processes)
    return terminal


def here(ground: Ground, job: str) -> dict[str, Any]:
    """Wait until the job's task has begun; what it wrote down: ``pid``, ``group``, ``nursery``."""
    found: list[dict[str, Any]] = until(lambda: ground.lines("here", job=job), f"a word of {job}")
    return found[-1]


def cause(ground: Ground, job: str) -> str:
    """Wait for the end; why it ended so."""
    ground.outcome(job)
    found = ground.entry(job, "cause")
    assert found
    return str(found[0])


# ── a process of its own ──────────────────────────────────────────────────────────────────────


def test_each_job_has_a_process_of_its_own_which_leads_a_group(ground: Ground) -> None:
    terminal = start(ground)
    first, second = ground.enqueue(cells.stay.call("gate"), cells.stay.call("gate"))
    one, other = here(ground, first), here(ground, second)
    assert one["pid"] != other["pid"]
    assert (one["group"], other["group"]) == (one["pid"], other["pid"])
    (worker,) = terminal.children
    assert children_of(worker) == {one["nursery"]} == {other["nursery"]}
    ground.open("gate")
    ground.all_done()
    assert wait_gone(one["pid"])
    assert wait_gone(other["pid"])
    assert terminal.stop() == 0
    assert wait_gone(one["nursery"])
    ground.check(calm=True)


def test_an_app_without_isolated_tasks_has_no_nursery(ground: Ground) -> None:
    terminal = ground.terminal()
    (worker,) = terminal.workers(1)
    assert children_of(worker) == set()
    assert terminal.stop() == 0


def test_sync_and_async_results_come_back(ground: Ground) -> None:
    terminal = start(ground)
    handles = [cells.process_of.enqueue(1), cells.aprocess_of.enqueue(2), cells.process_of.enqueue(3)]
    processes = {handle.result(timeout=60) for handle in handles}
    assert len(processes) == 3
    assert not processes & {terminal.pid, *terminal.children}
    assert terminal.stop() == 0


def test_what_a_cell_has_said_is_written(on_sqlite: Ground) -> None:
    terminal = start(on_sqlite)
    (job,) = on_sqlite.enqueue(cells.speak.call())
    assert on_sqlite.outcome(job) == "succeeded"
    assert "a word of the cell" in terminal.words()
    assert "a line of its log" in terminal.words()
    assert terminal.stop() == 0


def test_threads_that_a_coroutine_leaves_do_not_keep_its_cell(on_sqlite: Ground) -> None:
    terminal = start(on_sqlite)
    (job,) = on_sqlite.enqueue(cells.leave_a_thread.call())
    assert on_sqlite.outcome(job) == "succeeded"
    assert wait_gone(here(on_sqlite, job)["pid"])
    assert terminal.stop() == 0


# ── limits ────────────────────────────────────────────────────────────────────────────────────


def test_what_holds_the_interpreter_is_killed_at_its_time_limit_and_neighbors_run(ground: Ground) -> None:
    terminal = start(ground)
    (job,) = ground.enqueue(cells.hold_the_interpreter.call())
    cell = here(ground, job)["pid"]
    ground.enqueue(*(note.call(n) for n in range(20)))
    assert ground.outcome(job) == "failed"
    assert cause(ground, job) == "over its max_run_time of 0.3 s in attempt 1, the last"
    assert wait_gone(cell)
    ground.all_done()
    assert terminal.stop() == 0
    ground.check(calm=True)


def test_what_hears_of_its_time_limit_may_tidy_up(ground: Ground) -> None:
    terminal = start(ground)
    (job,) = ground.enqueue(cells.tidy_up.call())
    assert cause(ground, job) == "over its max_run_time of 0.3 s in attempt 1, the last"
    assert ground.lines("tidied", job=job)
    assert terminal.stop() == 0


def test_a_hog_gets_a_memory_error_and_its_neighbor_goes_on(ground: Ground) -> None:
    terminal = start(ground)
    (neighbor,) = ground.enqueue(hold.call("gate"))
    ground.started(neighbor)
    (job,) = ground.enqueue(cells.hog.call())
    assert cause(ground, job) == "MemoryError in attempt 1, the last"
    assert not ground.lines("hogged")
    ground.open("gate")
    ground.all_done()
    assert terminal.stop() == 0
    ground.check(calm=True)


def test_a_hog_in_a_transaction_is_rolled_back(ground: Ground) -> None:
    terminal = start(ground)
    (job,) = ground.enqueue(cells.hog_in_transaction.call())
    assert cause(ground, job) == "MemoryError in attempt 1, the last"
    assert terminal.stop() == 0
    ground.check(calm=True)


def test_who_burns_more_than_its_processor_time_is_killed(ground: Ground) -> None:
    terminal = start(ground)
    (job,) = ground.enqueue(cells.burn.call())
    assert cause(ground, job) == "over its max_cpu of 1 s in attempt 1, the last"
    assert terminal.stop() == 0


# ── crashes ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("how", "words"),
    [("abort", "SIGABRT"), ("segfault", "SIGSEGV"), ("kill", "SIGKILL"), ("exit", "exit status 7")],
)
def test_a_crash_costs_no_neighbor_and_ends_failed_at_the_third(ground: Ground, how: str, words: str) -> None:
    terminal = start(ground)
    before = terminal.children
    (neighbor,) = ground.enqueue(hold.call("gate"))
    ground.started(neighbor)
    (job,) = ground.enqueue(cells.crash.call(how))
    assert ground.outcome(job) == "failed"
    assert words in cause(ground, job)
    assert len(ground.starts(job)) == 3
    assert terminal.children == before
    ground.open("gate")
    ground.all_done()
    assert len(ground.starts(neighbor)) == 1
    assert terminal.stop() == 0
    ground.check()


def test_sys_exit_is_a_failed_attempt_as_anywhere(ground: Ground) -> None:
    terminal = start(ground)
    (job,) = ground.enqueue(cells.leave_politely.call())
    assert cause(ground, job) == "SystemExit in attempt 1, the last"
    assert terminal.stop() == 0


# ── who dies with whom ────────────────────────────────────────────────────────────────────────


def test_what_a_job_has_started_ends_with_it(ground: Ground) -> None:
    terminal = start(ground)
    (job,) = ground.enqueue(cells.leave_a_program.call())
    program = here(ground, job)["program"]
    assert ground.outcome(job) == "succeeded"
    assert wait_gone(program)
    assert terminal.stop() == 0


def die_of_worker(terminal: Terminal) -> None:
    os.kill(terminal.children[0], signal.SIGKILL)


def die_of_supervisor(terminal: Terminal) -> None:
    terminal.signal(signal.SIGKILL)


def die_of_all(terminal: Terminal) -> None:
    terminal.signal(signal.SIGKILL, group=True)


@pytest.mark.parametrize("die", [die_of_worker, die_of_supervisor, die_of_all])
def test_a_deaf_cell_and_its_program_die_with_worker_and_supervisor(
    ground: Ground, die: Callable[[Terminal], None]
) -> None:
    terminal = start(ground, grace=0.2)
    (job,) = ground.enqueue(cells.hold_it_for_ages.call())
    told = here(ground, job)
    die(terminal)
    assert wait_gone(told["pid"])
    assert wait_gone(told["program"])
    assert wait_gone(told["nursery"])


def test_a_cell_and_its_program_die_with_the_nursery_and_another_worker_takes_over(ground: Ground) -> None:
    terminal = start(ground, test_patient=1)
    (neighbor,) = ground.enqueue(hold.call("neighbor"))
    ground.started(neighbor)
    (deaf,) = ground.enqueue(cells.hold_it_for_ages.call())
    told = here(ground, deaf)
    (worker,) = terminal.children
    os.kill(told["nursery"], signal.SIGKILL)
    assert wait_gone(told["pid"])
    assert wait_gone(told["program"])
    ground.open("neighbor")
    assert ground.outcome(neighbor) == "succeeded"
    assert len(ground.starts(neighbor)) == 1
    until(lambda: terminal.children not in ([worker], []), "another worker")
    (job,) = ground.enqueue(note.call(1))
    assert ground.outcome(job) == "succeeded"
    until(lambda: len(ground.lines("here", job=deaf)) == 2, "the second start of what was killed")


# ── stopping ──────────────────────────────────────────────────────────────────────────────────


def test_a_stop_of_the_whole_service_leaves_cells_their_grace(ground: Ground) -> None:
    """As systemd does it: TERM to every process at once. Ctrl-C does not reach cells at all."""
    terminal = start(ground)
    (job,) = ground.enqueue(cells.stay.call("gate"))
    told = here(ground, job)
    for pid in (told["pid"], told["nursery"], *terminal.children, terminal.pid):
        os.kill(pid, signal.SIGTERM)
    until(lambda: terminal.said("notice"), "the supervisor's word")
    pause(0.1)
    ground.open("gate")
    assert terminal.ended() == 0
    assert ground.outcome(job) == "succeeded"
    ground.check(calm=True)


def test_what_outlasts_the_grace_is_killed_and_offered_again(ground: Ground) -> None:
    terminal = start(ground, grace=0.2)
    (job,) = ground.enqueue(cells.hold_it_for_ages.call())
    told = here(ground, job)
    assert terminal.stop() == 1
    assert wait_gone(told["program"])
    assert ground.row(job, "state", "deaths") == ("available", 0)


@pytest.mark.parametrize("task", ["ask", "astay", "hold_it_for_ages"])
def test_a_cancelled_job_hears_of_it_or_is_killed(ground: Ground, task: str) -> None:
    terminal = start(ground, beat=0.2)
    (job,) = ground.enqueue(getattr(cells, task).call())
    told = here(ground, job)
    assert ground.app.handle(job).cancel()
    assert ground.outcome(job) == "cancelled"
    assert cause(ground, job) == "cancelled while it ran"
    assert bool(ground.lines("heard", job=job)) == (task == "ask")
    assert wait_gone(told["pid"])
    assert terminal.stop() == 0


# ── once ──────────────────────────────────────────────────────────────────────────────────────


def test_transactional_cells_killed_at_random_write_exactly_once(ground: Ground) -> None:
    terminal = start(ground, processes=2, test_patient=1)
    for _ in range(12):
        ground.enqueue(cells.effect_apart.call(0.02), cells.aeffect_apart.call(), effect.call(1))
        pause(random.uniform(0.0, 0.05))
        for worker in terminal.children:
            for nursery in children_of(worker):
                for cell in children_of(nursery):
                    if random.random() < 0.3:
                        os.kill(cell, signal.SIGKILL)
        if random.random() < 0.2:
            os.kill(random.choice(terminal.children), signal.SIGKILL)
    ground.all_done()
    terminal.stop()
    bad = ground.database.rows("SELECT cause FROM duly_executions WHERE outcome <> 'succeeded'")
    assert all("3 times" in cause for (cause,) in bad)
    ground.check()


def test_a_death_after_the_commit_is_no_death(ground: Ground) -> None:
    terminal = start(ground)
    (job,) = ground.enqueue(cells.crash_after_commit.call())
    assert ground.outcome(job) == "succeeded"
    (other,) = ground.enqueue(note.call(1))
    assert ground.outcome(other) == "succeeded"
    assert terminal.stop() == 0
    assert len(ground.starts(job)) == 1
    assert terminal.said("job_ended", outcome="failed") == terminal.said("job_died") == []
    ground.check(calm=True)


def test_a_cell_that_writes_for_long_does_not_cost_its_worker(on_sqlite: Ground) -> None:
    """SQLite has one writer: the cell, while its worker and another one wait for it, longer than the busy time-out."""
    terminal = start(on_sqlite, processes=2, lease=1.5, beat=0.3)
    before = terminal.children
    (job,) = on_sqlite.enqueue(cells.effect_until_the_gate.call("gate"))
    here(on_sqlite, job)
    until(lambda: on_sqlite.lines("locked"), "somebody who waited in vain")
    on_sqlite.open("gate")
    assert on_sqlite.outcome(job) == "succeeded"
    on_sqlite.enqueue(*(effect.call(n) for n in range(5)))
    on_sqlite.all_done()
    assert terminal.children == before
    assert terminal.stop() == 0
    on_sqlite.check(calm=True)


def test_transactional_cells_get_their_turn_beside_a_busy_pump(on_sqlite: Ground) -> None:
    terminal = start(on_sqlite)
    on_sqlite.enqueue(
        *(call for n in range(15) for call in (note.call(n), effect.call(n), cells.effect_apart.call()))
    )
    on_sqlite.all_done()
    assert terminal.stop() == 0
    on_sqlite.check(calm=True)
