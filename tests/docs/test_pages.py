"""Every code block of README and docs runs; each page is one test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT, RUNNABLE, Page, pages
from tests.docs.stage import Stage, assert_says

SERVERS = {"postgresql://shop:secret@db/shop": "postgresql", "mysql://shop:secret@db/shop": "mysql"}
"""What pages write; the tests put a database of their own in its place."""


RUN_ELSEWHERE = ("docs/reference/cli.md",)
"""Run by ``tests/cli/test_reference.py``."""
RUN_HERE = [page for page in pages() if page.name not in RUN_ELSEWHERE]


@pytest.mark.parametrize("page", [p for p in RUN_HERE if p.blocks], ids=lambda page: page.name)
def test_every_block_of_the_page_runs(page: Page, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    substitutes = {}
    for url, name in SERVERS.items():
        if url in page.text:
            database: Any = request.getfixturevalue(f"{name}_database")
            substitutes[url] = str(database.url)
    with Stage(page, tmp_path, substitutes) as stage:
        for block in page.blocks:
            if block.not_run is None:
                stage.play(block)
        stage.over()


@pytest.mark.parametrize("page", RUN_HERE, ids=lambda page: page.name)
def test_what_is_not_run_says_why(page: Page) -> None:
    for block in page.blocks:
        runs = block.language in RUNNABLE and (block.language != "toml" or block.file)
        assert runs or block.not_run, f"{page.name}:{block.line}: say why: <!-- not run: … -->"


def test_the_harness_sees_a_wrong_line(tmp_path: Path) -> None:
    path = ROOT / "docs" / "index.md"
    cases = {
        "python": ["print(1)  # → 2", "1 / 0", "1 + 1  # raises ValueError", "1 / 0  # raises ValueError"],
        "console": ["$ echo a\nb", "$ false", "$ python -c 'import shop'"],
    }
    for language, texts in cases.items():
        for number, text in enumerate(texts):
            folder = tmp_path / f"{language}{number}"
            folder.mkdir()
            block = _block(language, text)
            with Stage(Page(path), folder) as stage, pytest.raises(AssertionError):
                stage.play(block)


def test_an_ellipsis_stands_for_anything() -> None:
    assert_says("a 12 b\nc\nd\n", ["a … b", "…", "d"], "here")
    assert_says("d\n", ["…", "d"], "here")
    with pytest.raises(AssertionError):
        assert_says("a\nb\n", ["a"], "here")


def _block(language: str, text: str) -> Any:
    from tests.docs.pages import Block

    return Block(language, text + "\n", 1, None)
