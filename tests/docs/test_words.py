"""The glossary's words are the only words: in the docs, and in the docstrings and messages of the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import pytest

from duly.model.states import Outcome, State
from tests.docs.pages import ROOT, Page, pages

INSTEAD = {
    r"ack(s|ed|ing)?": "record an outcome",
    r"nack(s|ed|ing)?": "put back",
    r"acknowledg\w*": "record an outcome",
    r"brokers?": "the database",
    r"consumers?": "worker",
    r"producers?": "whoever enqueues",
    r"publish(es|ed|ing)? (a |the )?(job|task|message)s?": "enqueue",
    r"message (queue|broker)s?": "the database",
    r"dead[- ]letters?( queue)?": "failed jobs, in the ledger",
    r"poison(ed|ous)?( pills?)?": "suspect",
    r"payloads?": "arguments, envelope",
    r"dequeue[sd]?": "claim",
    r"re-?queue[sd]?": "put back, offer again",
    r"pending": "waiting",
    r"in[- ]flight": "running",
    r"ready (state|jobs?)": "available",
    r"queued (state|jobs?)": "waiting",
    r"locked_by": "worker",
    r"visibility time-?out": "lease",
    r"reapers?": "rescue",
    r"task ids?": "job id",
    r"discarded": "failed, cancelled",
    r"(completed|finished|done) jobs?": "ended jobs",
    r"errored|aborted": "failed",
    r"exactly-once delivery": "effects that happen once",
    r"job history|result backend": "ledger",
    r"master|leader process": "supervisor",
}
BRITISH = r"\b(behaviour|colour|serialis|recognis|favour|honour|neighbour|initialis)\w*"
_FORBIDDEN = re.compile(rf"\b(?:{'|'.join(INSTEAD)})\b", re.IGNORECASE)
_OTHERS = re.compile(r"<!-- words of others -->.*?<!-- end of words of others -->", re.DOTALL)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_a_page_uses_no_other_words(page: Page) -> None:
    text = _OTHERS.sub(lambda found: "\n" * found[0].count("\n"), page.text)
    assert _found(text.splitlines()) == []
    assert not re.findall(BRITISH, text, re.IGNORECASE), "the docs are written in American spelling"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "src").rglob("*.py")), ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_docstrings_and_messages_use_no_other_words(path: Path) -> None:
    assert _found(_texts(path)) == []


def test_forbidden_words_are_found() -> None:
    assert _found(["a worker acks the job", "the reaper of pending jobs"])
    assert not _found(["the task's job id is available, and its backoff packs"])


@pytest.mark.parametrize("words", [State, Outcome], ids=["states", "outcomes"])
def test_the_glossary_names_every_state_and_outcome(words: type[StrEnum]) -> None:
    glossary = Page(ROOT / "docs" / "glossary.md").text
    row = next(line for line in glossary.splitlines() if line.startswith(f"| **{words.__name__.lower()}**"))
    assert set(re.findall(r"`(\w+)`", row)) == {word.value for word in words}


def test_the_glossary_is_in_order() -> None:
    rows = Page(ROOT / "docs" / "glossary.md").table("Glossary")
    words = [row[0].replace("*", "") for row in rows]
    assert words == sorted(words)


def _found(lines: list[str]) -> list[str]:
    return [line.strip() for line in lines if _FORBIDDEN.search(line)]


def _texts(path: Path) -> list[str]:
    """Docstrings and texts with a space in them: what people read."""
    return [
        line for text in _strings(ast.parse(path.read_text())) if " " in text for line in text.splitlines()
    ]


def _strings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
