"""Reading a task: what of Duly it uses, and what looks wrong for the effects that it states.

Its function is read, and the functions of its package that it calls, one level deep. A comment
``# duly: reviewed (why)`` silences what is found; the reason is kept and shown.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from duly.proof import suspicions
from duly.proof.code import Code, code_at, dotted
from duly.proof.finding import Finding, review_at, review_of, reviewed
from duly.proof.guards import GUARDS, uses_of
from duly.proof.look import Look, body
from duly.proof.suspicions import Rule
from duly.task.injected import Injected
from duly.task.task import Task

_AT_LEAST_ONCE: dict[str, Rule] = {
    "append": suspicions.appends_to_a_file,
    "counter": suspicions.adds_up,
    "enqueue": suspicions.enqueues,
    "random": suspicions.rolls_dice,
    "clock": suspicions.reads_the_clock,
}
_RULES: dict[str | None, dict[str, Rule]] = {
    None: _AT_LEAST_ONCE,
    "idempotent": _AT_LEAST_ONCE,
    "transactional": {
        "outside": suspicions.leaves_the_transaction,
        "file": suspicions.writes_a_file,
        "commit": suspicions.ends_a_transaction,
        "transaction": suspicions.opens_a_transaction,
        "enqueue": suspicions.enqueues,
    },
    "unrepeatable": {},
}
_KEY = "key"
_COUNTS_ONCE = {"once", "constraint"}
_GIVEN_BY_EFFECTS = {"transactional": ("transaction",), "unrepeatable": ("mark",)}


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read."""

    key: str | None = None
    """Whether it uses the idempotency key: ``used``; ``handed on``, with the whole context; else None."""
    guards: tuple[str, ...] = ()
    """What keeps a second attempt from doing it again: ``once``, ``step``, ``constraint`` …"""
    findings: tuple[Finding, ...] = ()


def read(task: Task[..., Any]) -> Reading:
    """Read the source of a task."""
    given = _GIVEN_BY_EFFECTS.get(task.effects or "", ())
    own = code_at(task.function)
    if own is None:
        return Reading(guards=given, findings=(*_of_declaration(task), _unread(task)))
    contexts = _contexts(task)
    parts = _parts(own, contexts)
    codes = [part.code for part in parts]
    uses = {use for code in codes for use in uses_of(code, contexts, codes if code is own else [])}
    key = "used" if "key" in uses else "handed on" if "context" in uses else None
    guards = tuple(guard for guard in GUARDS if guard in uses)
    keyless = task.effects == "idempotent" and key is None
    found = list(_of_code(task, parts, dict(_rules(task, guards, keyless=keyless))))
    declared = list(_of_declaration(task))
    if keyless and not guards and all(finding.rule != _KEY for finding in found):
        declared.append(_keyless(task))
    return Reading(key, given + guards, (*(reviewed(each, review_of(own)) for each in declared), *found))


def _rules(task: Task[..., Any], guards: tuple[str, ...], *, keyless: bool) -> Iterator[tuple[str, Rule]]:
    """The rules for its effects; whether an addition is guarded is not for a rule of one node to see."""
    for name, rule in _RULES[task.effects].items():
        if name != "counter" or not _COUNTS_ONCE & set(guards):
            yield name, rule
    if keyless:
        yield _KEY, suspicions.repeats_itself_outside


@dataclass(frozen=True, slots=True)
class _Part:
    """A function that is read."""

    code: Code
    in_step: bool
    """Whether it is called as a durable step: its result is the same for all attempts."""


# ── what it uses ──────────────────────────────────────────────────────────────────────────────


def _contexts(task: Task[..., Any]) -> set[str]:
    return {name for name, kind in task.signature.injected.items() if kind is Injected.CONTEXT}


def _parts(own: Code, contexts: set[str]) -> list[_Part]:
    """The function, and those of its package that it calls, each once, in the order of the calls."""
    found = {own.node: _Part(own, in_step=False)}
    for node, in_step in body(own, contexts):
        path = dotted(node.func) if isinstance(node, ast.Call) else None
        if isinstance(node, ast.Name | ast.Attribute) and in_step:
            path = dotted(node)
        called = own.called(path) if path else None
        if called is not None:
            found.setdefault(called.node, _Part(called, in_step))
    return list(found.values())


# ── what looks wrong ──────────────────────────────────────────────────────────────────────────


def _of_declaration(task: Task[..., Any]) -> Iterator[Finding]:
    sessions = set(task.signature.injected.values()) - {Injected.CONTEXT}
    if task.transactional and not sessions:
        yield Finding(
            "session",
            task.where,
            "asks for no session or connection: nothing that it writes commits with the job",
            f"take one: *, {'session: AsyncSession' if task.signature.is_async else 'session: Session'} = given",
        )


def _unread(task: Task[..., Any]) -> Finding:
    return Finding("unread", task.where, "its source cannot be read here", "declare it in a file")


def _keyless(task: Task[..., Any]) -> Finding:
    return Finding(
        _KEY,
        task.where,
        "says that it is idempotent, and uses neither the idempotency key nor a guard",
        "hand ctx.idempotency_key to the receiver, or guard with ctx.once() or ctx.step()",
    )


def _of_code(task: Task[..., Any], parts: list[_Part], rules: Mapping[str, Rule]) -> Iterator[Finding]:
    """What the rules see, each line once a rule. What is recorded in a step is the same in all attempts."""
    contexts = _contexts(task)
    injected, own = frozenset(task.signature.injected) - contexts, parts[0].code
    seen: set[tuple[str, str]] = set()
    for part in parts:
        code = part.code
        within = "" if code is own else f" in {code.node.name}()"
        for node, in_step in body(code, contexts):
            where = f"{code.file}:{getattr(node, 'lineno', 1)}"
            for name, rule in rules.items():
                repeats = name == _KEY or not (in_step or part.in_step)
                found = rule(Look(code, node, injected)) if repeats else None
                if found is None or (name, where) in seen:
                    continue
                seen.add((name, where))
                doing, wrong, remedy = found
                finding = Finding(name, where, f"{doing}{within}: {wrong}", remedy)
                yield reviewed(finding, review_at(code, node), review_of(code), review_of(own))
