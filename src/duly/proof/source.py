"""The fingerprint of a task's source: whether a verdict still speaks of the code that is here.

It is made of what decides what a job of the task does:

1. the task's function or class as a syntax tree, so that comments, docstrings and layout do not count;
2. what it names in its own module, and what that names there, and so on;
3. the functions and classes that these name in other modules of the same package;
4. the types of its arguments, what Duly gives it, and what it states of its effects.

Other packages do not count: who upgrades a library proves anew.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
from collections.abc import Iterator
from types import CodeType
from typing import Any

from duly.proof.code import SCOPES, Code, code_of, dotted
from duly.task.task import Task

_LAYOUT = frozenset({"ctx", "kind", "type_comment"})


def source_of(task: Task[..., Any]) -> str:
    """64 hex digits that change when the task's code does; the same in every process and Python."""
    signature = task.signature
    declared = [
        signature.arguments.fingerprint,
        sorted(f"{name}: {kind.value}" for name, kind in signature.injected.items()),
        task.effects,
    ]
    code = code_of(task)
    body = _compiled(inspect.unwrap(task.function).__code__) if code is None else list(_reached(code))
    return hashlib.sha256(json.dumps([declared, body]).encode()).hexdigest()


# ── from the source ───────────────────────────────────────────────────────────────────────────


def _reached(code: Code) -> Iterator[Any]:
    """The trees of what the code reaches, each once; in the order in which they are met."""
    beside = code.beside()
    left: list[ast.AST] = [code.node]
    seen: set[int | str] = {id(code.node)}
    while left:
        node = left.pop(0)
        yield _tree(node, declared=node is code.node)
        for inner in ast.walk(node):
            path = dotted(inner) if isinstance(inner, ast.Name | ast.Attribute) else None
            if path is None or path in seen:
                continue
            seen.add(path)
            if path in beside and id(beside[path]) not in seen:
                seen.add(id(beside[path]))
                left.append(beside[path])
            elif elsewhere := code.elsewhere(path):
                yield [path, _tree(elsewhere.node)]


def _tree(node: Any, *, declared: bool = False) -> Any:
    """A syntax tree as JSON, without what decides nothing.

    Not ``ast.dump``, which shows new fields with each Python.
    """
    if isinstance(node, list):
        return [_tree(inner) for inner in node]
    if not isinstance(node, ast.AST):
        return node if isinstance(node, str | int | float | bool | None) else repr(node)
    parts: dict[str, Any] = dict(ast.iter_fields(node))
    if isinstance(node, SCOPES):
        parts["body"] = _without_docstring(node.body)
    if declared:
        parts["decorator_list"] = [d for d in parts["decorator_list"] if not _declares(d)]
    told = {
        name: _tree(part) for name, part in parts.items() if name not in _LAYOUT and part not in (None, [])
    }
    return [type(node).__name__, told]


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    match body:
        case [ast.Expr(ast.Constant(str())), *rest]:
            return rest
    return body


def _declares(decorator: ast.expr) -> bool:
    """Whether it is ``@jobs.task`` or ``@jobs.task(…)``: what of its options decides is told elsewhere."""
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(called, ast.Attribute) and called.attr == "task"


# ── without it ────────────────────────────────────────────────────────────────────────────────


def _compiled(code: CodeType) -> list[Any]:
    """Of a function whose source cannot be read: what it was compiled to, which differs between Pythons."""
    constants = [_compiled(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), constants]
