"""A worker process: one pump, and a pipe to its supervisor."""

from __future__ import annotations

import faulthandler
import functools
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from duly.errors import DulyError
from duly.model.events import Notice
from duly.worker.assignment import Assignment
from duly.worker.blackbox import BlackBox
from duly.worker.isolation import Isolation
from duly.worker.memory import resident
from duly.worker.pump import Pump
from duly.worker.signals import COUNTED_ABOVE, leave_it, obeys
from duly.worker.title import set_title

if TYPE_CHECKING:
    from duly.worker.home import Home

EXIT_CUT_OFF = 3
"""Jobs still ran when the grace was over."""
EXIT_FAILED = 4
"""It cannot work at all: the settings, or a fault of ours."""
EXIT_DEAF = 5
"""A job does not hear that it is to stop, and takes up a thread: another process starts afresh."""
EXIT_RECYCLE = 6
"""It has run as many jobs, or grown as large, as it may."""
EXIT_NO_NURSERY = 7
"""Its nursery has died, so it can run no isolated jobs."""

DRAIN = "d"
SHOW_STACKS = signal.SIGUSR1
AFTER_GRACE = 2.0
"""Seconds after the grace in which a process may leave by itself."""

LONGEST_PULSE = 1.0
PULSES_A_LEASE = 15
STDERR = 2


def be_child(home: Home, pipe: socket.socket, assignment: Assignment, blackbox: BlackBox) -> NoReturn:
    """Right after the fork: become a worker, and never return."""
    _leave_signals_to_the_supervisor()
    set_title(f"worker {assignment}")
    code = EXIT_FAILED
    isolation: Isolation | None = None
    try:
        # Here, while this process has one thread and no connection, is the place to fork a helper.
        if any(task.isolation for task in home.tasks):
            isolation = Isolation.start(home, pipe)
        pump = Pump(
            home,
            assignment.queues,
            threads=assignment.threads,
            coroutines=assignment.coroutines,
            until_empty=assignment.until_empty,
            suspects=assignment.suspects,
            most=assignment.max_jobs,
            blackbox=blackbox,
            isolation=isolation,
            on_suspects=functools.partial(_say, pipe, "s\n"),
        )
        if isolation is not None:
            isolation.on_loss = functools.partial(pump.drain, assignment.grace)
        scales = Scales(home, pump, assignment.max_memory)
        _start(_listen, pipe, pump, assignment.grace)
        _start(_pulse, pipe, scales, min(home.settings.lease / PULSES_A_LEASE, LONGEST_PULSE))
        clean = pump.run(functools.partial(_announce, pipe))
        code = _code(home, pump, scales, clean=clean)
        if isolation is not None and isolation.lost:
            code = EXIT_NO_NURSERY
    except DulyError as error:
        home.emitter.emit(Notice(f"worker process {os.getpid()} cannot work: {error}", "error"))
    except BaseException:
        logging.getLogger("duly").exception("worker process %d failed", os.getpid())
    finally:
        if isolation is not None:
            isolation.close()
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        _say(pipe, f"x{code}\n")  # a task may call os._exit too: this code is ours
        # Not sys.exit: threads that hang, and the parent's exit handlers, must not keep us.
        os._exit(code)


def _code(home: Home, pump: Pump, scales: Scales, *, clean: bool) -> int:
    if (
        pump.stuck
    ):  # what it holds ends with the process alone; it has not been recorded, so let it count as a death
        os.kill(os.getpid(), signal.SIGKILL)
    if pump.deaf:
        return EXIT_DEAF
    if not clean:
        return EXIT_CUT_OFF
    if pump.spent:
        ran = f"worker process {os.getpid()} leaves after {pump.tally.total()} jobs; another takes its place"
        home.emitter.emit(Notice(ran, "info"))
    return EXIT_RECYCLE if pump.spent or scales.tipped else 0


# ── signals ───────────────────────────────────────────────────────────────────────────────────


def _leave_signals_to_the_supervisor() -> None:
    """They are its to count: a terminal's Ctrl-C reaches all processes, and each would else draw its own conclusion."""
    for number in COUNTED_ABOVE:
        if obeys(number):
            signal.signal(number, leave_it)  # what is ignored stays so in the programs we start
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # tasks may start processes of their own
    # Stacks are of files, lines and functions alone: no arguments, no values.
    faulthandler.enable(STDERR)
    faulthandler.register(SHOW_STACKS, STDERR)
    os.register_at_fork(after_in_child=_obey_again)


def _obey_again() -> None:
    """Processes that tasks fork are theirs, and end when they are told to."""
    for number in COUNTED_ABOVE:
        if obeys(number):
            signal.signal(number, signal.SIG_DFL)
    faulthandler.unregister(SHOW_STACKS)
    faulthandler.cancel_dump_traceback_later()


# ── the pipe ──────────────────────────────────────────────────────────────────────────────────


def _start(function: object, *arguments: object) -> None:
    threading.Thread(target=function, args=arguments, daemon=True).start()  # type: ignore[arg-type]


def _listen(pipe: socket.socket, pump: Pump, grace: float) -> None:
    """What the supervisor says; end of file says that it is gone, and then we leave too.

    Nobody is there any more to kill us when the grace is over, so that is arranged beforehand, with a timer
    that needs no cooperation from whatever runs here.
    """
    words, told = b"", False
    while said := _heard(pipe):
        *lines, words = (words + said).split(b"\n")
        for line in lines:
            if line.startswith(DRAIN.encode()):
                pump.drain(float(line[1:]))
                told = True
    faulthandler.dump_traceback_later(grace + AFTER_GRACE, exit=True, file=STDERR)
    if not told:
        pump.drain(grace)


def _heard(pipe: socket.socket) -> bytes:
    try:
        return pipe.recv(4096)
    except OSError:
        return b""


def _pulse(pipe: socket.socket, scales: Scales, every: float) -> None:
    """Show that this process runs, whatever its pump waits for; and step on the scales."""
    while _say(pipe, ".\n"):
        scales.weigh()
        time.sleep(every)


def _announce(pipe: socket.socket, worker: str) -> None:
    _say(pipe, f"w{worker}\n")


def _say(pipe: socket.socket, words: str) -> bool:
    try:
        pipe.sendall(words.encode())
    except OSError:
        return False
    return True


class Scales:
    """Weighs this process, and lets it drain when it has grown too large, without cutting any job off."""

    def __init__(self, home: Home, pump: Pump, most: int) -> None:
        self._home = home
        self._pump = pump
        self._most = most
        self.tipped = False

    def weigh(self) -> None:
        """Look at the memory in use."""
        if self.tipped or not self._most or (now := resident()) <= self._most:
            return
        self.tipped = True
        self._home.emitter.emit(
            Notice(
                f"worker process {os.getpid()} has {now:.0f} MiB in memory, more than {self._most}: it leaves "
                "when its jobs have ended, and another takes its place",
                "info",
            )
        )
        self._pump.drain(math.inf)
