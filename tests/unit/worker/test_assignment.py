"""Pools, and the assignments that follow from them."""

from __future__ import annotations

from typing import Any

import pytest

from duly import Duly, Pool
from duly.errors import SettingsError
from duly.settings import Settings
from duly.worker.assignment import assign
from duly.worker.memory import resident
from duly.worker.queues import Selection


@pytest.mark.parametrize(
    ("text", "pool"),
    [
        ("mail,reports:2", Pool(("mail", "reports"), 2)),
        ("*:1", Pool()),
        ("mail", Pool(("mail",), 1)),
        (" mail , rep* : 3 ", Pool(("mail", "rep*"), 3)),
    ],
)
def test_pools_in_words(text: str, pool: Pool) -> None:
    assert Pool.parse(text) == pool


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mail:", "after the colon"),
        ("mail:two", "after the colon"),
        ("mail:-1", "after the colon"),
        (":2", "which queues"),
        ("", "which queues"),
        ("mail:0", "from 1 to 256, not 0"),
        ("mail:257", "from 1 to 256, not 257"),
        ("ma*l:1", "may end in"),
        ("mail,,x:1", "queues"),
    ],
)
def test_pools_that_cannot_be_say_why(text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Pool.parse(text)


def test_a_pool_of_a_text_is_a_slip() -> None:
    with pytest.raises(SettingsError, match=r"Pool\(\['mail'\]\)"):
        Pool("mail")
    with pytest.raises(SettingsError, match="whole number"):
        Pool(["mail"], True)


def test_each_process_of_each_pool_has_its_assignment() -> None:
    settings = Settings(threads=3, max_jobs=7, grace=2.0)
    made = assign(settings, [Pool(["mail"], 2), Pool()], True)
    assert [str(some) for some in made] == ["mail", "mail", "*"]
    assert {(some.threads, some.max_jobs, some.grace, some.until_empty) for some in made} == {
        (3, 7, 2.0, True)
    }
    assert made[0].lanes == 3 + settings.coroutines


def test_suspects_run_alone() -> None:
    made = assign(Settings(), [Pool(["mail"])], False)[0].of_suspects(Selection(["mail", "rep*"]))
    assert (made.threads, made.coroutines, made.suspects, str(made)) == (1, 1, True, "mail,rep* (suspects)")


def test_memory_that_is_in_use_already_is_no_limit() -> None:
    assert 10 < resident() < 10_000
    with pytest.raises(SettingsError, match="before its first job"):
        assign(Settings(max_memory=5), [Pool()], False)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"pools": [Pool()], "processes": 2}, "not both"),
        ({"pools": [Pool()], "queues": ["mail"]}, "not both"),
        ({"pools": []}, "at least one"),
        ({"max_jobs": -1}, "max_jobs: must be a whole number"),
        ({"processes": 0}, "processes: must be a whole number"),
        ({"queues": ["ma*l"]}, "may end in"),
    ],
)
def test_supervise_refuses_what_cannot_be_before_it_starts(
    given: dict[str, Any], words: str, tmp_path: Any
) -> None:
    app = Duly(f"sqlite:///{tmp_path / 'jobs.db'}")
    with pytest.raises(SettingsError, match=words):
        app.supervise(**given)
    app.close()
