"""Files that a task writes: saved before the first touch, compared, and put back."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from duly.proof.files import Files
from duly.proof.world import Worlds
from tests.proof.test_worlds import in_a_child

Contents = dict[str, str | None]


def contents_after(folder: Path, does: Callable[[], object]) -> Contents:
    """The text of each file that is not as it was, after a run that does this; relative to *folder*."""
    with Worlds() as worlds:
        world = worlds.fresh()
        in_a_child(world, does)
        files = world.snapshot().files
        return {
            str(Path(path).relative_to(folder)): None if found is None else found.text
            for path, found in files.items()
        }


def tree(folder: Path) -> dict[str, str | None]:
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    here = tmp_path / "files"
    here.mkdir()
    (here / "old.txt").write_text("as it was\n")
    (here / "sub").mkdir()
    (here / "sub" / "deep.txt").write_text("deep\n")
    monkeypatch.chdir(here)
    return here


def append() -> None:
    with Path("old.txt").open("a") as file:
        file.write("more\n")


def move_into_place() -> None:
    with tempfile.NamedTemporaryFile("w", dir=".", delete=False) as drawn:
        drawn.write("whole\n")
    Path(drawn.name).replace("new.txt")


def rewrite_as_it_was() -> None:
    Path("old.txt").write_text("other\n")
    Path("old.txt").write_text("as it was\n")


def make_folders() -> None:
    Path("a/b").mkdir(parents=True)
    Path("a/b/c.txt").write_text("c\n")


def touch_low_down() -> None:
    handle = os.open("old.txt", os.O_WRONLY | os.O_TRUNC)
    os.write(handle, b"low\n")
    os.close(handle)


CHANGES: dict[str, tuple[Callable[[], object], Contents]] = {
    "append": (append, {"old.txt": "as it was\nmore\n"}),
    "new": (lambda: Path("new.txt").write_text("new\n"), {"new.txt": "new\n"}),
    "remove": (lambda: Path("old.txt").unlink(), {"old.txt": None}),
    "rename": (lambda: Path("old.txt").rename("b.txt"), {"old.txt": None, "b.txt": "as it was\n"}),
    "move into place": (move_into_place, {"new.txt": "whole\n"}),
    "rewrite": (rewrite_as_it_was, {}),
    "folders": (make_folders, {"a/b/c.txt": "c\n"}),
    "remove tree": (lambda: shutil.rmtree("sub"), {"sub/deep.txt": None}),
    "low down": (touch_low_down, {"old.txt": "low\n"}),
    "truncate": (lambda: os.truncate("old.txt", 2), {"old.txt": "as"}),
    "link": (lambda: os.link("old.txt", "other.txt"), {"other.txt": "as it was\n"}),
    "only read": (lambda: Path("old.txt").read_text(), {}),
    "failed": (lambda: shutil.rmtree("nowhere", ignore_errors=True), {}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_change_is_seen_and_put_back(folder: Path, name: str) -> None:
    does, expected = CHANGES[name]
    before = tree(folder)
    assert contents_after(folder, does) == expected
    assert tree(folder) == before


def test_each_run_finds_the_files_as_they_were(folder: Path) -> None:
    with Worlds() as worlds:
        found = []
        for _ in range(2):
            world = worlds.fresh()
            in_a_child(world, append)
            (content,) = world.snapshot().files.values()
            found.append(content.text if content else None)
    assert found == ["as it was\nmore\n"] * 2


def test_two_processes_of_a_world_save_a_file_once(folder: Path) -> None:
    before = tree(folder)
    with Worlds() as worlds:
        world = worlds.fresh()
        in_a_child(world, append)
        in_a_child(world, append)
        (content,) = world.snapshot().files.values()
        assert content is not None
        assert content.text == "as it was\nmore\nmore\n"
    assert tree(folder) == before


def test_mode_of_a_file_is_put_back(folder: Path) -> None:
    Path("old.txt").chmod(0o640)
    contents_after(folder, append)
    assert Path("old.txt").stat().st_mode & 0o777 == 0o640


def test_files_that_are_not_put_back_are_caught(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Files, "put_back", lambda _: None)
    before = tree(folder)
    contents_after(folder, append)
    assert tree(folder) != before
