"""Runs the blocks of one page in a folder of its own, from top to bottom, as a reader would."""

from __future__ import annotations

import json
import os
import re
import selectors
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.docs.pages import ROOT, Block, Page

PATIENCE = 60.0
_RAISES = re.compile(r"# raises (?P<name>\w+)\s*$")
_PRINTS = re.compile(r"# → (?P<text>.*)$", re.MULTILINE)


class Stage:
    """A folder, a shell environment and a Python for one page."""

    def __init__(self, page: Page, folder: Path, substitutes: dict[str, str] | None = None) -> None:
        self._page = page
        self._folder = folder / "page"
        self._tools = folder / "bin"
        self._environment = folder / "environment"
        self._substitutes = substitutes or {}
        self._python: subprocess.Popen[str] | None = None
        self._terminal: Terminal | None = None
        self._written: list[str] = []
        self._code = 0

    def __enter__(self) -> Self:
        self._folder.mkdir()
        self._tools.mkdir()
        for name, command in {"python": "", "duly": "-m duly", "pytest": "-m pytest"}.items():
            tool = self._tools / name
            tool.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {command} "$@"\n')
            tool.chmod(0o755)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal:
            self._terminal.kill()
        if self._python:
            with self._python as python:
                python.stdin.close() if python.stdin else None
                try:
                    python.wait(PATIENCE)
                finally:
                    python.kill()

    def play(self, block: Block) -> None:
        """Run one block; ``AssertionError`` names the line of the page."""
        text = block.text
        for written, real in self._substitutes.items():
            text = text.replace(written, real)
        if block.file:
            self._write(block.file, text)
        elif block.language == "console":
            self._type(text, block.line)
        else:
            self._run(text, block.line)

    def over(self) -> None:
        """Nothing may be left running."""
        assert self._terminal is None, f"{self._page.name}: a `duly work` was never stopped with ^C"

    # ── files and Python ──────────────────────────────────────────────────────────────────────

    def _write(self, name: str, text: str) -> None:
        path = self._folder / name
        assert path.resolve().is_relative_to(self._folder.resolve()), name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        self._written.append(str(path))

    def _run(self, code: str, line: int) -> None:
        place = f"{self._page.name}:{line}"
        wanted = _RAISES.search(code)
        padded = "\n" * (line - 1) + code
        reply = self._ask({"name": self._page.name, "code": padded, "changed": self._written})
        self._written = []
        raised = reply["raised"]
        if wanted:
            assert raised, f"{place}: nothing was raised, {wanted['name']} was expected"
            assert raised["type"] == wanted["name"], f"{place}: {raised['traceback']}"
        else:
            assert raised is None, f"{place}:\n{raised['traceback']}"
        expected = [found["text"] for found in _PRINTS.finditer(code)]
        if expected:
            assert_says(reply["said"], expected, place)

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        if self._python is None:
            self._python = subprocess.Popen(
                [sys.executable, str(ROOT / "tests" / "docs" / "speaker.py")],
                cwd=self._folder,
                env=self._variables(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._python.stdin
        assert self._python.stdout
        self._python.stdin.write(json.dumps(question) + "\n")
        self._python.stdin.flush()
        return json.loads(self._python.stdout.readline())  # type: ignore[no-any-return]

    # ── the shell ─────────────────────────────────────────────────────────────────────────────

    def _type(self, text: str, line: int) -> None:
        steps = _steps(text)
        for number, (command, expected) in enumerate(steps):
            place = f"{self._page.name}:{line}: {command or 'the running worker'}"
            following = steps[number + 1][0] if number + 1 < len(steps) else ""
            if not command:
                self._go_on(expected, place)
            elif command.split()[:2] == ["duly", "work"]:
                assert self._terminal is None, f"{place}: a worker runs in this terminal already"
                self._terminal = Terminal(command, self._folder, self._variables())
                self._go_on(expected, place)
            else:
                self._command(command, expected, place, may_fail=following.startswith("echo $?"))

    def _go_on(self, expected: list[str], place: str) -> None:
        assert self._terminal, f"{place}: nothing runs that could say this"
        if "^C" not in expected:
            self._terminal.wait_for(expected, place)
            return
        key = expected.index("^C")
        self._terminal.wait_for(expected[:key], place)
        said, self._code = self._terminal.interrupt()
        self._terminal = None
        assert_says(said, expected[key + 1 :], place)

    def _command(self, command: str, expected: list[str], place: str, *, may_fail: bool) -> None:
        saved = shlex.quote(str(self._environment))
        before, after = (
            f"[ -f {saved} ] && . {saved}\n(exit {self._code})",
            f"export -p > {saved}\nexit $code",
        )
        script = f"{before}\n{command}\ncode=$?\n{after}"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self._folder,
            env=self._variables(saved=False),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
            text=True,
        )
        self._code = done.returncode
        assert may_fail or done.returncode == 0, f"{place}: exit code {done.returncode}\n{done.stdout}"
        if expected:
            assert_says(done.stdout, expected, place)

    def _variables(self, *, saved: bool = True) -> dict[str, str]:
        variables = {
            **{
                name: value for name, value in os.environ.items() if not name.startswith(("DULY_", "PYTEST_"))
            },
            "PATH": f"{self._tools}{os.pathsep}{os.environ.get('PATH', '')}",
            "HOME": str(self._folder.parent),
            "PYTHONUNBUFFERED": "1",
            "NO_COLOR": "1",
        }
        if saved and self._environment.exists():
            exported = re.findall(
                r'^declare -x (DULY_\w+)="(.*)"$', self._environment.read_text(), re.MULTILINE
            )
            variables.update(exported)
        return variables


class Terminal:
    """A ``duly work`` that goes on while the page does."""

    def __init__(self, command: str, folder: Path, variables: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._said = ""

    def wait_for(self, expected: list[str], place: str) -> None:
        """Read until what was said since the last time is *expected*."""
        deadline = time.monotonic() + PATIENCE
        pattern = re.compile(_pattern([*expected, "…"]))
        while not pattern.fullmatch(_stripped(self._lines())):
            assert time.monotonic() < deadline, f"{place}: it said only\n{self._said}"
            assert self._read(), f"{place}: it ended, and said\n{self._said}"
        self._said = self._said[len(self._lines()) :]

    def _lines(self) -> str:
        """The lines that are whole."""
        return self._said[: self._said.rfind("\n") + 1]

    def interrupt(self) -> tuple[str, int]:
        """Press Ctrl-C, which reaches the whole group; what it says until its end, and its exit code."""
        os.killpg(self._process.pid, signal.SIGINT)
        while self._read(PATIENCE):
            pass
        return self._said, self._process.wait(PATIENCE)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def _read(self, patience: float = 0.5) -> bool:
        """Some of what it says; False when it has ended."""
        assert self._process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(patience):
                return True
        some = os.read(self._process.stdout.fileno(), 65_536)
        self._said += some.decode()
        if not some:
            self._process.stdout.close()
        return bool(some)


def _steps(text: str) -> list[tuple[str, list[str]]]:
    """Commands with what stands below them; the first command is empty where the block goes on with an older one."""
    steps: list[tuple[str, list[str]]] = []
    more = False
    for line in text.rstrip("\n").split("\n"):
        if more:
            steps[-1] = (f"{steps[-1][0]}\n{line}", [])
        elif line.startswith("$ "):
            steps.append((line[2:], []))
        elif steps:
            steps[-1][1].append(line)
        else:
            steps.append(("", [line]))
        more = line.endswith("\\") and (more or line.startswith("$ "))
    return steps


def assert_says(said: str, expected: list[str], place: str) -> None:
    """What was printed is what the page shows."""
    text = "\n".join(expected)
    assert re.fullmatch(_pattern(expected), _stripped(said)), (
        f"{place}: the page shows\n{text}\n\nit said\n{said}"
    )


def _pattern(expected: list[str]) -> str:
    parts = []
    for line in expected:
        if line.strip() == "…":
            parts.append(r"(?:.*\n)*?")
        else:
            parts.append(".*?".join(re.escape(part) for part in line.rstrip().split("…")) + r"\n")
    return "".join(parts)


def _stripped(said: str) -> str:
    lines = [line.rstrip() for line in said.rstrip("\n").split("\n")]
    return "\n".join(lines) + "\n" if said.strip() else ""
