"""What it means for a job that nobody can say how its attempt ended. Decided here, written by others.

A *death* is the job's own: its process died by itself while the job ran. A *rescue* is nobody's fault. A job
that was marked as started (an unrepeatable one) may have had its effect, so it is never offered again, whoever
gives it back, unless its task vouches for it; one that somebody cancels ends so.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import Row

from duly.model.report import Ended, PutBack, Released, Report
from duly.model.states import Outcome

LAST_DEATH = 3
"""The death of its own with which a job ends as failed."""

KILLED_BY = "killed by "


def after_death(row: Row[Any], cause: str) -> Ended | None:
    """How the job of *row* ends by this death of its own; None: it goes on."""
    deaths = row.deaths + 1
    if deaths >= LAST_DEATH:
        times = f"it killed its worker {deaths} times; last: {cause.removeprefix(KILLED_BY)}"
        return _ended(row, _bad_end(row), times, counted=True)
    if row.started_at is not None:
        return _ended(row, Outcome.UNCERTAIN, f"its worker died while it ran: {cause}", counted=True)
    if row.cancelling:
        return _ended(
            row, Outcome.CANCELLED, f"cancelled while it ran; its worker died: {cause}", counted=True
        )
    return None


def after_rescue(row: Row[Any], *, last: bool) -> Ended | None:
    """How the job of *row* ends since its worker is gone; None: it is offered again. *last*: it must end now."""
    if last:
        cause = f"its worker was lost {row.rescues + 1} times"
        return _ended(row, _bad_end(row), cause, counted=row.started_at is not None)
    if row.started_at is not None:
        return _ended(row, Outcome.UNCERTAIN, "its worker was lost after it had started", counted=True)
    if row.cancelling:
        return _ended(row, Outcome.CANCELLED, "cancelled; its worker was lost", counted=False)
    return None


def in_doubt(row: Row[Any], report: Report) -> Ended | None:
    """How the job of *row* ends that a worker gives back though it is marked as started; None: it goes as reported.

    Whatever the reason is, an error of Duly's own included: it goes back only where the report vouches for it.
    """
    if row.started_at is None or not isinstance(report, PutBack | Released):
        return None
    if isinstance(report, Released):
        return _ended(row, Outcome.UNCERTAIN, "stopped after it had started", counted=True)
    if report.may_repeat:
        return None
    end = _ended(row, Outcome.UNCERTAIN, f"{report.cause}, after it had started", counted=True)
    return replace(end, error=report.error)


def _bad_end(row: Row[Any]) -> Outcome:
    return Outcome.FAILED if row.started_at is None else Outcome.UNCERTAIN


def _ended(row: Row[Any], outcome: Outcome, cause: str, *, counted: bool) -> Ended:
    return Ended(row.id, row.claim, outcome, cause, counted, row.started_at)
