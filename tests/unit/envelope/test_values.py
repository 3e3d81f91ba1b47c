"""Results are stored as arguments are: exactly, or not at all."""

from __future__ import annotations

from inspect import Parameter
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from duly.envelope.arguments import Limits
from duly.envelope.values import Value
from duly.errors import ArgumentsMisfit, DeclarationError, InvalidArguments

LIMITS = Limits()


class Receipt(BaseModel):
    number: int
    raw: bytes = b"\xff"


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (None, None),
        (int, 3),
        (str, ""),
        (Any, {"a": [1, None]}),
        (Parameter.empty, [True, 1.0]),
        (Receipt, Receipt(number=1)),
        (dict[int, set[str]], {1: {"b", "a"}}),
        (int | None, None),
    ],
)
def test_a_result_comes_back(hint, value):
    result = Value("t", hint)
    body = result.dump(value, LIMITS)
    assert body[:1] == b"{"
    assert result.load(body) == value
    assert type(result.load(body)) is type(value)


@pytest.mark.parametrize(
    ("hint", "value", "said"),
    [
        (int, "many", "t: the result does not fit"),
        (None, 1, "t: the result does not fit"),
        (Any, (1,), "t: the result is of type tuple, and would come back as list"),
        (Any, object(), "t: the result cannot be written as JSON"),
        (Any, [float("nan")], r"the result\[0\] is not a finite number"),
        (Any, "x" * 70_000, "t: the result: 70,014 bytes as JSON, where 65,536 are allowed"),
    ],
)
def test_a_result_that_would_not_come_back_is_refused(hint, value, said):
    with pytest.raises(InvalidArguments, match=said):
        Value("t", hint).dump(value, LIMITS)


def test_the_depth_of_a_result_is_counted_from_its_own_containers():
    Value("t", Any).dump([[1]], Limits(depth=2))
    with pytest.raises(InvalidArguments, match="the result nests more than 2 containers"):
        Value("t", Any).dump([[[1]]], Limits(depth=2))


@pytest.mark.parametrize("body", [b"", b"3", b"{}", b'{"v":1}', b'{"v":9,"r":3}', b'{"v":1,"r":"hush"}'])
def test_what_is_no_such_result_is_a_misfit(body):
    with pytest.raises(ArgumentsMisfit) as refused:
        Value("t", int).load(body)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("hint", [object.__new__, "Unresolved", SecretStr])
def test_a_result_type_that_cannot_be_stored_is_refused(hint):
    with pytest.raises(DeclarationError, match=r"^t: its result \("):
        Value("t", hint)
