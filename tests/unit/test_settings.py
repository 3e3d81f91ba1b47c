"""Settings: defaults < pyproject < environment < arguments; every fault at once; then frozen."""

from __future__ import annotations

import os
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from duly import Duly
from duly.envelope.keys import Keyring, new_key
from duly.errors import SettingsError
from duly.settings import Notifying, Settings


@pytest.fixture
def pyproject(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        file = tmp_path / "pyproject.toml"
        file.write_text(text)
        return file

    return write


NOTHING = Path("/nowhere/pyproject.toml")


def test_the_defaults_are_those_of_the_docstring() -> None:
    settings = Settings.read(pyproject=NOTHING)
    assert settings == Settings(keys=settings.keys)
    assert (settings.database_url, settings.prefix, settings.schema) == ("sqlite:///duly.db", "duly_", None)
    assert (settings.lease, settings.beat, settings.poll, settings.grace) == (15, 5, 0.25, 25)
    assert (settings.arguments_size, settings.arguments_depth) == (65_536, 32)
    assert (settings.processes, settings.threads, settings.coroutines) == (1, 5, 100)
    assert not settings.keys
    for field in fields(Settings):
        assert f"\n    {field.name} " in (Settings.__doc__ or ""), field.name


def test_the_nearer_source_wins(pyproject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = pyproject('[tool.duly]\nprefix = "file_"\nthreads = 2\nprocesses = 2\napp = "shop:jobs"\n')
    monkeypatch.setenv("DULY_THREADS", "3")
    monkeypatch.setenv("DULY_PROCESSES", "3")
    settings = Settings.read(pyproject=file, processes=4, threads=None)
    assert (settings.prefix, settings.threads, settings.processes, settings.app) == (
        "file_",
        3,
        4,
        "shop:jobs",
    )


def test_an_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DULY_THREADS", "")
    monkeypatch.setenv("DULY_DATABASE_URL", "")
    assert Settings.read(pyproject=NOTHING).threads == 5


def test_variables_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """DULY_TEST_… and the like belong to somebody else; a misspelt variable cannot be told from them."""
    monkeypatch.setenv("DULY_TEST_POSTGRESQL", "x")
    assert Settings.read(pyproject=NOTHING) is not None


def test_all_faults_are_reported_at_once_each_with_its_source(
    pyproject: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = pyproject('[tool.duly]\nthreds = 2\nprefix = "No Good"\n')
    monkeypatch.setenv("DULY_LEASE", "soon")
    with pytest.raises(SettingsError) as fault:
        Settings.read(pyproject=file, processes=0, schema="a-b")
    words = str(fault.value)
    assert "threds ([tool.duly] in pyproject.toml) is no setting; did you mean 'threads'?" in words
    assert "prefix ([tool.duly] in pyproject.toml)" in words
    assert "DULY_LEASE" in words
    assert "processes (argument): must be a whole number from 1 to 256, not 0" in words
    assert "schema (argument)" in words
    assert "\n" not in words


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("database_url", ""), ("database_url", 5), ("prefix", "Duly_"), ("prefix", "9x"), ("prefix", "x" * 41),
        ("prefix", 'a"b'), ("prefix", "a.b"), ("schema", ""), ("schema", "a;b"), ("arguments_size", 255),
        ("arguments_size", 16 * 1024 * 1024 + 1), ("arguments_size", 1000.5), ("arguments_size", True),
        ("arguments_depth", 0), ("arguments_depth", 201), ("lease", 0.4), ("lease", 3601), ("lease", float("nan")),
        ("lease", True), ("beat", 0.01), ("poll", 0), ("poll", 61), ("grace", -1), ("processes", 257),
        ("threads", 0), ("threads", "many"), ("coroutines", 10_001), ("keys", "x"), ("keys", 5), ("app", ""),
    ],
)  # fmt: skip
def test_what_is_out_of_bounds_is_refused_naming_the_field(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=rf"{name} \(argument\)"):
        Settings.read(pyproject=NOTHING, **{name: value})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("THREADS", "7", 7), ("LEASE", "1.5", 1.5), ("GRACE", "0", 0.0), ("PREFIX", "_x9_", "_x9_"),
        ("ARGUMENTS_SIZE", "16777216", 16_777_216), ("SCHEMA", "work", "work"), ("POLL", "5e-1", 0.5),
    ],
)  # fmt: skip
def test_the_environment_is_text_and_read_as_what_it_means(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: Any
) -> None:
    monkeypatch.setenv(f"DULY_{name}", text)
    found = getattr(Settings.read(pyproject=NOTHING), name.lower())
    assert (found, type(found)) == (value, type(value))


