"""What keeps a second attempt from doing it all again, as far as it shows in the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

from duly.proof.code import FUNCTIONS, Code, dotted
from duly.proof.look import body

GUARDS = ("once", "step", "child", "constraint", "row lock", "version", "whole file")
"""In the order in which they are named."""

_OF_CONTEXT = {
    "idempotency_key": "key",
    "origin": "key",
    "once": "once",
    "aonce": "once",
    "step": "step",
    "astep": "step",
}
_OF_DATABASE = {
    "on_conflict_do_nothing": "constraint",
    "on_conflict_do_update": "constraint",
    "on_duplicate_key_update": "constraint",
    "get_or_create": "constraint",
    "update_or_create": "constraint",
    "with_for_update": "row lock",
    "select_for_update": "row lock",
}
_CONSTRAINT_SQL = re.compile(r"\bon conflict\b|\binsert (or )?ignore\b|\bon duplicate key\b", re.IGNORECASE)


def uses_of(code: Code, contexts: set[str], read: list[Code]) -> Iterator[str]:
    """Guards; ``key``; and ``context``, where one of *contexts* is handed on to a function that is not *read*."""
    known = contexts | _annotated_contexts(code)
    for node, _ in body(code, known):
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in known:
                yield _OF_CONTEXT.get(attribute, "")
            case ast.Attribute(attr="idempotency_key"):
                yield "key"
            case ast.Attribute(attr=attribute):
                yield _OF_DATABASE.get(attribute, "")
            case ast.keyword(arg="child"):
                yield "child"
            case ast.Constant(value=str(said)) if _CONSTRAINT_SQL.search(said):
                yield "constraint"
            case ast.ExceptHandler(type=ast.expr() as caught) if "IntegrityError" in ast.unparse(caught):
                yield "constraint"
            case ast.Name(id=name) if _counts_versions(code.thing(name)):
                yield "version"
            case ast.Call():
                yield "whole file" if _puts_in_place(code, node) else ""
                yield "context" if _hands_on(code, node, known, read) else ""


def _annotated_contexts(code: Code) -> set[str]:
    if not isinstance(code.node, FUNCTIONS):
        return set()
    arguments = code.node.args
    every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    return {
        each.arg for each in every if each.annotation and ast.unparse(each.annotation).endswith("Context")
    }


def _hands_on(code: Code, call: ast.Call, contexts: set[str], read: list[Code]) -> bool:
    """Whether a call gets the whole context, and is of a function that is not read."""
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    if not any(isinstance(value, ast.Name) and value.id in contexts for value in given):
        return False
    path = dotted(call.func)
    called = code.called(path) if path else None
    return called is None or all(called.node is not one.node for one in read)


def _puts_in_place(code: Code, call: ast.Call) -> bool:
    """Whether a file is put into its place whole: ``os.replace(new, old)``, ``path.replace(old)``."""
    if code.meaning(dotted(call.func) or "") in {"os.replace", "os.rename"}:
        return True
    match call:
        case ast.Call(func=ast.Attribute(attr=("replace" | "rename")), args=[_], keywords=[]):
            return True  # that of a text takes two
    return False


def _counts_versions(thing: Any) -> bool:
    """Whether it is a mapped class whose rows carry a version (optimistic locking)."""
    mapper = getattr(thing, "__mapper__", None) if isinstance(thing, type) else None
    return getattr(mapper, "version_id_col", None) is not None
