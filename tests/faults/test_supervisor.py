"""The supervisor: back-off, recycling, pools, titles, systemd, shared memory, and what a developer's reload does."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.faults.ground import Ground
from tests.faults.tasks import die, grow, hold, look_around, note
from tests.faults.terminal import Terminal, until

LEASE = 1.5


def processes(ground: Ground, jobs: list[str]) -> set[int]:
    """Where they ran."""
    return {ground.started(job)["pid"] for job in jobs}


# ── back-off ──────────────────────────────────────────────────────────────────────────────────


def test_a_slot_that_fails_again_and_again_waits_longer_and_longer_and_others_go_on(ground: Ground) -> None:
    """A worker that dies at its start, of nothing that a job did."""
    terminal = ground.terminal("--pool", "frail:1", "--pool", "default:1", plain=True, test_frail=1)
    until(lambda: len(terminal.said("child_died")) >= 5, "five deaths")
    (job,) = ground.enqueue(note.call(1))
    assert ground.outcome(job) == "succeeded"
    deaths = [line["at"] for line in ground.lines("frail")][:5]
    gaps = [later - sooner for sooner, later in pairwise(deaths)]
    assert gaps[3] > 2 * gaps[1] > gaps[0], "it waits 0, 0.2, 0.4, 0.8 s"
    assert len({line["pid"] for line in ground.lines("start")}) == 1
    assert terminal.said("job_suspected") == []
    assert terminal.stop() in {0, 1}


def test_a_worker_that_cannot_work_at_all_is_tried_again_and_says_why(ground: Ground) -> None:
    terminal = ground.terminal(test_unwilling=1)
    until(lambda: len(terminal.said("child_died", status="it could not work")) >= 2, "two tries")
    assert terminal.said("notice", level="error")[0]["text"].endswith("cannot work: the test says no")
    ground.open("willing")
    (job,) = ground.enqueue(note.call(1))
    assert ground.outcome(job) == "succeeded"
    assert terminal.stop() == 0


# ── recycling ─────────────────────────────────────────────────────────────────────────────────


def test_after_so_many_jobs_a_worker_leaves_and_another_takes_its_place(ground: Ground) -> None:
    terminal = ground.terminal("--max-jobs", "10")
    jobs = ground.enqueue(*(note.call(n) for n in range(35)))
    ground.all_done()
    ran = [ground.started(job)["pid"] for job in jobs]
    assert sorted(ran.count(pid) for pid in set(ran)) == [5, 10, 10, 10]
    assert terminal.said("child_died") == []
    assert len(terminal.said("notice", level="info")) >= 3
    assert terminal.stop() == 0
    ground.check(calm=True)


def test_max_jobs_may_stand_in_the_environment(ground: Ground) -> None:
    ground.terminal(max_jobs=1)
    jobs = ground.enqueue(*(note.call(n) for n in range(3)))
    ground.all_done()
    assert len(processes(ground, jobs)) == 3


def test_a_worker_that_has_grown_too_large_ends_its_jobs_and_is_replaced(ground: Ground) -> None:
    terminal = ground.terminal("--max-memory", "400")
    (long,) = ground.enqueue(hold.call("gate"))
    first = ground.started(long)["pid"]
    (big,) = ground.enqueue(grow.call(400))
    assert ground.outcome(big) == "succeeded"
    until(lambda: "more than 400" in terminal.words(), "the word that it is too large")
    assert ground.row(long, "state") == ("running",), "nothing is cut off"
    ground.open("gate")
    assert ground.outcome(long) == "succeeded"
    (after,) = ground.enqueue(note.call(1))
    assert ground.started(after)["pid"] != first
    assert terminal.said("child_died") == []
    assert terminal.stop() == 0
    ground.check(calm=True)


def test_less_memory_than_a_worker_needs_is_refused(on_sqlite: Ground) -> None:
    terminal = on_sqlite.terminal("--max-memory", "5")
    assert terminal.ended() == 2
    assert terminal.words().splitlines()[-1].startswith("duly: max_memory: a worker has ")


# ── pools ─────────────────────────────────────────────────────────────────────────────────────


def test_pools_serve_their_queues_with_so_many_processes(ground: Ground) -> None:
    terminal = ground.terminal("--pool", "mail,reports:2", "--pool", "*:1", plain=True, threads=1)
    terminal.workers(3)
    mail = ground.enqueue(*(hold.using(queue="mail").call("gate") for _ in range(3)))
    assert len(processes(ground, mail)) == 3, "two of the pool, and the one that serves all"
    (other,) = ground.enqueue(note.call(1))
    ground.open("gate")
    assert ground.outcome(other) == "succeeded"
    queues = ground.database.rows("SELECT queues FROM duly_workers ORDER BY queues")
    assert queues == [("*",), ("mail,reports",), ("mail,reports",)]
    assert terminal.stop() == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--pool", "mail:2", "--queues", "mail"], "leave --queues and --processes out"),
        (["--pool", "mail:2", "--processes", "2"], "leave --queues and --processes out"),
        (["--pool", "mail:many"], "after the colon stands the number of processes"),
        (["--pool", "mail:0"], "a whole number of processes from 1 to 256, not 0"),
        (["--pool", ":2"], "which queues?"),
        (["--pool", "post:2"], "no task uses a queue 'post'"),
        (["--pool", "m*l:2"], "a pattern may end in '*'"),
    ],
)
def test_a_pool_that_cannot_be_is_one_line_and_exit_code_2(
    on_sqlite: Ground, options: list[str], words: str
) -> None:
    terminal = on_sqlite.terminal(*options, plain=True)
    assert terminal.ended() == 2
    (line,) = terminal.words().splitlines()
    assert line.startswith("duly: ")
    assert words in line


# ── what is shared, and what is not ───────────────────────────────────────────────────────────


def test_children_share_what_was_imported_before_the_fork(ground: Ground) -> None:
    """The application is imported once, and out of the garbage collector's sight when a child begins."""
    terminal = ground.terminal(processes=2)
    jobs = ground.enqueue(*(look_around.call() for _ in range(4)))
    ground.all_done()
    assert jobs
    seen = ground.lines("around")
    assert {line["imported_by"] for line in seen} == {terminal.pid}
    assert min(line["frozen"] for line in seen) > 100_000
    assert terminal.stop() == 0


