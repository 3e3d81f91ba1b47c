"""``docs/reference/cli.md``: each command on the page is run, and says what the page says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def blocks() -> Iterator[tuple[str, str]]:
    """Language and text of each code block, in order."""
    for match in re.finditer(r"^( *)```(\w+)\n(.*?)^\1```$", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        yield match[2], re.sub(rf"^{match[1]}", "", match[3], flags=re.MULTILINE)


def commands(block: str) -> Iterator[tuple[str, str]]:
    """Each command of a console block, and what it says."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, said = part.partition("\n")
        yield command, said


def blurred(text: str) -> list[str]:
    """The lines of *text* without what differs from run to run: words with digits, and the width of tables."""
    lines = (re.sub(r"[^\s=\"]*\d[^\s,\"]*", "#", line) for line in text.splitlines())
    return [re.sub(r"(─|\s)+", " ", line).strip() for line in lines]


def duly(command: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(command)],
        cwd=folder,
        env={**os.environ, "COLUMNS": "80", "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout


def test_the_page_says_what_the_commands_say(tmp_path: Path) -> None:
    ran = 0
    for language, block in blocks():
        file = re.match(r"# (\S+\.\w+)\n", block)
        if file:
            path = tmp_path / file[1]
            path.parent.mkdir(exist_ok=True)
            path.write_text(block)
        elif language == "python":
            subprocess.run([sys.executable, "-c", block], cwd=tmp_path, check=True)
        for command, said in commands(block) if language == "console" else ():
            ran += 1
            for wanted, seen in zip_longest(blurred(said), blurred(duly(command, tmp_path))):
                assert seen == wanted, command
    assert ran >= 17


@pytest.mark.parametrize(
    "command",
    [
        "migrate",
        "tasks",
        "audit",
        "keys new",
        "status",
        "check",
        "clear",
        "work",
        "workoff",
        "job",
        "retry",
        "cancel",
        "resolve",
        "ledger",
        "prune",
    ],
)
def test_the_page_has_each_command(command: str) -> None:
    assert re.search(rf"^### `duly {command}`$", PAGE.read_text(), re.MULTILINE)
