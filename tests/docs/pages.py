"""The pages and their code blocks, as the tests see them.

A fenced block is run by its language:

========== ===================================================================================
python     a first line like ``# shop/tasks.py`` makes it a file; any other block is run in the
           page's namespace. ``# → text`` after a statement is what it prints, and a last line that
           ends in ``# raises Name`` must raise it. ``…`` stands for anything
toml       a file, named in the same way
console    ``$ command`` lines are run by a shell, and what stands below each is what it must
           print. ``^C`` is the key. A ``duly work`` without one goes on; a later block that does
           not begin with ``$`` is what the same terminal shows next
========== ===================================================================================

Anything else, and what has ``<!-- not run: reason -->`` above it, is not run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUNNABLE = ("python", "toml", "console")

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)\s*$")
_NOT_RUN = re.compile(r"<!-- not run: (?P<reason>.+?) -->")
_FILE = re.compile(r"^# (?P<path>[\w./-]+\.(py|toml))$")
_HEADING = re.compile(r"^#{1,6} +(?P<text>.+?)\s*$")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """One fenced block. ``line`` is where its text begins."""

    language: str
    text: str
    line: int
    not_run: str | None

    @property
    def file(self) -> str | None:
        """The file that the block is, if it is one."""
        found = _FILE.match(self.text.split("\n", 1)[0])
        return found["path"] if found and self.language in {"python", "toml"} else None


@dataclass(frozen=True)
class Page:
    """A Markdown file."""

    path: Path

    @property
    def name(self) -> str:
        """From the root of the repository: ``docs/tutorial.md``."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def blocks(self) -> list[Block]:
        """All fenced blocks, from top to bottom."""
        return list(_blocks(self.text))

    @property
    def prose(self) -> str:
        """The page without its fenced blocks."""
        kept, inside = [], False
        for line in self.text.splitlines():
            if _FENCE.match(line):
                inside = not inside
            elif not inside:
                kept.append(line)
        return "\n".join(kept)

    @property
    def anchors(self) -> set[str]:
        """What ``#…`` in a link to this page may say."""
        headings = (_HEADING.match(line) for line in self.prose.splitlines())
        return {_slug(found["text"]) for found in headings if found}

    @property
    def links(self) -> list[str]:
        """The targets of its links."""
        return [found["target"] for found in _LINK.finditer(self.prose)]

    def section(self, heading: str) -> str:
        """The text under a heading, up to the next one of its level or above."""
        found = re.search(rf"^(#+) {re.escape(heading)}$", self.text, re.MULTILINE)
        assert found, f"{self.name} has no heading {heading!r}"
        after = self.text[found.end() :]
        end = re.search(rf"^#{{1,{len(found[1])}}} ", after, re.MULTILINE)
        return after[: end.start()] if end else after

    def table(self, heading: str) -> list[list[str]]:
        """The rows of the first table under a heading, without its head."""
        lines = self.section(heading).splitlines()
        start = next(n for n, line in enumerate(lines) if line.startswith("| ---"))
        rows = []
        for line in lines[start + 1 :]:
            if not line.startswith("|"):
                break
            rows.append([cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        return rows


def pages() -> list[Page]:
    """README, SECURITY and everything under docs."""
    return [
        Page(path)
        for path in (ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md")))
    ]


def _blocks(text: str) -> Iterator[Block]:
    lines = text.splitlines()
    opened: tuple[int, str, int] | None = None
    for number, line in enumerate(lines):
        fence = _FENCE.match(line)
        if opened is None and fence:
            opened = number, fence["language"], len(fence["indent"])
        elif opened and fence:
            start, language, indent = opened
            body = "\n".join(part[indent:] for part in lines[start + 1 : number]) + "\n"
            yield Block(language, body, start + 2, _reason_above(lines, start))
            opened = None
    assert opened is None, f"a block is not closed: line {opened and opened[0] + 1}"


def _reason_above(lines: list[str], start: int) -> str | None:
    above = next((line for line in reversed(lines[:start]) if line.strip()), "")
    found = _NOT_RUN.search(above)
    return found["reason"] if found else None


def _slug(heading: str) -> str:
    """As GitHub makes it."""
    bare = re.sub(r"[`*]|\[|\]\([^)]*\)", "", heading).lower()
    return re.sub(r"[^\w\- ]", "", bare).replace(" ", "-")
