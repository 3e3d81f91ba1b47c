"""The guards of the how-to pages are proved: their blocks that take too long for every day run in ``make gallery``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import Page, pages
from tests.docs.stage import Stage
from tests.faults.ground import LONG

LATER = "`make gallery` does it"
PROVED = [page for page in pages() if any(LATER in (block.not_run or "") for block in page.blocks)]


def test_the_four_patterns_and_the_steps_are_among_them() -> None:
    patterns = {page.name for page in PROVED if "/guard-with-" in page.name}
    assert len(patterns) == 4
    assert "docs/how-to/durable-steps.md" in {page.name for page in PROVED}


@pytest.mark.skipif(not LONG, reason="make gallery")
@pytest.mark.parametrize("page", PROVED, ids=lambda page: page.name)
def test_what_the_page_says_is_proved(page: Page, tmp_path: Path) -> None:
    with Stage(page, tmp_path, {}) as stage:
        for block in page.blocks:
            if block.not_run is None or LATER in block.not_run:
                stage.play(block)
        stage.over()
