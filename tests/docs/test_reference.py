"""The reference says what the code says: settings, options, errors, tables and public names."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

import duly
from duly import errors
from duly.errors import ConfigurationError, InvalidOptions, SettingsError
from duly.model.options import DEFAULTS, CallOptions, Options, QueueOptions, UniqueOptions
from duly.settings import Settings
from duly.store.schema import Names, tables
from duly.task import RouterOptions, TaskOptions, UsingOptions
from tests.docs.pages import ROOT, Page

REFERENCE = ROOT / "docs" / "reference"
SETTINGS, OPTIONS, ERRORS, TABLES, API = (
    Page(REFERENCE / f"{name}.md") for name in ("settings", "options", "errors", "tables", "api")
)
_BOUNDS = re.compile(r"^(-?[\d.]+) to (-?[\d.]+)")


def bare(cell: str) -> str:
    return cell.strip("`")


# ── settings ──────────────────────────────────────────────────────────────────────────────────

SETTINGS_ROWS = {bare(row[0]): row for row in SETTINGS.table("All settings")}


@pytest.fixture
def no_pyproject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_setting_is_there() -> None:
    assert list(SETTINGS_ROWS) == [field.name for field in fields(Settings)]


@pytest.mark.parametrize("name", SETTINGS_ROWS)
def test_environment_and_default_of_a_setting(name: str) -> None:
    _, environment, default, *_ = SETTINGS_ROWS[name]
    value = getattr(Settings(), name)
    assert bare(environment) == f"DULY_{name.upper()}"
    assert bare(default) == (f"{value:g}" if isinstance(value, float) else str(value or "")) or not value


@pytest.mark.usefixtures("no_pyproject")
@pytest.mark.parametrize("name", [name for name, row in SETTINGS_ROWS.items() if row[3]])
def test_bounds_of_a_setting(name: str) -> None:
    low, high = (float(bound) for bound in _BOUNDS.match(SETTINGS_ROWS[name][3]).groups())  # type: ignore[union-attr]
    kind = type(getattr(Settings(), name))
    room = {"lease": 3600} if name == "beat" else {"beat": 0.1} if name == "lease" else {}
    read = Settings.read(**{name: kind(low)}, **room)
    assert getattr(read, name) == low
    step = 1 if kind is int else 0.001
    if name == "beat":  # at most a third of the lease, so its own upper bound is met with the longest one
        assert Settings.read(beat=high, lease=3600).beat == high
    else:
        assert getattr(Settings.read(**{name: kind(high)}), name) == high
    for beyond in (low - step, high + step):
        with pytest.raises(SettingsError):
            Settings.read(**{name: kind(beyond)}, **room)


# ── options ───────────────────────────────────────────────────────────────────────────────────

OPTION_ROWS = {bare(row[0]): row for row in OPTIONS.table("Options of jobs")}
LEVELS: dict[str, set[str]] = {
    "app": set(RouterOptions.__annotations__),
    "queue": set(QueueOptions.__annotations__),
    "task": set(RouterOptions.__annotations__) | set(UniqueOptions.__annotations__),
    "call": set(CallOptions.__annotations__),
}


def test_every_option_is_there() -> None:
    assert set(OPTION_ROWS) == set().union(*LEVELS.values())
    declared = {bare(row[0]) for row in OPTIONS.table("Options of a declaration")}
    assert declared == set(TaskOptions.__annotations__) - LEVELS["task"]
    called = {bare(row[0]) for row in OPTIONS.table("Options of a call alone")}
    assert called == set(UsingOptions.__annotations__) - set(CallOptions.__annotations__)


@pytest.mark.parametrize("name", OPTION_ROWS)
def test_levels_of_an_option(name: str) -> None:
    said = set(OPTION_ROWS[name][1].split(", "))
    assert said == {level for level, names in LEVELS.items() if name in names}


def test_defaults_of_options() -> None:
    said = {name: bare(row[3]) for name, row in OPTION_ROWS.items()}
    assert said["queue"].strip('"') == DEFAULTS.queue
    assert said["priority"] == str(DEFAULTS.priority)
    assert said["max_attempts"] == str(DEFAULTS.max_attempts)
    assert said["keep_result"] == str(DEFAULTS.keep_result)
    assert said["retry"] == "Backoff()"
    assert DEFAULTS.retry == duly.Backoff()
    assert said["max_run_time"] == "4 hours"
    assert DEFAULTS.max_run_time == timedelta(hours=4)
    assert said["expires_in"] == "90 days"
    assert DEFAULTS.expires == timedelta(days=90)


@pytest.mark.parametrize("name", [name for name, row in OPTION_ROWS.items() if _BOUNDS.match(row[4])])
def test_bounds_of_an_option(name: str) -> None:
    low, high = _BOUNDS.match(OPTION_ROWS[name][4]).groups()  # type: ignore[union-attr]
    if name == "queue":
        for length in (int(low), int(high)):
            _option(queue="q" * length)
        for length in (0, int(high) + 1):
            with pytest.raises(InvalidOptions):
                _option(queue="q" * length)
        return
    for value in (int(low), int(high)):
        _option(**{name: value})
    for value in (int(low) - 1, int(high) + 1):
        with pytest.raises(InvalidOptions):
            _option(**{name: value})


@pytest.mark.parametrize("name", [name for name, row in OPTION_ROWS.items() if "100 years" in row[4]])
def test_longest_durations(name: str) -> None:
    _option(**{name: timedelta(days=36_500)})
    with pytest.raises(InvalidOptions):
        _option(**{name: timedelta(days=36_501)})


def _option(**given: Any) -> Options:
    return Options.read(given, allowed=CallOptions.__annotations__, where="here", error=InvalidOptions)


# ── errors ────────────────────────────────────────────────────────────────────────────────────


def test_the_error_tree_is_the_one_of_the_code() -> None:
    drawn = (errors.__doc__ or "").split("::\n\n", 1)[1].split("\n\nThe docstring", 1)[0]
    assert ERRORS.blocks[0].text.strip() == textwrap.dedent(drawn).strip()


def test_the_drawn_tree_is_the_one_of_the_classes() -> None:
    above: dict[int, str] = {}
    for line in ERRORS.blocks[0].text.splitlines():
        found = re.search(r"[A-Z]\w+", line)
        if not found:
            continue
        depth = found.start() // 4
        above[depth] = found[0]
        if depth:
            assert getattr(errors, found[0]).__bases__[0].__name__ in {above[depth - 1], "_Later"}
    drawn = set(re.findall(r"^[^A-Z\n]*([A-Z]\w+)", ERRORS.blocks[0].text, re.MULTILINE))
    assert drawn == {name for name, thing in vars(errors).items() if inspect.isclass(thing) and _ours(thing)}


def test_what_each_error_means_is_its_docstring() -> None:
    groups = (*errors.DulyError.__subclasses__(), errors.Interruption, errors.AttemptStopped)
    for group in groups:
        if group.__module__ != "duly.errors":
            continue
        said = {bare(row[0]): row[1] for row in ERRORS.table(group.__name__)}
        wanted = {
            name: " ".join((thing.__doc__ or "").split()).replace("``", "`")
            for name, thing in vars(errors).items()
            if inspect.isclass(thing) and issubclass(thing, group) and thing is not group and _ours(thing)
        }
        assert said == wanted


def _ours(thing: type) -> bool:
    return thing.__module__ == "duly.errors" and not thing.__name__.startswith("_")


# ── tables ────────────────────────────────────────────────────────────────────────────────────


def test_every_table_and_column_is_there() -> None:
    real = tables(Names()).metadata.tables
    assert set(re.findall(r"^## (duly_\w+)$", TABLES.text, re.MULTILINE)) == set(real)
    for name, table in real.items():
        assert [bare(row[0]) for row in TABLES.table(name)] == [column.name for column in table.columns]


# ── public names ──────────────────────────────────────────────────────────────────────────────

CLASSES = [name for name in duly.__all__ if inspect.isclass(getattr(duly, name))]


def test_every_public_name_has_a_heading() -> None:
    headings = set(re.findall(r"^## (\w+)$", API.text, re.MULTILINE))
    assert set(duly.__all__) <= headings


@pytest.mark.parametrize("name", CLASSES)
def test_signatures_are_those_of_the_code(name: str) -> None:
    kind = getattr(duly, name)
    if "| --- |" not in API.section(name):
        return
    for row in API.table(name):
        written = bare(row[0])
        member, parenthesis, _ = written.partition("(")
        if not parenthesis:
            assert member in _members(kind) | set(_fields(kind)), f"{name} has no {member}"
        else:
            assert written == member + _signature(kind if member == name else getattr(kind, member))


@pytest.mark.parametrize("name", ["Duly", "Tasks", "Task", "Job", "Call", "JobHandle", "Context", "Backoff"])
def test_every_member_of_a_class_is_there(name: str) -> None:
    said = {bare(row[0]).partition("(")[0] for row in API.table(name)} - {name}
    kind = getattr(duly, name)
    inherited = _members(duly.Tasks) if name == "Duly" else set()
    assert _members(kind) | set(_fields(kind)) <= said | inherited


def _members(kind: type) -> set[str]:
    """Public methods and properties that are declared by Duly."""
    return {
        name
        for base in kind.__mro__
        if base.__module__.startswith("duly.")
        for name, thing in vars(base).items()
        if not name.startswith(("_", "model_"))
        and (callable(thing) or _is_property(thing))
        and _documented(thing)
    }


def _is_property(thing: object) -> bool:
    return isinstance(
        thing, property | cached_property | classmethod | staticmethod | type(duly.JobHandle.id)
    )  # type: ignore[attr-defined]


def _documented(thing: object) -> bool:
    return not inspect.isclass(thing)


def _fields(kind: type) -> Iterator[str]:
    if kind.__module__.startswith("duly.") and hasattr(kind, "__dataclass_fields__"):
        yield from (field.name for field in fields(kind) if not field.name.startswith("_"))


def _signature(thing: Any) -> str:
    """As it is called: without self, annotations and what it returns."""
    signature = inspect.signature(thing)
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
        if parameter.name not in {"self", "cls"}
    ]
    shown = str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))
    return re.sub(r"Options\([^()]*\)", "Options()", shown)


def test_an_error_in_configuration_is_one() -> None:
    assert issubclass(SettingsError, ConfigurationError)
