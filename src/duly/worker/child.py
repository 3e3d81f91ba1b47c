"""A worker process: one pump, and a pipe to its supervisor."""

from __future__ import annotations

import functools
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from duly.errors import DulyError
from duly.model.events import Notice
from duly.worker.pump import Pump
from duly.worker.queues import Selection

if TYPE_CHECKING:
    from duly.worker.home import Home

EXIT_CUT_OFF = 3
EXIT_FAILED = 4
DRAIN = "d"
COUNTED_ABOVE = (signal.SIGTERM, signal.SIGINT)
PULSES_A_LEASE = 15


def be_child(
    home: Home,
    pipe: socket.socket,
    queues: Selection,
    *,
    threads: int,
    coroutines: int,
    until_empty: bool,
) -> NoReturn:
    """Right after the fork: become a worker, and never return.

    Signals are the supervisor's to count: a terminal's Ctrl-C reaches all processes, and each would
    else draw its own conclusion.
    """
    for number in COUNTED_ABOVE:
        signal.signal(number, _leave_it)  # a handler, since what is ignored stays so in the programs we start
    os.register_at_fork(after_in_child=_obey_again)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # tasks may start processes of their own
    # What was imported before the fork stays: looking through it again and again for garbage would cost
    # a third of the time that many short jobs take, and unshare its memory.
    gc.freeze()
    code = EXIT_FAILED
    try:
        pump = Pump(home, queues, threads=threads, coroutines=coroutines, until_empty=until_empty)
        _start(_listen, pipe, pump, home.settings.grace)
        _start(_pulse, pipe, home.settings.lease / PULSES_A_LEASE)
        clean = pump.run(functools.partial(_announce, pipe))
        code = 0 if clean else EXIT_CUT_OFF
    except DulyError as error:
        home.emitter.emit(Notice(f"worker process {os.getpid()} cannot work: {error}", "error"))
    except BaseException:
        logging.getLogger("duly").exception("worker process %d failed", os.getpid())
    finally:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        # Not sys.exit: threads that hang, and the parent's exit handlers, must not keep us.
        os._exit(code)


def _left_to_the_supervisor(number: int, frame: FrameType | None) -> None:
    """Not ``SIG_IGN``: programs that tasks start would inherit that, and could not be terminated."""


def _hear_signals() -> None:
    """In a process that a task forks (``multiprocessing`` does): it can be terminated, as anywhere."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def _leave_it(number: int, frame: FrameType | None) -> None:
    """The supervisor has heard it too."""


def _obey_again() -> None:
    """Processes that tasks fork are theirs, and end when they are told to."""
    for number in COUNTED_ABOVE:
        signal.signal(number, signal.SIG_DFL)


def _start(function: object, *arguments: object) -> None:
    threading.Thread(target=function, args=arguments, daemon=True).start()  # type: ignore[arg-type]


def _listen(pipe: socket.socket, pump: Pump, grace: float) -> None:
    """What the supervisor says; end of file says that it is gone, and then we leave too."""
    words = b""
    while said := _heard(pipe):
        *lines, words = (words + said).split(b"\n")
        for line in lines:
            if line.startswith(DRAIN.encode()):
                pump.drain(float(line[1:]))
    pump.drain(grace)


def _heard(pipe: socket.socket) -> bytes:
    try:
        return pipe.recv(4096)
    except OSError:
        return b""


def _pulse(pipe: socket.socket, every: float) -> None:
    """Show that this process runs, whatever its pump waits for."""
    while _say(pipe, ".\n"):
        time.sleep(every)


def _announce(pipe: socket.socket, worker: str) -> None:
    _say(pipe, f"w{worker}\n")


def _say(pipe: socket.socket, words: str) -> bool:
    try:
        pipe.sendall(words.encode())
    except OSError:
        return False
    return True
