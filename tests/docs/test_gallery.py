"""The gallery of ``docs/tutorial-idempotency.md``: each wrong task is found out, each mended twin is proved.

The short form tries each pair at the points that tell them apart. The long form (``make gallery``) tries all of
them, and plays the whole page.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from duly.proof.page import page
from duly.proof.points import Moment
from duly.proof.prover import Prover
from duly.proof.verdict import Trial, Verdict, Word
from duly.proof.world import Worlds
from examples.gallery.shop import engine, jobs, opening
from tests.docs.pages import ROOT, Page
from tests.docs.stage import Stage
from tests.faults.ground import LONG

SHORT = {"account", "file", "flag", "letter", "siren"}
"""The rooms of the default run; `make gallery` plays all."""
GALLERY = ROOT / "examples" / "gallery"
TUTORIAL = Page(ROOT / "docs" / "tutorial-idempotency.md")
ORDER, ADA = {"order_id": 1}, {"email": "ada@example.org"}
AFTER, BEFORE = Moment.AFTER, Moment.BEFORE
BANK = """
from examples.gallery.outside import open_bank
print(open_bank(), flush=True)
input()
"""


@dataclass(frozen=True)
class Room:
    """A room of the gallery: the arguments of its tasks, and where the wrong one goes wrong."""

    name: str
    given: dict[str, Any]
    trial: Trial
    moment: Moment
    kind: str
    differs: str
    """What is not as after the clean run."""
    word: Word = Word.DIVERGES

    def tells(self, one: Any) -> bool:
        """Whether a trial is of the kind that tells the two tasks apart."""
        return (
            one.point is not None
            and (one.trial, one.moment, one.point.kind) == (self.trial, self.moment, self.kind)
            and not (self.trial is Trial.FROZEN and one.point.what.startswith("SELECT"))
        )


ROOMS = [
    Room("counter", {"item": "moon lamp"}, Trial.KILLED, AFTER, "commit", "sales in gallery.db"),
    Room("flag", ORDER, Trial.KILLED, AFTER, "commit", "payments in gallery.db"),
    Room("invoice", ORDER, Trial.FROZEN, BEFORE, "statement", "invoices in gallery.db"),
    Room("account", ADA, Trial.KILLED, AFTER, "commit", "accounts in gallery.db"),
    Room("booking", ORDER, Trial.FROZEN, BEFORE, "statement", "bookings in gallery.db"),
    Room("file", ORDER, Trial.KILLED, AFTER, "file", "orders.csv"),
    Room("bank", ORDER, Trial.KILLED, AFTER, "http", "POST {bank}/charges"),
    Room("steps", ORDER, Trial.KILLED, AFTER, "http", "POST {bank}/charges"),
    Room("voucher", ORDER, Trial.KILLED, AFTER, "http", "POST {bank}/vouchers", Word.CANNOT_TELL),
    Room("letter", ORDER, Trial.KILLED, AFTER, "mail", "ada@example.org"),
    Room("followup", ADA, Trial.KILLED, AFTER, "commit", "examples.gallery.letter.thank"),
    Room("siren", ORDER, Trial.KILLED, AFTER, "http", "POST {bank}/siren"),
]


class Sampled(Prover):
    """Tries what tells two tasks apart; or else, where a task has no such point, a kill at the end."""

    room: Room

    def _trials(self, clean: Any) -> Iterator[Any]:
        every = list(super()._trials(clean))
        telling = [one for one in every if self.room.tells(one)]
        yield from telling[:1] or [one for one in every if one.trial is Trial.KILLED][-1:]


@pytest.fixture(scope="module")
def bank() -> Iterator[str]:
    """A bank in a process of its own: the prover forks this one."""
    command = [sys.executable, "-c", BANK]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    with subprocess.Popen(command, **pipes) as process:
        yield process.stdout.readline().strip()
        process.communicate("\n")


@pytest.fixture(scope="module")
def shop(bank: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The shop, open, in the current folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("gallery"))
        patch.setenv("BANK", bank)
        opening()
        leave()
        yield Path.cwd()
        leave()


def contents(folder: Path) -> dict[str, str]:
    """All its files, by digest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def leave() -> None:
    """No connection stays open."""
    jobs.close()
    engine.dispose()


def verdict_on(room: Room, which: str, prover: Callable[..., Prover]) -> Verdict:
    task = getattr(import_module(f"examples.gallery.{room.name}"), which)
    jobs.load()
    leave()
    with Worlds() as worlds:
        try:
            asked = prover(jobs, task, room.given, worlds)
            asked.room = room  # type: ignore[attr-defined]
            return asked.prove()
        finally:
            leave()


@pytest.mark.parametrize(
    "room", [room for room in ROOMS if LONG or room.name in SHORT], ids=lambda room: room.name
)
def test_the_wrong_task_is_found_out_and_its_twin_is_proved(room: Room, shop: Path, bank: str) -> None:
    prover = Prover if LONG else Sampled
    before = contents(shop)
    wrong = verdict_on(room, "wrong", prover)
    assert wrong.word is room.word, page(wrong)
    differs = room.differs.format(bank=bank)
    if room.word is Word.DIVERGES:
        found = [one for one in wrong.divergences if any(differs in each.where for each in one.differences)]
        assert any(room.tells(one) for one in found), page(wrong)
    else:
        assert differs in wrong.reasons[0]
    mended = verdict_on(room, "mended", prover)
    assert mended.word is Word.PROVED, page(mended)
    assert contents(shop) == before, "the shop itself was touched"


def test_every_room_is_in_the_tutorial_as_it_is_in_the_gallery() -> None:
    shown = {block.file: block.text for block in TUTORIAL.blocks if block.file}
    files = {path.name: path for path in GALLERY.glob("*.py") if path.name != "__init__.py"}
    assert {f"gallery/{name}" for name in files} == shown.keys()
    for name, path in files.items():
        assert shown[f"gallery/{name}"] == path.read_text(), f"{name}: gallery and tutorial differ"
    assert {room.name for room in ROOMS} == {Path(name).stem for name in files} - {"shop", "outside"}


@pytest.mark.skipif(not LONG, reason="some two hundred crashes: make gallery")
def test_the_whole_tutorial_runs(tmp_path: Path) -> None:
    with Stage(TUTORIAL, tmp_path) as stage:
        for block in TUTORIAL.blocks:
            stage.play(replace(block, not_run=None))
