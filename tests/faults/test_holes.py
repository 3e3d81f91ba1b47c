"""Holes that were once found in the supervisor: a database that is silent, and does not even refuse."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from tests.databases import SERVERS
from tests.faults.ground import LONG, Ground
from tests.faults.tasks import hold
from tests.faults.terminal import Terminal, until
from tests.mysql import Server
from tests.postgresql import Cluster

# Half a minute each on MySQL, whose driver has to wait for each of its time-outs: in the long form only.
pytestmark = pytest.mark.parametrize("private_server", SERVERS if LONG else SERVERS[:1], indirect=True)


@pytest.fixture
def terminal(on_private: Ground) -> Terminal:
    """It has a job that runs."""
    terminal = on_private.terminal(database_url=on_private.database.url, processes=2)
    (job,) = on_private.enqueue(hold.call("gate"))
    on_private.started(job)
    terminal.workers(2)
    return terminal


@contextlib.contextmanager
def silent(cluster: Cluster | Server) -> Iterator[None]:
    """New connections are taken by the kernel, and nobody ever says a word on them."""
    os.kill(cluster.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(cluster.pid, signal.SIGCONT)


@pytest.fixture
def on_hold(private_server: Cluster | Server, terminal: Terminal) -> Iterator[Terminal]:
    with silent(private_server):
        yield terminal
        terminal.end()


def test_a_second_term_stops_at_once_though_the_database_is_silent(on_hold: Terminal) -> None:
    on_hold.signal(signal.SIGTERM)
    until(lambda: "stopping" in on_hold.words(), "the word that it stops")
    on_hold.signal(signal.SIGTERM)
    assert on_hold.ended() == 1
    assert on_hold.children == []


def test_a_supervisor_that_looks_after_a_dead_child_still_hears_term(on_hold: Terminal) -> None:
    os.kill(on_hold.children[0], signal.SIGKILL)
    until(lambda: on_hold.said("child_died"), "the word that it died")

    def told() -> bool:
        with contextlib.suppress(ProcessLookupError):
            on_hold.signal(signal.SIGTERM)
        return not on_hold.running

    until(told, "its end")
    assert on_hold.ended() == 1
    assert on_hold.children == []
