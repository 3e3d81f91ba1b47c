"""Signals as something to wait for: each arrives as a byte in a pipe."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Self

COUNTED_ABOVE = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""What tells a supervisor to stop; its children leave it to it, since a terminal sends these to all of them."""


def obeys(number: signal.Signals) -> bool:
    """Whether the signal counts here: under nohup the end of the terminal is ignored, and stays so."""
    return signal.getsignal(number) is not signal.SIG_IGN


class SignalPipe:
    """Within ``with``: the given signals do nothing but arrive here. For the main thread."""

    def __init__(self, *numbers: signal.Signals) -> None:
        self._numbers = numbers

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe()
        for end in (self._read, self._write):
            os.set_blocking(end, False)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _arrive) for number in self._numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._read)
        os.close(self._write)

    def fileno(self) -> int:
        """What a selector waits on."""
        return self._read

    def arrived(self) -> list[int]:
        """The signals that came since the last time, in their order."""
        try:
            return list(os.read(self._read, 4096))
        except BlockingIOError:
            return []

    def forget(self) -> None:
        """In a forked child: give up the pipe; the child's own dispositions follow."""
        signal.set_wakeup_fd(-1)
        os.close(self._read)
        os.close(self._write)


def _arrive(number: int, frame: FrameType | None) -> None:
    """The wake-up pipe has the news."""


def leave_it(number: int, frame: FrameType | None) -> None:
    """A handler that does nothing: somebody else acts on it. Programs that we start inherit it as the default."""


def be_deaf() -> None:
    """Nothing is left but to leave: who asks for it once more shall not see how an interpreter is interrupted."""
    for number in COUNTED_ABOVE:
        if obeys(number):
            signal.signal(number, leave_it)
