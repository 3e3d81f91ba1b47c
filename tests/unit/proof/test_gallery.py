"""The audit reads the examples: each wrong task of the gallery has a gap, and what is right has none."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import pytest

import examples.gallery
from duly.proof.reading import read

ROOMS = [
    room.name
    for room in pkgutil.iter_modules(examples.gallery.__path__)
    if "def mended(" in (Path(examples.gallery.__path__[0]) / f"{room.name}.py").read_text()
]


@pytest.mark.parametrize("room", ROOMS)
def test_the_wrong_task_is_seen_and_its_mended_twin_is_left_alone(room: str) -> None:
    module = importlib.import_module(f"examples.gallery.{room}")
    assert read(module.wrong).findings
    assert read(module.mended).findings == ()


def test_the_gallery_is_not_empty() -> None:
    assert len(ROOMS) >= 9


def test_the_shop_of_the_demo_has_no_gap() -> None:
    from examples.shop.tasks import jobs

    assert [finding.what for task in jobs for finding in read(task).findings if not finding.reviewed] == []
