"""One look at one place in a task's code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from duly.proof.code import Code, dotted


@dataclass(frozen=True, slots=True)
class Look:
    """A node, and the function that it stands in."""

    code: Code
    node: ast.AST
    injected: frozenset[str]
    """The parameters that Duly gives, but for the context."""

    @property
    def path(self) -> str:
        """The dotted name of what is called, as its library has it; empty where nothing is, or it has none."""
        called = dotted(self.node.func) if isinstance(self.node, ast.Call) else None
        return self.code.meaning(called) if called else ""

    @property
    def said(self) -> str:
        """The same as it is written; of chained calls the last name."""
        called = dotted(self.node.func) if isinstance(self.node, ast.Call) else None
        return called or self.method

    @property
    def method(self) -> str:
        """The last name of what is called."""
        match self.node:
            case ast.Call(func=ast.Attribute(attr=name)) | ast.Call(func=ast.Name(id=name)):
                return name
        return ""

    @property
    def owner(self) -> str:
        """The first name of what is called: ``session`` of ``session.begin()``."""
        match self.node:
            case ast.Call(func=ast.Attribute(value=value)):
                return (dotted(value) or "").partition(".")[0]
        return ""


def under(path: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a dotted name is one of these, or belongs to one of these modules."""
    return any(path == prefix or path.startswith(f"{prefix}.") for prefix in prefixes)


def body(code: Code, contexts: set[str]) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes of a function but its decorators, and whether each stands in a durable step of one of *contexts*."""
    left: list[tuple[ast.AST, bool]] = [(node, False) for node in reversed(code.node.body)]
    while left:
        node, in_step = left.pop()
        yield node, in_step
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=("step" | "astep"))) if (
                name in contexts
            ):
                left.append((node.func, False))
                left += [(inner, True) for inner in reversed([*node.args, *(k.value for k in node.keywords)])]
            case _:
                left += [(inner, in_step) for inner in reversed(list(ast.iter_child_nodes(node)))]
