"""Links between pages lead somewhere, and every page can be reached from the README."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import ROOT, Page, pages

ALL = [*pages(), Page(ROOT / "CONTRIBUTING.md"), Page(ROOT / "CHANGELOG.md")]
_OUTWARD = re.compile(r"[a-z]+:")


def _target(page: Page, link: str) -> tuple[Page, str]:
    path, _, anchor = link.partition("#")
    return (Page((page.path.parent / path).resolve()) if path else page), anchor


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_links_resolve(page: Page) -> None:
    for link in page.links:
        if _OUTWARD.match(link):
            assert link.startswith(("https://", "mailto:")), link
            continue
        target, anchor = _target(page, link)
        assert target.path.exists(), f"{page.name}: {link} leads nowhere"
        assert not anchor or anchor in target.anchors, f"{page.name}: {link} has no such heading"


def test_every_page_can_be_reached_from_the_readme() -> None:
    found: set[str] = set()
    left = [Page(ROOT / "README.md")]
    while left:
        page = left.pop()
        if page.name in found or page.path.suffix != ".md":
            continue
        found.add(page.name)
        left += [_target(page, link)[0] for link in page.links if not _OUTWARD.match(link)]
    assert {page.name for page in pages()} <= found