def test_the_beat_is_a_third_of_the_lease_and_no_more() -> None:
    assert Settings.read(pyproject=NOTHING, lease=3).beat == 1
    assert Settings.read(pyproject=NOTHING, lease=3, beat=0.5).beat == 0.5
    with pytest.raises(SettingsError, match="third of lease"):
        Settings.read(pyproject=NOTHING, lease=3, beat=1.1)
    with pytest.raises(SettingsError, match="third of lease"):
        Settings.read(pyproject=NOTHING, beat=5.1)


def test_keys_come_from_the_environment_and_never_from_a_file(
    pyproject: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_key()
    monkeypatch.setenv("DULY_KEYS", key)
    settings = Settings.read(pyproject=NOTHING)
    assert settings.keys.active is not None
    assert settings.keys.active.id == key.partition(":")[0]
    secret = key.partition(":")[2]
    assert secret not in repr(settings)
    with pytest.raises(SettingsError, match="version control") as fault:
        Settings.read(pyproject=pyproject(f'[tool.duly]\nkeys = "{key}"\n'))
    assert secret not in str(fault.value)


def test_a_bad_key_is_said_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DULY_KEYS", "k1:geheimgeheim")
    with pytest.raises(SettingsError, match="DULY_KEYS") as fault:
        Settings.read(pyproject=NOTHING)
    assert "geheim" not in str(fault.value)


def test_a_keyring_may_be_given_as_it_is() -> None:
    ring = Keyring.parse(new_key())
    assert Settings.read(pyproject=NOTHING, keys=ring).keys is ring


def test_a_file_that_cannot_be_read_is_a_fault_and_one_that_is_not_there_is_none(pyproject: Any) -> None:
    with pytest.raises(SettingsError, match=r"pyproject.toml cannot be read"):
        Settings.read(pyproject=pyproject("[tool.duly\n"))
    assert Settings.read(pyproject=pyproject("[tool.other]\nx = 1\n")).threads == 5


@pytest.mark.parametrize("text", ["tool = 5\n", "[tool]\nduly = 5\n"])
def test_a_file_of_another_shape_is_a_fault(pyproject: Any, text: str) -> None:
    with pytest.raises(SettingsError):
        Settings.read(pyproject=pyproject(text))


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().threads = 3  # type: ignore[misc]


def test_an_app_reads_its_settings_and_its_arguments_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DULY_PREFIX", "env_")
    monkeypatch.setenv("DULY_DATABASE_URL", "sqlite:///env.db")
    assert Duly().settings.database_url == "sqlite:///env.db"
    app = Duly("sqlite:///given.db", prefix="given_")
    assert (app.settings.database_url, app.settings.prefix) == ("sqlite:///given.db", "given_")


# ── systemd ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("said", "watchdog"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
    ],
)
def test_what_systemd_says(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, str], watchdog: float | None
) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    assert Notifying.read() == Notifying("", None)
    for name, value in (said | {"NOTIFY_SOCKET": "@systemd"}).items():
        monkeypatch.setenv(name, value)
    assert Notifying.read() == Notifying("@systemd", watchdog)


def test_what_was_asked_for_goes_over_the_settings() -> None:
    asked = Settings(threads=3).asked(threads=None, grace=1, max_jobs=5)
    assert (asked.threads, asked.grace, asked.max_jobs) == (3, 1.0, 5)
    with pytest.raises(SettingsError, match=r"^grace: must be a number of seconds"):
        Settings().asked(threads=2, grace=-1)
