import pytest

from duly.errors import SettingsError
from duly.worker.queues import Selection


def test_all_queues_are_those_that_have_jobs() -> None:
    everything = Selection()
    assert everything.open
    assert everything.among(["b", "a"]) == ["b", "a"]
    assert everything.among([]) == []


def test_named_queues_need_no_look() -> None:
    named = Selection(["mail", "reports", "mail"])
    assert not named.open
    assert named.among([]) == ["mail", "reports"]
    assert str(named) == "mail,reports"


def test_a_pattern_takes_what_it_matches_once() -> None:
    some = Selection(["mail", "mail-*"])
    assert some.open
    assert some.among(["mail-eu", "mail", "reports", "mail-us"]) == ["mail", "mail-eu", "mail-us"]


@pytest.mark.parametrize("pattern", ["", "a b", "*a", "a*b", "a?", "[ab]", "-a", "a**", "x" * 201])
def test_odd_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(SettingsError, match="queues"):
        Selection([pattern])


def test_no_queue_at_all_is_refused() -> None:
    with pytest.raises(SettingsError, match="at least one"):
        Selection([])


def test_an_unknown_queue_is_an_error_with_a_hint() -> None:
    with pytest.raises(SettingsError, match="did you mean 'mail'"):
        Selection(["mial"]).check_known(["mail", "default"])
    with pytest.raises(SettingsError, match="'rep"):
        Selection(["rep*"]).check_known(["mail"])
    Selection(["*", "ma*", "default"]).check_known(["mail", "default"])
