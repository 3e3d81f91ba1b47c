"""What an attempt does outside its databases and files, where it cannot be taken back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Effect:
    """One mail, request, message to a socket, program, or enqueued job."""

    kind: str
    """``mail``, ``http``, ``socket``, ``process``, or ``job``: a job that the task has enqueued, and that stands."""
    target: str
    """To whom: ``POST http://host:port/path``, the recipients, ``host:port``, the program, the task's name."""
    payload: str | None
    """A digest of what was sent, but for what changes with each sending (dates, boundaries). None: it is not seen."""
    keyed: bool
    """Whether the job's idempotency key is in it, by which a receiver may know a repetition."""
    where: str
    """The line of the task's own code, as ``file:line``; empty for jobs."""
