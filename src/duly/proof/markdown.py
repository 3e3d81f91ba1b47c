"""The audit as documentation: one section for each task, fit to be kept beside the code.

It changes only when a task, a review or a proof does, so that a team can commit it and compare.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from duly.proof import words
from duly.proof.audit import Entry, Proof, Report

Near = Callable[[str], str]
"""A place, ``file:line``, as the reader wants it."""

NOTHING = "–"
_EFFECTS: dict[str | None, str] = {
    "transactional": "transactional: exactly once, its writes commit with its outcome",
    "idempotent": "idempotent: at least once, with one key for all attempts",
    "unrepeatable": "unrepeatable: at most once, and uncertain where it was cut off",
    None: "**not stated**: at least once",
}
_HEADING = re.compile(r"^(#+ )", re.MULTILINE)


def markdown(report: Report, near: Near) -> str:
    """The whole document."""
    parts = ["# Tasks", _counted(report), _overview(report.entries)]
    for entry in report.entries:
        parts += _section(entry, report, near)
    return "\n\n".join(parts) + "\n"


def proof_said(proof: Proof | None) -> str:
    """What the prover said last: ``proved``, ``diverges, stale``."""
    if proof is None:
        return ""
    return f"{proof.verdict}, stale" if proof.stale else proof.verdict


def _counted(report: Report) -> str:
    tasks, gaps, reviewed = len(report.entries), report.gaps, report.reviewed
    return (
        f"{tasks} task{_s(tasks)}, {gaps} gap{_s(gaps)}, {reviewed} reviewed finding{_s(reviewed)}. "
        "Written by `duly audit --markdown`."
    )


def _overview(entries: Iterable[Entry]) -> str:
    rows = [
        [
            f"[{entry.task}](#{_anchor(entry.task)})",
            entry.effects or "**not stated**",
            ", ".join(filter(None, ["key" if entry.key else None, *entry.guards])),
            proof_said(entry.proof),
            str(len(entry.gaps) or ""),
        ]
        for entry in entries
    ]
    return _table(["task", "effects", "key and guards", "proof", "gaps"], rows)


def _section(entry: Entry, report: Report, near: Near) -> Iterator[str]:
    yield f"## {entry.task}"
    yield _HEADING.sub(r"\\\1", entry.docstring) if entry.docstring else "**No docstring.**"
    yield _table(["", ""], [[name, said] for name, said in _facts(entry, report, near)])
    if entry.gaps:
        yield "Gaps:\n\n" + "\n".join(
            f"- `{near(gap.where)}` {_prose(gap.what)}. Remedy: {_prose(gap.remedy)}." for gap in entry.gaps
        )
    if entry.reviewed:
        yield "Reviewed:\n\n" + "\n".join(
            f"- `{near(found.where)}` {_prose(found.what)}. It is right here: {_prose(found.reviewed or '')}."
            for found in entry.reviewed
        )


def _facts(entry: Entry, report: Report, near: Near) -> Iterator[tuple[str, str]]:
    options = entry.options
    yield "Declared in", f"`{near(entry.where).rpartition(':')[0]}`, {entry.kind}"
    yield "Effects", _EFFECTS[entry.effects]
    yield "Idempotency key", entry.key or ""
    yield "Guards", ", ".join(entry.guards)
    yield "Queue", f"`{options.queue}`, priority {options.priority}"
    if options.expires is not None:
        yield "Expires", words.expiry(options.expires)
    if options.retry is not None:
        yield "Retries", f"at most {options.max_attempts} attempts, {words.waits(options.retry)}"
    if entry.retry_on or entry.give_up_on:
        yield "Retried on", _code(entry.retry_on)
        yield "Gives up on", _code(entry.give_up_on)
    if options.max_run_time is not None:
        yield "Run-time limit", words.span(options.max_run_time) + (", isolated" if entry.isolated else "")
    yield "Arguments", _code(f"{name}: {kind}" for name, kind in entry.arguments.items())
    yield "Given by Duly", _code(f"{name}: {kind}" for name, kind in entry.given.items())
    yield "Sensitivity", entry.sensitivity
    yield "Policy", entry.policy
    yield (
        "Proof",
        _proof(entry.proof) if report.unrecorded is None else "unknown: the database did not answer",
    )


def _proof(proof: Proof | None) -> str:
    if proof is None:
        return ""
    return f"{proof_said(proof)}: {proof.points} crash point{_s(proof.points)}, {proof.at:%Y-%m-%d}"


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _prose(text: str) -> str:
    """Code in a sentence: its stars and underscores are not for Markdown to read."""
    return re.sub(r"([*_<\[`])", r"\\\1", text)


def _cell(text: str) -> str:
    return text.replace("|", "\\|") or NOTHING


def _code(texts: Iterable[str]) -> str:
    return ", ".join(f"`{text}`" for text in texts)


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _s(number: int) -> str:
    return "" if number == 1 else "s"
