"""The source code of a task: where it is declared, and what it reaches from there by name.

Read from the files, not run. What cannot be read (typed into a prompt, compiled without its source)
has none.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from duly.task.task import Task

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SCOPES = (*FUNCTIONS, ast.ClassDef)

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef
Scope = Definition | ast.Module


@dataclass(frozen=True, slots=True)
class Code:
    """A function or class in its file."""

    file: str
    lines: tuple[str, ...] = field(repr=False)
    """The lines of the whole file; the first one is line 1 of the syntax tree."""
    node: Definition = field(repr=False)
    around: tuple[Scope, ...] = field(repr=False)
    """The scopes that it stands in, the module first."""
    module: str
    names: Mapping[str, Any] = field(repr=False)
    """What its names mean at run time, where they are not local."""

    def beside(self) -> dict[str, ast.stmt]:
        """What is defined beside it: in its module, and in the functions around it; by name."""
        found: dict[str, ast.stmt] = {}
        for scope in self.around:
            if not isinstance(scope, ast.ClassDef):
                found.update(_defined_in(scope))
        return found

    def thing(self, path: str) -> Any:
        """The object that a dotted name stands for at run time; None where that cannot be known."""
        first, *rest = path.split(".")
        found = self.names.get(first)
        for name in rest:
            found = getattr(found, name, None) if isinstance(found, ModuleType) else None
        return found

    def meaning(self, path: str) -> str:
        """The dotted name as its library has it: ``sleep`` after ``from time import sleep`` is ``time.sleep``.

        Of an object that the module holds, it is that of its class: ``client.post`` is ``httpx.Client.post``.
        """
        first, dot, rest = path.partition(".")
        known = _imports(self.around[0]).get(first)
        if known is None:
            kind = type(self.names.get(first))
            foreign = kind.__module__.partition(".")[0] not in {"builtins", "types", "abc", "duly"}
            known = f"{kind.__module__}.{kind.__qualname__}" if foreign else first
        return known + dot + rest

    def called(self, path: str) -> Code | None:
        """The function of the same package that a call of *path* runs; None for others."""
        owner, _, method = path.partition(".")
        where = self.around[-1]
        if owner == "self" and isinstance(where, ast.ClassDef):
            methods = (node for node in where.body if isinstance(node, FUNCTIONS) and node.name == method)
            return next((replace(self, node=node) for node in methods), None)
        node = self.beside().get(path)
        if isinstance(node, FUNCTIONS):
            return replace(self, node=node)
        found = self.elsewhere(path)
        return found if found is not None and isinstance(found.node, FUNCTIONS) else None

    def elsewhere(self, path: str) -> Code | None:
        """The function or class that *path* names in another module of the same package; None for others."""
        thing = self.thing(path)
        thing = (thing.job_class or thing.function) if isinstance(thing, Task) else thing
        if not isinstance(thing, type) and not inspect.isfunction(thing):
            return None
        return code_at(thing) if thing.__module__ != self.module and self._is_near(thing) else None

    def _is_near(self, thing: Any) -> bool:
        """Whether it is of the same package; modules outside of packages belong together in one folder."""
        ours, theirs = self.module.split("."), str(thing.__module__).split(".")
        if len(ours) > 1 or len(theirs) > 1:
            return ours[0] == theirs[0]
        try:
            return Path(self.file).parent == Path(inspect.getfile(thing)).parent
        except (OSError, TypeError):
            return False


def code_of(task: Task[..., Any]) -> Code | None:
    """The source of a task, of its whole class where it is one; None where it cannot be read."""
    return code_at(task.job_class or task.function)


def code_at(declared: Callable[..., Any] | type) -> Code | None:
    """The source of a function or class; None where it cannot be read."""
    thing: Any = inspect.unwrap(declared)
    try:
        lines, start = inspect.findsource(thing)
        file = inspect.getfile(thing)
        tree = _parsed("".join(lines))
    except (OSError, TypeError, SyntaxError, IndexError):
        return None
    found = _placed(tree, thing.__name__, start + 1)
    if found is None:
        return None
    node, around = found
    return Code(file, tuple(lines), node, around, thing.__module__, _names_of(thing))


def dotted(node: ast.expr) -> str | None:
    """``a.b.c`` of the expression that says so; None for others."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := dotted(node.value)):
        return f"{before}.{node.attr}"
    return None


@lru_cache(maxsize=64)
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


@lru_cache(maxsize=64)
def _imports(tree: ast.AST) -> dict[str, str]:
    """What each imported name is called where it comes from; relative imports left out."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                found[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return found


def _placed(tree: ast.Module, name: str, line: int) -> tuple[Definition, tuple[Scope, ...]] | None:
    """The definition of *name* at *line* (of its decorators, or of itself), and the scopes around it."""

    def search(scope: Scope, around: tuple[Scope, ...]) -> Iterator[tuple[Definition, tuple[Scope, ...]]]:
        for node in _inside(scope):
            if isinstance(node, SCOPES):
                if node.name == name and first_line(node) <= line <= node.lineno:
                    yield node, around
                yield from search(node, (*around, node))

    return next(search(tree, (tree,)), None)


def first_line(node: Definition) -> int:
    """The line of its first decorator, or its own."""
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _inside(scope: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a scope but those of the functions and classes in it, which come as one node each."""
    for node in ast.iter_child_nodes(scope):
        yield node
        if not isinstance(node, SCOPES):
            yield from _inside(node)


@lru_cache(maxsize=256)
def _defined_in(scope: Scope) -> dict[str, ast.stmt]:
    found: dict[str, ast.stmt] = {}
    for node in _inside(scope):
        if isinstance(node, SCOPES):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found.update({target.id: node for target in targets if isinstance(target, ast.Name)})
    return found


def _names_of(thing: Any) -> dict[str, Any]:
    """Globals and closure of a function; of a class, the globals of its module."""
    if isinstance(thing, type):
        return dict(vars(inspect.getmodule(thing) or thing))
    found = dict(thing.__globals__)
    for name, cell in zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found
