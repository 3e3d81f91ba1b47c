"""The audit: what every task states, uses and lacks, and whether anybody has looked lately.

1. Each task is described: what it declares, what its code shows (``reading.py``), what the prover said last.
2. Its gaps are named, each with its remedy.
3. That an audit was made is recorded, where the database can be reached.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from duly.envelope.arguments import written
from duly.errors import DatabaseError, SchemaError
from duly.model.options import Options
from duly.proof.finding import Finding
from duly.proof.home import Home
from duly.proof.reading import Reading, read
from duly.proof.source import source_of
from duly.task.task import Task

if TYPE_CHECKING:
    from duly.store.proofs import AuditRun
    from duly.store.proofs import Proof as SavedProof


@dataclass(frozen=True, slots=True)
class Gap:
    """What a task lacks, and what to do about it."""

    kind: str
    """``effects``, ``docstring``, ``proof``, or the rule of a finding."""
    where: str
    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Proof:
    """What the prover said last."""

    verdict: str
    at: datetime
    points: int
    stale: bool
    """Whether the task's source has changed since."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One task."""

    task: str
    where: str
    kind: str
    """``sync`` or ``async``."""
    docstring: str | None
    effects: str | None
    """What it states; None where it states nothing."""
    key: str | None
    """``used``, ``handed on`` with the whole context, or None."""
    guards: tuple[str, ...]
    options: Options
    """What holds for its jobs where a call says nothing else."""
    retry_on: tuple[str, ...]
    give_up_on: tuple[str, ...]
    isolated: bool
    arguments: dict[str, str]
    """Names and types."""
    given: dict[str, str]
    """The same of what Duly gives."""
    sensitivity: str
    """``sealed`` where there are keys, else ``plain``."""
    policy: str
    """Who may enqueue it."""
    proof: Proof | None
    findings: tuple[Finding, ...]
    gaps: tuple[Gap, ...]

    @property
    def reviewed(self) -> tuple[Finding, ...]:
        """What was found, and is right all the same, as its authors say."""
        return tuple(finding for finding in self.findings if finding.reviewed)


@dataclass(frozen=True, slots=True)
class Report:
    """An audit of all tasks of an app, by name."""

    entries: tuple[Entry, ...]
    previous: AuditRun | None
    """The audit before this one."""
    since: timedelta | None
    """How long ago that was."""
    overdue: str | None
    """That it was long ago, in a sentence."""
    unrecorded: str | None
    """Why this one was not recorded, and no proofs are known; None where it was."""

    @property
    def gaps(self) -> int:
        """How many there are."""
        return sum(len(entry.gaps) for entry in self.entries)

    @property
    def reviewed(self) -> int:
        """How many findings were reviewed."""
        return sum(len(entry.reviewed) for entry in self.entries)


def audit(home: Home, *, actor: str, proofs: bool = False) -> Report:
    """Look at all tasks, and record that *actor* did. With *proofs* a task without a valid proof has a gap."""
    try:
        with home.store.reading() as connection:
            saved, previous = home.store.proofs.last(connection), home.store.proofs.last_audit(connection)
        entries = _entries(home, saved, proofs=proofs)
        gaps = sum(len(entry.gaps) for entry in entries)
        with home.store.writing() as connection:
            home.store.proofs.note_audit(connection, actor=actor, tasks=len(entries), gaps=gaps)
        return Report(entries, previous, _since(home, previous), _overdue(home, previous), None)
    except (DatabaseError, SchemaError) as why:
        return Report(_entries(home, {}, proofs=proofs), None, None, None, str(why))


def overdue(home: Home) -> str | None:
    """A sentence where the last audit was longer ago than ``audit_every``; None where none was ever made."""
    with home.store.reading() as connection:
        return _overdue(home, home.store.proofs.last_audit(connection))