def test_no_connection_goes_from_one_process_to_another(ground: Ground) -> None:
    """The supervisor looks for suspects, and for jobs of the dead, between the forks of its children."""
    terminal = ground.terminal(processes=2, lease=LEASE, test_watch_connections=1)
    ground.enqueue(die.call("SIGSEGV"), *(note.call(n) for n in range(20)))
    ground.all_done()
    assert terminal.stop() == 0
    made, used = ground.lines("connected"), ground.lines("used")
    assert {line["pid"] for line in made} > {terminal.pid}
    assert len({line["pid"] for line in used}) >= 4, "the supervisor, two children, one for the suspect"
    assert [line for line in used if line["pid"] != line["made_by"]] == []


# ── systemd ───────────────────────────────────────────────────────────────────────────────────


class Listening:
    """A socket as systemd has one."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.setblocking(False)
        self.heard: list[str] = []

    def says(self, words: str) -> bool:
        try:
            while True:
                self.heard += self._socket.recv(4096).decode().splitlines()
        except BlockingIOError:
            return any(words in line for line in self.heard)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["file", "abstract"])
def listening(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Listening]]:
    address = str(tmp_path / "notify") if request.param == "file" else f"@duly-test-{os.getpid()}"
    made = Listening(address)
    yield address, made
    made.close()


def test_systemd_hears_of_ready_status_and_stopping(
    on_sqlite: Ground, listening: tuple[str, Listening]
) -> None:
    address, systemd = listening
    terminal = on_sqlite.terminal(processes=2, variables={"NOTIFY_SOCKET": address})
    until(lambda: systemd.says("READY=1"), "READY=1")
    until(lambda: systemd.says("STATUS=2 of 2 worker processes"), "the status")
    assert terminal.stop() == 0
    assert systemd.says("STOPPING=1")
    assert not systemd.says("WATCHDOG")


def test_the_watchdog_is_fed_while_the_supervisor_turns_and_no_longer(
    on_sqlite: Ground, tmp_path: Path
) -> None:
    address = str(tmp_path / "notify")
    systemd = Listening(address)
    try:
        variables = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000"}
        terminal = on_sqlite.terminal(variables=variables)
        until(lambda: systemd.says("WATCHDOG=1") and systemd.heard.count("WATCHDOG=1") > 3, "four pings")
        terminal.workers(1)
        terminal.signal(signal.SIGSTOP)
        until(lambda: not grows(systemd), "silence")
        terminal.signal(signal.SIGCONT)
        until(lambda: grows(systemd), "a ping again")
        assert terminal.stop() == 0
    finally:
        systemd.close()


def grows(systemd: Listening) -> bool:
    """Whether something comes within a second."""
    before = len(systemd.heard)
    try:
        until(lambda: systemd.says("nothing") or len(systemd.heard) > before, "a word", patience=1.0)
    except AssertionError:
        return False
    return True


def test_a_watchdog_that_is_meant_for_another_process_is_left_alone(
    on_sqlite: Ground, tmp_path: Path
) -> None:
    address = str(tmp_path / "notify")
    systemd = Listening(address)
    variables = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"}
    terminal = on_sqlite.terminal(variables=variables)
    until(lambda: systemd.says("READY=1"), "READY=1")
    assert terminal.stop() == 0
    assert not systemd.says("WATCHDOG")
    systemd.close()


# ── reload ────────────────────────────────────────────────────────────────────────────────────

APP = """\
import os
from pathlib import Path
from duly import Duly
jobs = Duly()
Path("loaded").write_text("{version}")
@jobs.task
def say() -> None:
    Path("said").write_text("{version}")
