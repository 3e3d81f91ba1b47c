"""The rules of the house that neither ruff nor import-linter knows."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "duly"
LONGEST_FILE = 400
LONGEST_TEST = 600
PINNED = re.compile(
    r"[a-z0-9.-]+(\[[a-z0-9,-]+\])?==[0-9][^ ]*( ; [^/@]+?)?( +--hash=sha256:[0-9a-f]{64})+ *"
)

CODE_FROM_DATA = {"eval", "exec", "compile", "__import__", "import_module"}
OBJECTS_FROM_BYTES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "yaml", "jsonpickle"}
SLOW_OR_OPTIONAL = {
    "aiosqlite",
    "alembic",
    "asyncio",
    "cryptography",
    "psycopg",
    "rich",
    "setproctitle",  # of the extra duly[work], as watchfiles is
    "sqlalchemy",
    "typer",
    "watchfiles",
}


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def room(path: Path) -> str:
    """``worker/pump.py`` → ``worker``, ``app.py`` → ``app``."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def called(node: ast.AST) -> str:
    """The last name of what is called: ``time.sleep(1)`` → ``sleep``."""
    match node:
        case ast.Call(func=ast.Attribute(attr=name)) | ast.Call(func=ast.Name(id=name)):
            return name
    return ""


def imported(node: ast.AST) -> list[str]:
    """The modules that an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""] if not node.level else ["duly"]
    return []


def breaches(paths: list[Path], breaks: Callable[[Path, ast.AST], bool]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"
        for path in paths
        for node in ast.walk(tree(path))
        if breaks(path, node)
    ]


def inside_functions(module: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from (inner for statement in node.body for inner in ast.walk(statement))


def reads_environment(path: Path, node: ast.AST) -> bool:
    if room(path) == "settings":
        return False
    match node:
        case ast.Attribute(value=ast.Name(id="os"), attr="environ" | "environb" | "getenv"):
            return True
        case ast.ImportFrom(module="os", names=names):
            return any(alias.name in {"environ", "environb", "getenv"} for alias in names)
        case ast.Call(keywords=keywords):
            return any(keyword.arg == "envvar" for keyword in keywords)  # Typer reads it by itself
    return False


def prints(path: Path, node: ast.AST) -> bool:
    return room(path) != "cli" and isinstance(node, ast.Call) and called(node) == "print"


def makes_code_from_data(path: Path, node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "compile":
        return False  # re.compile, statement.compile
    return called(node) in CODE_FROM_DATA - ({"import_module"} if room(path) in {"app", "cli"} else set())


def makes_objects_from_bytes(path: Path, node: ast.AST) -> bool:
    return any(name.partition(".")[0] in OBJECTS_FROM_BYTES for name in imported(node))


def imports_the_front_door(path: Path, node: ast.AST) -> bool:
    return room(path) not in {"contrib", "testing"} and "duly" in imported(node)


def imports_observe(path: Path, node: ast.AST) -> bool:
    if room(path) in {"observe", "app", "cli", "web"}:
        return False
    return any(name.startswith("duly.observe") for name in imported(node))


def sleeps(path: Path, node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or called(node) != "sleep":
        return False
    gives_way = [ast.unparse(argument) for argument in node.args] == ["0"]
    return not gives_way


RULES = {
    "only settings reads the environment": reads_environment,
    "only the command line prints": prints,
    "no code is made from data": makes_code_from_data,
    "no objects are made from bytes by pickle and its kin": makes_objects_from_bytes,
    "rooms import rooms, not the package's front door": imports_the_front_door,
    "logic emits, observe subscribes: only app and the faces import it": imports_observe,
}


@pytest.mark.parametrize("rule", RULES)
def test_rule_of_the_house(rule: str) -> None:
    assert breaches(files("src"), RULES[rule]) == [], rule


def test_no_lazy_imports_but_where_the_house_has_them() -> None:
    """``app`` opens ``store`` and ``worker`` on first use, ``cli`` starts quickly; slow packages may wait."""

    def allowed(path: Path, name: str) -> bool:
        if room(path) in {"app", "cli", "__init__"}:
            return True
        return name.partition(".")[0] in SLOW_OR_OPTIONAL

    lazy = {
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)} imports {name}"
        for path in files("src")
        for node in inside_functions(tree(path))
        for name in imported(node)
        if not allowed(path, name)
    }
    assert sorted(lazy) == []


def test_no_test_sleeps() -> None:
    assert breaches(files("tests"), sleeps) == []


@pytest.mark.parametrize("folder", ["src", "tests", "examples", "benchmarks"])
def test_no_file_is_two_nouns(folder: str) -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files(folder)}
    longest = LONGEST_TEST if folder == "tests" else LONGEST_FILE
    assert {path: length for path, length in lengths.items() if length > longest} == {}


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_requirements_are_pinned_with_hashes_and_name_no_index(path: Path) -> None:
    requirements = path.read_text().replace("\\\n", " ").splitlines()
    assert [line for line in requirements if not PINNED.fullmatch(line)] == []


BREACHES = {
    "only settings reads the environment": "import os\nos.environ['A']",
    "only the command line prints": "print(1)",
    "no code is made from data": "eval('1')",
    "no objects are made from bytes by pickle and its kin": "import pickle",
    "rooms import rooms, not the package's front door": "from duly import Duly",
    "logic emits, observe subscribes: only app and the faces import it": "from duly.observe.logs import log",
}


@pytest.mark.parametrize("rule", RULES)
def test_breach_is_seen(rule: str) -> None:
    path = PACKAGE / "worker" / "pump.py"
    assert any(RULES[rule](path, node) for node in ast.walk(ast.parse(BREACHES[rule])))
