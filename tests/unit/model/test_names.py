"""Names of tasks and queues."""

from __future__ import annotations

from typing import Any

import pytest

from duly.model.names import check_name


@pytest.mark.parametrize("name", ["a", "9", "_", "A.b-c_9", "x" * 200, "shop.tasks.Mail.send"])
def test_a_legal_name_comes_back_as_it_is(name: str) -> None:
    assert check_name("queue", name) is name


@pytest.mark.parametrize(
    "name", ["", ".a", "-a", "a b", "a\n", "a\x00", "ä", "a/b", "a'b", "*", "x" * 201, "a\u200b", "a%", "٣"]
)
def test_an_odd_name_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(ValueError, match="letters, digits") as fault:
        check_name("queue", name)
    assert len(str(fault.value)) < 250


@pytest.mark.parametrize("name", [None, 5, b"a", ["a"]])
def test_what_is_no_text_is_refused(name: Any) -> None:
    with pytest.raises(TypeError, match="must be a name"):
        check_name("queue", name)
