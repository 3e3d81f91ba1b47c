"""A supervisor's slots: who died of what, and how long a slot stays empty."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator

import pytest

from duly.worker.assignment import Assignment
from duly.worker.blackbox import BlackBox
from duly.worker.queues import Selection
from duly.worker.slot import Child, Slot


@pytest.fixture
def pair() -> Iterator[tuple[Child, socket.socket]]:
    """A child, and its end of the pipe."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    box = BlackBox(1)
    yield Child(pid=0, pipe=ours, blackbox=box, born=0.0, heard=0.0), theirs
    ours.close()
    theirs.close()
    box.close()


def slot() -> Slot:
    return Slot(Assignment(Selection(), threads=1, coroutines=1, grace=1.0))


def test_what_a_child_says_is_heard_whole(pair: tuple[Child, socket.socket]) -> None:
    child, theirs = pair
    for words in (b".\nwhost.1.a\n.", b"\nwho", b"st.1.b\nx6\n"):
        theirs.sendall(words)
        child.hear(5.0)
    assert child.workers == ["host.1.a", "host.1.b"]
    assert (child.leaving, child.heard, child.talks) == (6, 5.0, True)


def test_a_pipe_that_its_child_has_closed_is_read_no_more(pair: tuple[Child, socket.socket]) -> None:
    child, theirs = pair
    theirs.close()
    child.hear(5.0)
    assert (child.talks, child.heard) == (False, 0.0)
    child.tell("d1\n")  # harmless


@pytest.mark.parametrize(
    ("code", "leaving", "killed", "cause"),
    [
        (0, 0, False, None),
        (6, 6, False, None),
        (3, 3, True, None),
        (0, None, False, "exit status 0"),
        (7, None, False, "exit status 7"),
        (7, 3, False, "exit status 7"),
        (-signal.SIGSEGV, None, False, "killed by SIGSEGV"),
        (-signal.SIGSEGV, None, True, "killed by SIGSEGV"),
        (-signal.SIGKILL, None, False, "killed by SIGKILL"),
        (-signal.SIGKILL, None, True, None),
        (-64, None, False, f"killed by {signal.Signals(64).name}"),
        (-50, None, False, "killed by signal 50"),
    ],
)
def test_who_died_by_itself(
    pair: tuple[Child, socket.socket], code: int, leaving: int | None, killed: bool, cause: str | None
) -> None:
    child, _ = pair
    child.leaving, child.killed = leaving, killed
    assert child.cause_of_death(code) == cause


def waits(slot: Slot, pair: tuple[Child, socket.socket], deaths: int, *, lived: float) -> list[float]:
    """How long the slot stays empty after each of so many deaths."""
    found, now = [], 0.0
    for _ in range(deaths):
        child, _ = pair
        child.born = now
        slot.fill(child)
        now += lived
        slot.empty(now, died=True)
        slot.ask_for_another(now)
        assert slot.due is not None
        found.append(slot.due - now)
        now = slot.due
    return found


def test_a_slot_that_dies_quickly_waits_longer_and_longer(pair: tuple[Child, socket.socket]) -> None:
    assert waits(slot(), pair, 11, lived=1.0) == pytest.approx(
        [0, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]
    )


def test_who_has_lived_a_while_or_left_well_is_replaced_at_once(pair: tuple[Child, socket.socket]) -> None:
    tried = slot()
    assert waits(tried, pair, 3, lived=11.0) == [0, 0, 0]
    assert waits(tried, pair, 3, lived=1.0) == pytest.approx([0, 0.2, 0.4])
    tried.fill(pair[0])
    tried.empty(100.0, died=False)
    assert waits(tried, pair, 1, lived=1.0) == [0]


def test_a_slot_that_is_filled_asks_for_nobody(pair: tuple[Child, socket.socket]) -> None:
    tried = slot()
    tried.fill(pair[0])
    tried.ask_for_another(1.0)
    assert tried.due is None
