"""Which app a command works for."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Shop


@pytest.mark.parametrize(
    "arguments",
    [
        ("--app", "shop.tasks:jobs", "tasks"),
        ("tasks", "--app", "shop.tasks:jobs"),
        ("tasks", "--app", "shop.tasks"),
        ("--app", "nowhere:jobs", "tasks", "--app", "shop.tasks:jobs"),
    ],
)
def test_app_stands_before_or_after_the_command_and_the_nearer_wins(
    shop: Shop, arguments: tuple[str, ...]
) -> None:
    answer = shop.duly(*arguments)
    assert (answer.code, answer.err) == (0, "")
    assert "shop.tasks.charge" in answer.out


def test_app_comes_from_the_environment(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DULY_APP", "shop.tasks:jobs")
    assert "shop.tasks.charge" in shop.duly("tasks").out


def test_app_comes_from_pyproject(shop: Shop) -> None:
    shop.write("pyproject.toml", '[tool.duly]\napp = "shop.tasks"\n')
    assert "shop.tasks.charge" in shop.duly("tasks").out


@pytest.mark.parametrize(
    "command", [("status",), ("check", "--max-age", "1"), ("clear", "--yes"), ("migrate",)]
)
def test_commands_that_need_no_tasks_work_on_the_database_alone(shop: Shop, command: tuple[str, ...]) -> None:
    assert shop.duly(*command).code == 0


@pytest.mark.parametrize("command", ["work", "workoff", "tasks"])
def test_commands_that_need_tasks_ask_for_the_app(shop: Shop, command: str) -> None:
    answer = shop.duly(command)
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.startswith("duly: which app? give --app module:attribute, set DULY_APP")


def test_looking_makes_no_database_that_nobody_named(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DULY_DATABASE_URL")
    answer = shop.duly("status")
    assert answer.code == 2
    assert "which database? set DULY_DATABASE_URL" in answer.err
    assert not (shop.folder / "duly.db").exists()


def test_included_modules_are_loaded(shop: Shop) -> None:
    shop.write(
        "shop/more.py", "from duly import Tasks\nmore = Tasks()\n@more.task\ndef extra() -> None: ...\n"
    )
    shop.write("shop/apps.py", 'from duly import Duly\njobs = Duly(include=["shop.more"])\n')
    assert "shop.more.extra" in shop.duly("tasks", "--app", "shop.apps").out


MISNAMED = {
    "shop.taks:jobs": "app shop.taks: there is no module 'shop.taks'; did you mean 'shop.tasks'?",
    "shopp:jobs": "app shopp: there is no module 'shopp'; did you mean 'shop'?",
    "qqq.tasks": "app qqq.tasks: there is no module 'qqq', in ",
    "shop.tasks.jobs": "app shop.tasks.jobs: 'shop.tasks' is a module, not a package: write shop.tasks:jobs",
    "shop.tasks:job": "app shop.tasks:job: there is no 'job' in it; did you mean 'jobs'?",
    "shop.tasks:mail": "app shop.tasks:mail is a Tasks, not a Duly object; did you mean 'jobs'?",
    "shop": "app shop: there is no Duly object in this module; write module:attribute",
    "shop/tasks.py:jobs": "app 'shop/tasks.py:jobs' is not of the form module:attribute: write shop.tasks:jobs",
    "shop.tasks:": "app 'shop.tasks:' is not of the form module:attribute, such as shop.tasks:jobs",
    "shop.two": "app shop.two: there are several Duly objects in this module; write shop.two:a or shop.two:b",
    "shop.needy": "needy.py:2 imports 'not_installed', which is not installed here",
    "shop.wrong": "task() has no option 'queu'; did you mean 'queue'?",
    "shop.astray": "include='shop.gone': no module 'shop.gone' on the path",
}


@pytest.mark.parametrize("reference", MISNAMED)
def test_a_misnamed_app_is_one_line_with_a_hint(shop: Shop, reference: str) -> None:
    shop.write("shop/two.py", "from duly import Duly\na = Duly()\nagain = a\nb = Duly()\n")
    shop.write("shop/needy.py", "import json\nimport not_installed\n")
    shop.write("shop/wrong.py", 'from duly import Duly\njobs = Duly()\n@jobs.task(queu="a")\ndef f(): ...\n')
    shop.write("shop/astray.py", 'from duly import Duly\njobs = Duly(include=["shop.gone"])\n')
    answer = shop.duly("status", "--app", reference)
    assert answer.code == 2
    assert answer.out == ""
    assert MISNAMED[reference] in answer.err
    assert answer.err.count("\n") == 1