"""


@pytest.fixture
def developing(on_sqlite: Ground, tmp_path: Path) -> tuple[Ground, Path, Terminal]:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "bench.py").write_text(APP.format(version=1))
    terminal = on_sqlite.run(
        "tests.faults.app_at:main", str(folder), "work", "--app", "bench:jobs", "--reload"
    )
    return on_sqlite, folder, terminal


def loaded(folder: Path, version: str) -> bool:
    file = folder / "loaded"
    return file.exists() and file.read_text() == version


def test_reload_starts_again_when_a_module_changes(developing: tuple[Ground, Path, Terminal]) -> None:
    ground, folder, terminal = developing
    until(lambda: loaded(folder, "1"), "the first start")
    until(lambda: "role=worker" in terminal.words(), "a worker")
    (folder / "notes.txt").write_text("no module")
    (folder / "bench.py").write_text(APP.format(version=2))
    until(lambda: loaded(folder, "2"), "the second start")
    assert "duly: bench.py changed: starting again" in terminal.words()
    (folder / "bench.py").write_text("this is no Python")
    until(lambda: "SyntaxError" in terminal.words(), "the fault")
    (folder / "bench.py").write_text(APP.format(version=3))
    until(lambda: loaded(folder, "3"), "the third start")
    until(lambda: terminal.words().count("role=worker") >= 3, "a worker")
    assert "notes.txt" not in terminal.words()
    terminal.signal(signal.SIGINT)
    assert terminal.ended() == 0
    assert ground.database.rows("SELECT count(*) FROM duly_workers") == [(0,)]


def test_reload_without_watchfiles_names_what_to_install(on_sqlite: Ground, tmp_path: Path) -> None:
    terminal = on_sqlite.run(
        "tests.faults.app_at:main",
        str(tmp_path),
        "work",
        "--app",
        "bench:jobs",
        "--reload",
        HIDE="watchfiles",
    )
    assert terminal.ended() == 2
    assert terminal.words() == (
        "duly: --reload needs watchfiles, which is not installed here: pip install 'duly[work]'\n"
    )


def test_without_setproctitle_everything_works(on_sqlite: Ground, tmp_path: Path) -> None:
    (tmp_path / "bench.py").write_text(APP.format(version=1))
    terminal = on_sqlite.run(
        "tests.faults.app_at:main", str(tmp_path), "workoff", "--app", "bench:jobs", HIDE="setproctitle"
    )
    assert terminal.ended() == 0
