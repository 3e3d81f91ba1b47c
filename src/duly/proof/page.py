"""The verdict as a page of text: where, what differs, and what would mend it."""

from __future__ import annotations

import linecache
import os
import textwrap
from collections.abc import Iterator

from duly.proof.points import Moment, Point
from duly.proof.verdict import LIMITS, Divergence, Trial, Verdict, Word

_WIDTH = 100
_AROUND = 2
_MOST = 12


def page(verdict: Verdict) -> str:
    """All that there is to say, for a terminal or the message of an assertion."""
    return "\n".join(_lines(verdict))


def _lines(verdict: Verdict) -> Iterator[str]:
    arguments = ", ".join(f"{name}={value!r}" for name, value in verdict.arguments.items())
    yield f"{verdict.word.upper()}  {verdict.task}({arguments})"
    yield ""
    match verdict.word:
        case Word.PROVED:
            yield from _proved(verdict)
        case Word.DIVERGES:
            yield from _diverges(verdict)
        case Word.CANNOT_TELL:
            yield from _cannot_tell(verdict)
    yield ""
    yield "What this does not say"
    for limit in LIMITS:
        yield from _item(limit)


# ── the three ─────────────────────────────────────────────────────────────────────────────────


def _proved(verdict: Verdict) -> Iterator[str]:
    points = len(verdict.points)
    yield from _wrapped(
        f"Crashed before and after {f'each of {points} points' if points > 1 else 'its only point'}, frozen, and "
        f"delivered twice at once: {_many(verdict.runs, 'run')} in {verdict.seconds:.1f} s, and each left the same "
        f"rows, files and effects as the clean run.{_as_promised(verdict)}"
    )
    if verdict.relies_on:
        yield ""
        yield "It relies on these to know a repetition by its idempotency key"
        for receiver in verdict.relies_on:
            yield from _item(receiver)
    yield ""
    yield from _points(verdict)


def _as_promised(verdict: Verdict) -> str:
    if verdict.effects == "unrepeatable":
        return " Nothing was done twice; what a killed attempt left undone waits for a person, as uncertain."
    return ""


def _diverges(verdict: Verdict) -> Iterator[str]:
    first = verdict.divergences[0]
    yield from _divergence(first, len(verdict.points))
    others = verdict.divergences[1:]
    if others:
        yield ""
        yield f"So did {len(others)} other{'s' if others[1:] else ''} of {_many(verdict.runs, 'run')}:"
        for found in others[:_MOST]:
            where = f"{found.point.kind} at {_place(found.point.where)}" if found.point else ""
            places = ", ".join(dict.fromkeys(_place(one.where) for one in found.differences))
            yield f"  {found.how:<24}  {where:<36}  → {places}"
        if len(others) > _MOST:
            yield f"  … and {len(others) - _MOST} more"


def _cannot_tell(verdict: Verdict) -> Iterator[str]:
    for reason in verdict.reasons:
        yield from _item(reason)
    if verdict.remedies:
        yield ""
        yield "Declare free what may differ:"
        yield "  " + " ".join(f"--free {column}" for column in verdict.remedies)


# ── one divergence ────────────────────────────────────────────────────────────────────────────


def _divergence(found: Divergence, points: int) -> Iterator[str]:
    yield from _wrapped(_happened(found, points))
    if found.point is not None:
        yield from _source(found.point)
    yield ""
    yield f"{_then(found)} Beside the clean run:"
    for difference in found.differences:
        yield ""
        yield f"  {_place(difference.where)}: {_FAULTS[difference.kind, difference.fault.value]}"
        for line in difference.lines:
            yield f"    {line}"
    yield ""
    yield from _wrapped(f"Hint: {found.hint}.")


_FAULTS = {
    ("row", "doubled"): "a row once too often",
    ("row", "more"): "a row too many",
    ("row", "missing"): "a row too few",
    ("row", "changed"): "a row is not the same",
    ("effect", "doubled"): "too often",
    ("effect", "more"): "too often",
    ("effect", "missing"): "not done",
    ("file", "doubled"): "written once too often",
    ("file", "changed"): "not the same",
    ("file", "missing"): "not the same",
    ("outcome", "changed"): "not the same",
}


def _happened(found: Divergence, points: int) -> str:
    if found.point is None:
        return "Two workers were given the job at the same time."
    verb = "The worker was killed (SIGKILL)" if found.trial is Trial.KILLED else "The worker froze (SIGSTOP)"
    when = "before" if found.moment is Moment.BEFORE else "right after"
    return f"{verb} {when} point {found.point.number} of {points}, {_said(found.point)}"


def _then(found: Divergence) -> str:
    ended = f"ended {found.outcome}" if found.outcome else "did not end"
    match found.trial:
        case Trial.KILLED:
            return f"Its job was run again, and {ended}."
        case Trial.FROZEN:
            return f"Its job was given to another, the worker woke up, and the job {ended}."
    return f"The job {ended}."


def _said(point: Point) -> str:
    what = " ".join(point.what.split())
    what = what if len(what) <= 70 else f"{what[:69]}…"
    if point.kind == "returned":
        return "when the task had returned and nothing was recorded yet"
    return f"the {point.kind}{f' {what}' if what.lower() != point.kind else ''}"


def _source(point: Point) -> Iterator[str]:
    """The lines of the task around the point, which is marked."""
    file, _, number = point.where.rpartition(":")
    if not file or not number.isdigit():
        return
    yield f"  {_place(point.where)}"
    here = int(number)
    lines = {
        line: linecache.getline(file, line).rstrip()
        for line in range(max(here - _AROUND, 1), here + _AROUND + 1)
    }
    shown = {line: text for line, text in lines.items() if text or line == here}
    margin = min((len(text) - len(text.lstrip()) for text in shown.values() if text), default=0)
    for line, text in shown.items():
        yield f"  {'→' if line == here else ' '} {line:>4} │ {text[margin:]}".rstrip()


def _points(verdict: Verdict) -> Iterator[str]:
    yield "The points"
    wide = max((len(_place(point.where)) for point in verdict.points), default=0)
    for point in verdict.points:
        yield f"  {point.number:>3}  {_place(point.where):<{wide}}  {_said(point).removeprefix('the ')}"


# ── words ─────────────────────────────────────────────────────────────────────────────────────


def _place(where: str) -> str:
    """A file as seen from here."""
    if not where.startswith(os.sep):
        return where
    near = os.path.relpath(where)
    return where if near.startswith("..") else near


def _item(text: str) -> Iterator[str]:
    yield from textwrap.wrap(
        text, _WIDTH, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False
    )


def _wrapped(text: str) -> Iterator[str]:
    yield from textwrap.wrap(text, _WIDTH, break_on_hyphens=False, break_long_words=False)


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
