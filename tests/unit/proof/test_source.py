"""The fingerprint of a task's source changes when what its jobs do may change, and stays otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from duly import Job, Tasks
from duly.proof import source
from duly.proof.code import code_of
from duly.proof.source import source_of
from tests.unit.proof.conftest import Declare

HEAD = """\
from __future__ import annotations
from textwrap import dedent
from duly import Context, Job, Tasks, given
from . import bank
from .bank import pay

jobs = Tasks()
"""
BODY = '''
RATE = 3


def helper(cents: int) -> int:
    """Help."""
    return deeper(cents) * RATE


def deeper(cents: int) -> int:
    return cents + 1


def unused() -> None:
    pass


@jobs.task(effects="idempotent", queue="money")
def charge(cents: int, *, ctx: Context = given) -> None:
    """Charge somebody."""
    pay(helper(cents))
    bank.tell(dedent("done"))
'''
BANK = """
def pay(cents: int) -> None:
    _really(cents)

def _really(cents: int) -> None:
    pass

def tell(text: str) -> None:
    pass
"""
SAME = {
    "a comment": ("    pay(helper", "    # now\n    pay(helper"),
    "a docstring": ("Charge somebody.", "Charge them."),
    "a docstring of what it calls": ('"""Help."""', '"""Help them."""'),
    "the layout": ("pay(helper(cents))", "pay(\n        helper(cents),\n    )"),
    "its place": ("\nRATE", "\n\n\nRATE"),
    "an option of its declaration": ('queue="money"', 'queue="bank"'),
    "a function that it does not name": (
        "def unused() -> None:\n    pass",
        "def unused() -> None:\n    raise",
    ),
}
CHANGED = {
    "its body": ('"done"', '"paid"'),
    "what it calls": ("deeper(cents) *", "deeper(cents) +"),
    "what that calls": ("cents + 1", "cents + 2"),
    "a constant": ("RATE = 3", "RATE = 4"),
    "its effects": ('"idempotent"', '"unrepeatable"'),
    "the type of an argument": ("charge(cents: int", "charge(cents: float"),
    "what Duly gives": (", *, ctx: Context = given", ""),
    "a decorator of its own": ("def charge", "@(lambda function: function)\ndef charge"),
}


@pytest.mark.parametrize("what", SAME)
def test_what_decides_nothing_does_not_count(declare: Declare, what: str) -> None:
    assert _fingerprints(declare, *SAME[what])


@pytest.mark.parametrize("what", CHANGED)
def test_what_decides_counts(declare: Declare, what: str) -> None:
    assert not _fingerprints(declare, *CHANGED[what])


def _fingerprints(declare: Declare, old: str, new: str) -> bool:
    """Whether the task has the same fingerprint with *new* in place of *old*."""
    assert BODY.count(old) == 1
    before, after = (declare(body, head=HEAD, bank=BANK) for body in (BODY, BODY.replace(old, new)))
    return source_of(before) == source_of(after)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("_really(cents)\n\ndef", "_really(-cents)\n\ndef", False),
        ("tell(text: str) -> None:\n    pass", "tell(text: str) -> None:\n    print(text)", False),
        ("_really(cents: int) -> None:\n    pass", "_really(cents: int) -> None:\n    return", True),
    ],
)
def test_functions_of_other_modules_of_the_package_count_those_behind_them_do_not(
    declare: Declare, old: str, new: str, same: bool
) -> None:
    assert BANK.count(old) == 1
    before, after = (declare(BODY, head=HEAD, bank=bank) for bank in (BANK, BANK.replace(old, new)))
    assert (source_of(before) == source_of(after)) is same


def test_a_job_class_counts_whole(declare: Declare) -> None:
    body = """
@jobs.task
class Charge(Job):
    cents: int
    def perform(self) -> None: self.really()
    def really(self) -> None: {}
"""
    first, second = (
        source_of(declare(body.format(what), head=HEAD, bank=BANK)) for what in ("pass", "return None")
    )
    assert first != second


def test_a_function_without_source_has_a_fingerprint_of_what_it_was_compiled_to() -> None:
    jobs = Tasks()
    for number, body in enumerate(("1", "2", "1")):
        exec(f"@jobs.task(name='t{number}')\ndef pay() -> None: print({body})", {"jobs": jobs})
    first, second, third = map(source_of, jobs)
    assert first != second
    assert first == third


def test_it_is_64_hex_digits_and_the_same_in_every_process(declare: Declare) -> None:
    task = declare(BODY, head=HEAD, bank=BANK)
    here, module = source_of(task), task.function.__module__
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            f"from {module} import jobs; from duly.proof.source import source_of; print(source_of(*jobs))",
        ],
        cwd=Path(task.where).parents[1],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert told.strip() == here
    assert len(bytes.fromhex(here)) == 32


def test_a_class_inside_a_function_can_be_read() -> None:
    jobs = Tasks()

    @jobs.task
    class Charge(Job):
        def perform(self) -> None:
            return None

    [task] = jobs
    assert code_of(task).node.name == "Charge"  # type: ignore[union-attr]


# ── mutants ───────────────────────────────────────────────────────────────────────────────────


def blind_to_helpers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(source, "_reached", lambda code: iter([source._tree(code.node, declared=True)]))


def takes_docstrings(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(source, "_without_docstring", lambda body: body)


def takes_layout(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        source, "_tree", lambda node, declared=False: source.ast.dump(node, include_attributes=True)
    )


@pytest.mark.parametrize(
    ("mutant", "old", "new", "same"),
    [
        (blind_to_helpers, *CHANGED["what that calls"], False),
        (takes_docstrings, *SAME["a docstring of what it calls"], True),
        (takes_layout, *SAME["the layout"], True),
    ],
)
def test_a_broken_fingerprint_is_caught(
    declare: Declare,
    monkeypatch: pytest.MonkeyPatch,
    mutant: Callable[[pytest.MonkeyPatch], None],
    old: str,
    new: str,
    same: bool,
) -> None:
    mutant(monkeypatch)
    assert _fingerprints(declare, old, new) is not same
