"""What was found in a task's code, and what its authors say to it.

``# duly: reviewed (why)`` on a line silences what is found there, as it does on the lines above it that are
comments alone; above a function or its class it silences all that is found in it.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, replace

from duly.proof.code import Code, first_line

_REVIEWED = re.compile(r"#\s*duly:\s*reviewed\b\s*(?:\((?P<why>[^()]*(?:\([^()]*\)[^()]*)*)\))?")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that looks wrong, and what to do about it."""

    rule: str
    where: str
    """``file:line``."""
    what: str
    remedy: str
    reviewed: str | None = None
    """Why it is right all the same, in the words of a comment."""


def reviewed(finding: Finding, *reviews: str | None) -> Finding:
    """The finding with the first reason that was given; a comment without one counts as none, and is told."""
    why = next(filter(None, reviews), None)
    if why is None and "" in reviews:
        return replace(
            finding, remedy=f"{finding.remedy}; its comment gives no reason: # duly: reviewed (why)"
        )
    return replace(finding, reviewed=why)


def review_at(code: Code, node: ast.AST) -> str | None:
    """The review of what stands at a node; empty where it gives no reason, None where there is none."""
    first: int = getattr(node, "lineno", 1)
    return _review_between(code, first, getattr(node, "end_lineno", None) or first)


def review_of(code: Code) -> str | None:
    """The same above a function, or above the class that it is a method of."""
    classes = [scope for scope in code.around if isinstance(scope, ast.ClassDef)]
    found = [
        _review_between(code, first_line(node), max(node.lineno, node.body[0].lineno - 1))
        for node in (code.node, *classes)
    ]
    return next(filter(None, found), "" if "" in found else None)


def _review_between(code: Code, first: int, last: int) -> str | None:
    """The reason of a comment on these lines, or on those above that are comments alone; None without a comment."""
    lines = list(code.lines[first - 1 : last])
    for line in reversed(code.lines[: first - 1]):
        if not line.lstrip().startswith("#"):
            break
        lines.append(line)
    matches = [match for match in map(_REVIEWED.search, lines) if match]
    return next((match["why"].strip() for match in matches if match["why"]), "" if matches else None)
