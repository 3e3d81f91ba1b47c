"""Call sites are typed: what type checkers say of a user's file, in which some lines are wrong on purpose."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

USER_CODE = Path(__file__).with_name("user_code.py")


def wrong_lines() -> set[int]:
    lines = USER_CODE.read_text().splitlines()
    return {number for number, line in enumerate(lines, 1) if re.search(r"# wrong: \w", line)}


def output_of(command: list[str], folder: Path) -> str:
    """What a checker prints, run away from the project so that its settings count for nothing."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def mypy(folder: Path, cache: Path) -> dict[int, str]:
    """What mypy --strict says, by line."""
    options = ["--strict", "--config-file=", f"--cache-dir={cache}", "--no-error-summary", "--output=json"]
    found = [json.loads(line) for line in output_of(["mypy", *options, str(USER_CODE)], folder).splitlines()]
    return {
        each["line"]: each["message"]
        for each in found
        if each["severity"] == "error" and Path(each["file"]).name == USER_CODE.name
    }


def pyright(folder: Path) -> dict[int, str]:
    """What pyright says, by line."""
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')
    options = ["--outputjson", f"--pythonpath={sys.executable}"]
    report = json.loads(output_of(["pyright", *options, str(USER_CODE)], folder))
    return {
        each["range"]["start"]["line"] + 1: each["message"]
        for each in report["generalDiagnostics"]
        if each["severity"] == "error"
    }


def assert_exactly_the_wrong_lines(found: dict[int, str]) -> None:
    wrong, lines = wrong_lines(), USER_CODE.read_text().splitlines()
    unfounded = [
        f"{number}: {lines[number - 1]}\n    {found[number]}" for number in sorted(found.keys() - wrong)
    ]
    assert not unfounded, "reported, though right:\n" + "\n".join(unfounded)
    missed = [f"{number}: {lines[number - 1]}" for number in sorted(wrong - found.keys())]
    assert not missed, "not reported, though wrong:\n" + "\n".join(missed)


def test_mypy_strict_reports_the_wrong_lines_and_no_others(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    cache = pytestconfig.rootpath / ".mypy_cache" / "user_code"
    assert_exactly_the_wrong_lines(mypy(tmp_path, cache))


def test_pyright_reports_the_wrong_lines_and_no_others(tmp_path: Path) -> None:
    assert_exactly_the_wrong_lines(pyright(tmp_path))


def test_there_are_wrong_lines_to_be_reported() -> None:
    assert len(wrong_lines()) > 30