def _overdue(home: Home, last: AuditRun | None) -> str | None:
    since, every = _since(home, last), home.settings.audit_every
    if since is None or since <= timedelta(days=every):
        return None
    return (
        f"the tasks were last audited {since.days} days ago, and audit_every is {every:g}: run `duly audit`"
    )


def _since(home: Home, last: AuditRun | None) -> timedelta | None:
    return None if last is None else home.store.clock.now() - last.at


# ── one task ──────────────────────────────────────────────────────────────────────────────────


def _entries(home: Home, saved: dict[str, SavedProof], *, proofs: bool) -> tuple[Entry, ...]:
    tasks = sorted(home.tasks, key=lambda task: task.name)
    return tuple(_entry(home, task, saved.get(task.name), proofs=proofs) for task in tasks)


def _entry(home: Home, task: Task[..., Any], saved: SavedProof | None, *, proofs: bool) -> Entry:
    options, reading, proof = home.options_of(task, None), read(task), _proof(task, saved)
    unique = ("unique",) if options.unique else ()
    return Entry(
        task=task.name,
        where=task.where,
        kind="async" if task.signature.is_async else "sync",
        docstring=_docstring(task),
        effects=task.effects,
        key=reading.key,
        guards=reading.guards + unique,
        options=options,
        retry_on=tuple(kind.__qualname__ for kind in task.faults.retry_on),
        give_up_on=tuple(kind.__qualname__ for kind in task.faults.give_up_on),
        isolated=task.isolation is not None,
        arguments=_arguments(task),
        given={name: kind.value for name, kind in task.signature.injected.items()},
        sensitivity="plain" if home.sealer.key_id is None else "sealed",
        policy="anyone",
        proof=proof,
        findings=reading.findings,
        gaps=tuple(_gaps(task, reading, proof, proofs=proofs)),
    )


def _docstring(task: Task[..., Any]) -> str | None:
    said = task.__doc__
    return inspect.cleandoc(said) if said and said.strip() else None


def _arguments(task: Task[..., Any]) -> dict[str, str]:
    """Names and types; of a job class its fields."""
    if task.job_class is None:
        return task.signature.arguments.described
    return {
        name: written(field.annotation, required=field.is_required())
        for name, field in task.job_class.model_fields.items()
    }


def _proof(task: Task[..., Any], saved: SavedProof | None) -> Proof | None:
    if saved is None:
        return None
    return Proof(saved.verdict, saved.at, saved.points, stale=saved.source != source_of(task))


# ── what it lacks ─────────────────────────────────────────────────────────────────────────────


def _gaps(task: Task[..., Any], reading: Reading, proof: Proof | None, *, proofs: bool) -> Iterator[Gap]:
    if task.effects is None:
        yield Gap(
            "effects",
            task.where,
            "does not state its effects",
            'state effects="transactional", "idempotent" or "unrepeatable" in its declaration',
        )
    for finding in reading.findings:
        if not finding.reviewed:
            yield Gap(finding.rule, finding.where, finding.what, finding.remedy)
    if not _docstring(task):
        yield Gap(
            "docstring", task.where, "has no docstring", "say in one what a job of it does, and to whom"
        )
    if wrong := _wrong_with(proof, demanded=proofs):
        yield Gap("proof", task.where, wrong, f"run `duly prove {_reference(task)} --record`")


def _wrong_with(proof: Proof | None, *, demanded: bool) -> str | None:
    """What a proof lacks; where none is *demanded* it counts only when it speaks against the task as it is."""
    match proof:
        case None:
            return "has no proof" if demanded else None
        case Proof(stale=True):
            return "has changed since its last proof" if demanded else None
        case Proof(verdict="diverges"):
            return "does not do what it states: the prover saw it diverge"
        case Proof(verdict="proved"):
            return None
    return f"is not proved: the prover says {proof.verdict!r}" if demanded else None


def _reference(task: Task[..., Any]) -> str:
    """How ``duly prove`` names it."""
    declared = task.job_class or task.function
    return f"{declared.__module__}:{declared.__qualname__}"
