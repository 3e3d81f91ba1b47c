"""The program around the commands: help, completion, errors and exit codes."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.cli.conftest import MakeShop, Shop
from tests.databases import Database

COMMANDS = [
    "work",
    "workoff",
    "status",
    "check",
    "clear",
    "job",
    "retry",
    "cancel",
    "migrate",
    "tasks",
    "keys new",
]
DATABASE_LIBRARIES = ("sqlalchemy", "alembic", "psycopg", "sqlite3", "aiosqlite")


def test_duly_alone_shows_the_help_with_commands_and_exit_codes(shop: Shop) -> None:
    answer = shop.duly()
    assert answer.code == 0
    assert answer == shop.duly("--help")
    for word in [*(command.split()[0] for command in COMMANDS), "Exit codes:", "[tool.duly]"]:
        assert word in answer.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_has_an_example_and_fits_80_columns(shop: Shop, command: str) -> None:
    answer = shop.duly(*command.split(), "--help")
    assert answer.code == 0
    assert re.search(rf"Examples?:.*\$ .*duly {command}", answer.out, re.DOTALL)
    assert max(map(len, answer.out.splitlines())) <= 80


def test_version(shop: Shop) -> None:
    assert re.fullmatch(r"duly \d\S+\n", shop.duly("--version").out)


@pytest.mark.parametrize(
    "environment", [{}, {"_DULY_COMPLETE": "complete_bash", "COMP_WORDS": "duly wo", "COMP_CWORD": "1"}]
)
def test_help_and_completion_import_no_database_library(environment: dict[str, str]) -> None:
    program = (
        "import sys\nfrom duly.cli import main\n"
        "try:\n    main([])\n"
        "finally:\n    print('imported', [m for m in sys.argv[1].split() if m in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, " ".join(DATABASE_LIBRARIES)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "imported []" in done.stderr
    assert "workoff" in done.stdout


def test_completion_can_be_shown(shop: Shop) -> None:
    answer = shop.run("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert answer.code == 0
    assert "_DULY_COMPLETE=complete_bash" in answer.out


WRONG_USAGE = {
    "wrok": "No such command 'wrok'. Did you mean 'work'? (see: duly --help)",
    "work --quues a": "No such option: --quues (Possible options: --queues) (see: duly work --help)",
    "work --threads x": "Invalid value for '--threads'",
    "job": "Missing argument 'ID'. (see: duly job --help)",
    "job nonsense": "'nonsense' is no job id; ids look like ",
    "check": "Missing option '--max-age'",
    "check --max-age nan": "--max-age must be a number of seconds from 0 to 1000000000, not nan",
    "check --max-age -1": "--max-age must be a number of seconds from 0 to 1000000000, not -1",
    "keys": "Missing command. (see: duly keys --help)",
    "work --app shop.tasks --processes 0": "processes (argument): must be a whole number from 1 to 256, not 0",
    "work --app shop.tasks --queues mial": "queues: no task uses a queue 'mial'; did you mean 'mail'?",
    "work --app shop.tasks --queues mail,,money": "queues: queue '' is not a name",
}


@pytest.mark.parametrize("line", WRONG_USAGE)
def test_wrong_usage_is_one_line_and_exit_code_2(shop: Shop, line: str) -> None:
    answer = shop.duly(*line.split())
    assert answer.code == 2
    assert answer.out == ""
    assert WRONG_USAGE[line] in answer.err
    assert answer.err.count("\n") == 1


WRONG_SETTINGS = {
    "DULY_KEYS": ("k1", "DULY_KEYS: key 1 has no ':' between id and secret"),
    "DULY_DATABASE_URL": ("mysql2://host/db", "not on 'mysql2'"),
    "DULY_PROCESSES": ("many", "DULY_PROCESSES: "),
}


@pytest.mark.parametrize("name", WRONG_SETTINGS)
def test_wrong_settings_are_one_line_and_exit_code_2(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, WRONG_SETTINGS[name][0])
    answer = shop.duly("status")
    assert answer.code == 2
    assert WRONG_SETTINGS[name][1] in answer.err
    assert answer.err.count("\n") == 1


def test_a_database_that_is_not_there_is_one_line_and_exit_code_2(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setenv("DULY_DATABASE_URL", "postgresql://me:hush@127.0.0.1:1/shop")
    answer = shop.duly("status")
    assert answer.code == 2
    assert answer.err.startswith("duly: the database does not answer")
    assert answer.err.count("\n") == 1
    assert "hush" not in answer.err


def test_tables_that_are_not_there_are_one_line_and_exit_code_2(
    make_shop: MakeShop, postgresql_database: Database
) -> None:
    shop = make_shop(postgresql_database)
    for command in ("status", "workoff --app shop.tasks"):
        answer = shop.run(*command.split())
        assert answer.code == 2
        assert answer.err == "duly: Duly's tables are not in this database yet: run `duly migrate`\n"


def test_a_fault_of_the_application_is_a_traceback_and_exit_code_70(shop: Shop) -> None:
    shop.write("shop/broken.py", "raise RuntimeError('broken at import')\n")
    answer = shop.duly("status", "--app", "shop.broken")
    assert answer.code == 70
    assert "Traceback" in answer.err
    assert "RuntimeError: broken at import" in answer.err


def test_what_an_error_quotes_cannot_write_on_the_terminal(shop: Shop) -> None:
    answer = shop.duly("status", "--app", "shop\x1b[2J.tasks\nduly: all is well")
    assert "\x1b" not in answer.err
    assert answer.err.count("\n") == 1


def test_the_program_and_the_module_are_the_same(shop: Shop) -> None:
    answer = shop.run("keys", "new")
    assert answer.code == 0
    assert re.fullmatch(r"k\d{8}[0-9a-f]{4}:[A-Za-z0-9_-]{43}\n", answer.out)
    assert answer.err == ""
