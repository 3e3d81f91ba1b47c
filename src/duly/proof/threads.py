"""Threads that an attempt starts belong to it."""

from __future__ import annotations

import threading
from contextvars import copy_context

from duly.proof.course import Course


def inherit_context(course: Course) -> None:
    """From here on, in this process, for good: a thread started in an attempt runs in a copy of its context."""
    start = threading.Thread.start

    def started(thread: threading.Thread) -> None:
        if course.inside:
            run, context = thread.run, copy_context()
            thread.run = lambda: context.run(run)  # type: ignore[method-assign]
        start(thread)

    threading.Thread.start = started  # type: ignore[method-assign, assignment]
