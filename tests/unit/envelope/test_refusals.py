"""What would not come back as it went is refused at enqueue, in words that say where and never what."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, PrivateAttr, SecretStr
from pydantic import Field as Bound

from duly.envelope.arguments import Arguments, Field, Limits, SealedOptions
from duly.errors import InvalidArguments

LIMITS, NONE = Limits(), SealedOptions()


def taking(hint: Any, required: bool = True) -> Arguments:
    return Arguments("shop.send", {"x": Field(hint, required)})


def stored(hint: Any, value: Any) -> Any:
    arguments = taking(hint)
    return arguments.load(arguments.dump({"x": value}, NONE, LIMITS))[0]["x"]


def refusal(hint: Any, value: Any, limits: Limits = LIMITS) -> str:
    arguments = taking(hint)
    with pytest.raises(InvalidArguments) as refused:
        arguments.dump({"x": value}, NONE, limits)
    # A pydantic error in the chain would show what it refused in any log of the traceback.
    assert refused.value.__cause__ is refused.value.__context__ is None
    return str(refused.value)


class Opaque:
    pass


def test_a_missing_and_an_unknown_argument_are_named():
    arguments = Arguments("shop.send", {"user_id": Field(int, True), "kind": Field(str, False)})
    with pytest.raises(InvalidArguments, match="user_id is missing"):
        arguments.dump({"kind": "x"}, NONE, LIMITS)
    with pytest.raises(InvalidArguments, match=r"'user_ids'; did you mean 'user_id'\?"):
        arguments.dump({"user_ids": 1}, NONE, LIMITS)


@pytest.mark.parametrize("hint", [int, UUID, str, int | UUID])
def test_none_for_an_id_is_explained(hint):
    assert "session.flush()" in refusal(hint, None)


def test_none_where_no_id_could_be_is_not_explained_as_one():
    assert "flush" not in refusal(list[int], None)


class Base(BaseModel):
    a: int = 1


class Sub(Base):
    more: int = 2


class Private(BaseModel):
    _hidden: int = PrivateAttr(0)

    @classmethod
    def hiding(cls, value):
        made = cls()
        made._hidden = value
        return made


class OwnJson(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")
    f: float


class Color(Enum):
    RED = (255, 0, 0)


@dataclass
class Point:
    x: Any
    y: int = 0


def with_attribute():
    point = Point(1)
    point.z = 3
    return point


NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001
INF = float("inf")


@pytest.mark.parametrize(
    ("hint", "value", "said"),
    [
        (int, "many", "x does not fit: Input should be a valid integer"),
        (list[int], [1, "many"], r"x\[1\] does not fit"),
        (Point, {"x": 1, "y": "many"}, "x.y does not fit"),
        (dict[str, list[int]], {"k": ["many"]}, r"x\[…\]\[0\] does not fit"),
        (datetime, NAIVE, "x is a datetime without a time zone; give it one"),
        (Any, NAIVE, "x is of type datetime, and would come back as str"),
        (list[Point], [Point(1), Point(NAIVE)], r"x\[1\].x is of type datetime"),
        (dict[datetime, int], {NAIVE: 1}, r"x\[…\] is a datetime without a time zone"),
        (set[datetime], {NAIVE}, r"x\[…\] is a datetime without a time zone"),
        (time, time(9), "x is a time without a time zone; give it one"),
        (float, float("nan"), "x is not a finite number"),
        (float | None, INF, "x is not a finite number"),
        (OwnJson, OwnJson(f=INF), "x.f is not a finite number"),
        (Any, {"k": [-INF]}, r"x\[…\]\[0\] is not a finite number"),
        (Any, (1, 2), "x is of type tuple, and would come back as list; annotate it"),
        (Any, {1: 2}, r"x\[…\] is of type int, and would come back as str"),
        (Any, {1}, "x is of type set, and would come back as list"),
        (Any, b"x", "x is of type bytes, and would come back as str"),
        (Any, Base(), "x is of type Base, and would come back as dict"),
        (Any, uuid4(), "x is of type UUID, and would come back as str"),
        (Any, Opaque(), "x cannot be written as JSON"),
        (Any, SecretStr("hush"), "x is a secret"),
        (object, b"\xff", "x is of type bytes, and would come back as str"),
        (str | bytes, b"x", "x is of type bytes, and would come back as str"),
        (Base, Sub(), "x is of type Sub, and would come back as its base Base; declare Sub"),
        (list[Base], [Base(), Sub()], r"x\[1\] is of type Sub"),
        (Private, Private.hiding(3), "x has private attributes"),
        (Point, with_attribute(), "x has attributes that are no fields"),
        (Point, Point(1, "2"), "x.y is of type str, and would come back as int"),
        (str, "a\ud800", "x holds a lone surrogate, which is not text"),
        (Any, ["a\udfff"], "x holds a lone surrogate"),
        (Any, [10**5000], "number too long"),
        (Color, Color.RED, "x does not fit|would not come back"),
        (Callable, len, "x cannot be written as JSON"),
    ],
)
def test_what_would_not_come_back_is_refused_with_place_and_remedy(hint, value, said):
    told = refusal(hint, value)
    assert told.startswith("shop.send: ")
    assert re.search(said, told), told


def echoing(value):
    raise ValueError(f"got {value}")


def breaking(value):
    raise KeyError(value)


class Tagged(BaseModel):
    kind: Literal["a"]


class Tagged2(BaseModel):
    kind: Literal["b"]


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (int, "hush-hush"),
        (list[int], ["hush-hush"]),
        (dict[str, int], {"hush-hush": "x"}),
        (dict[int, int], {314159: "hush-hush"}),
        (dict[int, Point], {314159: Point(NAIVE)}),
        (UUID, "hush-hush"),
        (datetime, "hush-hush"),
        (timedelta, "hush-hush"),
        (Literal["a", "b"], "hush-hush"),
        (Annotated[str, Bound(max_length=3)], "hush-hush"),
        (Annotated[str, Bound(pattern="^a$")], "hush-hush"),
        (Annotated[str, AfterValidator(echoing)], "hush-hush"),
        (Annotated[str, AfterValidator(breaking)], "hush-hush"),
        (Annotated[Tagged | Tagged2, Bound(discriminator="kind")], {"kind": "hush-hush"}),
        (Base, {"a": "hush-hush"}),
        (Point, {"x": 1, "hush-hush": 2, "y": "hush-hush"}),
        (Any, {"hush-hush": b"hush-hush"}),
        (Any, "hush-hush\ud800"),
        (Any, SecretStr("hush-hush")),
        (str | bytes, b"hush-hush"),
    ],
)
def test_no_refusal_shows_a_value(hint, value):
    arguments = taking(hint)
    with pytest.raises(InvalidArguments) as refused:
        arguments.dump({"x": value}, NONE, LIMITS)
    told = "".join(traceback.format_exception(refused.value))
    assert "hush-hush" not in told
    assert "314159" not in told


# ── limits ────────────────────────────────────────────────────────────────────────────────────


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"k": value}
    return value


class Node(BaseModel):
    below: Node | None = None


def chain(levels: int) -> Node:
    node = Node()
    for _ in range(levels - 1):
        node = Node.model_construct(below=node)
    return node


@pytest.mark.parametrize("depth", [0, 1, 32, 128])
def test_the_depth_allowed_is_inclusive(depth):
    limits = Limits(depth=depth)
    taking(Any).dump({"x": nested(depth)}, NONE, limits)
    assert f"x nests more than {depth} containers" in refusal(Any, nested(depth + 1), limits)


def test_models_count_as_containers():
    taking(Node).dump({"x": chain(32)}, NONE, LIMITS)
    assert "x nests more than 32 containers" in refusal(Node, chain(33))


@pytest.mark.parametrize("levels", [129, 199, 201, 254, 300, 1_000, 100_000])
def test_a_huge_depth_is_refused_without_recursion(levels):
    assert "nests more than 32 containers" in refusal(Any, nested(levels))
    assert "nests more than 128 containers" in refusal(Any, nested(levels), Limits(depth=10**6, size=10**9))


def test_a_value_that_holds_itself_is_refused():
    loop: list[Any] = []
    loop.append(loop)
    assert "nests more than 32 containers" in refusal(Any, loop)
    ring: dict[str, Any] = {}
    ring["k"] = [ring, ring]
    assert "nests more than 32 containers" in refusal(Any, ring)


def test_the_size_allowed_is_inclusive_and_both_sizes_are_said():
    arguments = taking(str)
    frame = len(arguments.dump({"x": ""}, NONE, LIMITS))
    arguments.dump({"x": "a" * (1_000 - frame)}, NONE, Limits(size=1_000))
    said = refusal(str, "a" * (1_001 - frame), Limits(size=1_000))
    assert "1,001 bytes as JSON, where 1,000 are allowed" in said
    assert "65,536 are allowed" in refusal(bytes, b"\xff" * 60_000)
