"""Whatever is accepted comes back the very same; whatever would not is refused with a Duly error."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, NotRequired
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, computed_field
from pydantic import Field as Bound
from typing_extensions import TypedDict

from duly.envelope.arguments import Arguments, Field, Limits, SealedOptions
from duly.envelope.difference import difference
from duly.errors import InvalidArguments

LIMITS = Limits()
NONE = SealedOptions()


def there_and_back(arguments: Arguments, value: Any) -> Any:
    return arguments.load(arguments.dump({"x": value}, NONE, LIMITS))[0]["x"]


def exactly(a: Any, b: Any) -> bool:
    """Sameness written a second time, in other words, so that ``difference`` is not its own witness."""
    if type(a) is not type(b):
        return False
    if isinstance(a, datetime | time):
        return a.isoformat() == b.isoformat()
    if isinstance(a, BaseModel):
        return exactly(a.__dict__, b.__dict__) and exactly(a.__pydantic_extra__, b.__pydantic_extra__)
    if hasattr(a, "__dataclass_fields__"):
        return all(exactly(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)
    if isinstance(a, dict):
        return exactly(list(a.items()), list(b.items()))
    if isinstance(a, set | frozenset):
        return len(a) == len(b) and all(any(exactly(x, y) for y in b) for x in a)
    if isinstance(a, list | tuple | deque):
        return len(a) == len(b) and all(map(exactly, a, b))
    return repr(a) == repr(b)


class Word(StrEnum):
    YES = "yes"
    NO = "no"


class Level(IntEnum):
    LOW = 0
    HIGH = 1


class Odd(Enum):
    NOTHING = None
    TEXT = "text"
    NUMBER = 7


@dataclass
class Data:
    raw: bytes
    tags: frozenset[str] = frozenset()
    seen: dict[int, Decimal] = field(default_factory=dict)

    @cached_property
    def size(self) -> int:
        return len(self.raw)


class Named(NamedTuple):
    number: int
    raw: bytes


class Typed(TypedDict):
    type: bytes
    name: NotRequired[set[str]]


class Inner(BaseModel):
    model_config = ConfigDict(ser_json_bytes="utf8", val_json_bytes="hex", ser_json_timedelta="float")
    raw: bytes
    span: timedelta = timedelta(0)
    below: list[Inner] = []


class Aliased(BaseModel):
    model_config = ConfigDict(extra="allow")
    number: int = Bound(alias="theNumber")

    @computed_field
    def double(self) -> int:
        return self.number * 2


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
INTS = st.integers() | st.integers(min_value=-(10**400), max_value=10**400)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
RAW = st.binary(max_size=8)
ZONES = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-11))])
BERLIN = ZoneInfo("Europe/Berlin")
MOMENTS = st.datetimes(min_value=datetime(1, 1, 2), timezones=ZONES)  # noqa: DTZ001
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | INTS | FLOATS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
DATA = st.builds(Data, RAW, st.frozensets(TEXT, max_size=3), st.dictionaries(INTS, DECIMALS, max_size=2))
INNER = st.builds(Inner, raw=RAW, span=st.timedeltas())
TYPED = st.fixed_dictionaries({"type": RAW}, optional={"name": st.sets(TEXT, max_size=3)}).map(
    lambda given: {key: given[key] for key in ("type", "name") if key in given}  # as validation orders them
)

CASES: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "any": (Any, JSON),
    "str": (str, TEXT),
    "int": (int, INTS),
    "float": (float, FLOATS),
    "bool": (bool, st.booleans()),
    "bytes": (bytes, st.binary(max_size=50)),
    "datetime": (datetime, MOMENTS),
    "date": (date, st.dates()),
    "time": (time, st.times(timezones=ZONES)),
    "timedelta": (timedelta, st.timedeltas()),
    "decimal": (Decimal, DECIMALS),
    "uuid": (UUID, st.uuids()),
    "str enum": (Word, st.sampled_from(Word)),
    "int enum": (Level, st.sampled_from(Level)),
    "odd enum": (Odd, st.sampled_from(Odd)),
    "literal": (Literal[1, "1", "a"] | None, st.sampled_from([1, "1", "a", None])),
    "path": (Path, TEXT.map(Path)),
    "pure path": (PurePosixPath, TEXT.map(PurePosixPath)),
    "optional": (datetime | None, st.none() | MOMENTS),
    "numbers": (int | float | bool, INTS | FLOATS | st.booleans()),
    "union": (int | str | list[int], INTS | TEXT | st.lists(INTS, max_size=3)),
    "list": (list[bytes], st.lists(RAW, max_size=3)),
    "tuple": (tuple[int, bytes, Decimal], st.tuples(INTS, RAW, DECIMALS)),
    "tuple of any length": (tuple[UUID, ...], st.lists(st.uuids(), max_size=3).map(tuple)),
    "set": (set[int | str], st.sets(INTS | TEXT, max_size=5)),
    "set of numbers": (set[float | int | bool], st.sets(FLOATS | INTS | st.booleans(), max_size=5)),
    "frozenset": (frozenset[tuple[str, bytes]], st.frozensets(st.tuples(TEXT, RAW), max_size=4)),
    "deque": (deque[date], st.lists(st.dates(), max_size=3).map(deque)),
    "dict": (dict[str, list[int]], st.dictionaries(TEXT, st.lists(INTS, max_size=2), max_size=3)),
    "dict by int": (dict[int, int], st.dictionaries(INTS, INTS, max_size=3)),
    "dict by float": (dict[float, int], st.dictionaries(FLOATS, INTS, max_size=3)),
    "dict by bytes": (dict[bytes, int], st.dictionaries(RAW, INTS, max_size=3)),
    "dict by uuid": (dict[UUID, int], st.dictionaries(st.uuids(), INTS, max_size=3)),
    "dict by date": (dict[date, int], st.dictionaries(st.dates(), INTS, max_size=3)),
    "dict by datetime": (dict[datetime, int], st.dictionaries(MOMENTS, INTS, max_size=3)),
    "dict by decimal": (dict[Decimal, int], st.dictionaries(DECIMALS, INTS, max_size=3)),
    "dict by enum": (dict[Word, int], st.dictionaries(st.sampled_from(Word), INTS, max_size=2)),
    "ordered dict": (OrderedDict[str, int], st.dictionaries(TEXT, INTS, max_size=3).map(OrderedDict)),
    "counter": (Counter[str], st.lists(TEXT, max_size=5).map(Counter)),
    "mapping": (Mapping[str, bytes], st.dictionaries(TEXT, RAW, max_size=3)),
    "sequence": (Sequence[bytes], st.lists(RAW, max_size=3)),
    "dataclass": (Data, DATA),
    "named tuple": (Named, st.builds(Named, INTS, RAW)),
    "typed dict": (Typed, TYPED),
    "model": (Inner, INNER),
    "model in a model": (Inner, st.builds(Inner, raw=RAW, below=st.lists(INNER, max_size=2))),
    "models in everything": (
        dict[str, tuple[Data | Inner | None, ...]],
        st.dictionaries(TEXT, st.lists(DATA | INNER | st.none(), max_size=2).map(tuple), max_size=2),
    ),
    "aliases and extras": (
        Aliased,
        st.builds(lambda n, extra: Aliased(theNumber=n, extra=extra), INTS, JSON),
    ),
}
DECLARED = {name: Arguments("t", {"x": Field(hint, True)}) for name, (hint, _) in CASES.items()}


@pytest.mark.parametrize("case", CASES)
@given(data=st.data())
def test_it_comes_back_the_very_same(case, data):
    value = data.draw(CASES[case][1])
    assert exactly(value, there_and_back(DECLARED[case], value))


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | INTS
    | st.floats()
    | st.text()
    | RAW
    | MOMENTS
    | st.datetimes()
    | DECIMALS
    | st.uuids()
    | st.sampled_from(Word)
    | st.sampled_from(Level)
    | st.builds(Named, INTS, RAW)
    | INNER
    | DATA,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(TEXT | INTS | st.booleans() | FLOATS, inner, max_size=3)
        | st.builds(Data, inner)
    ),
    max_leaves=6,
)
DECLARATIONS = [
    Any, object, str, int, float, bytes, str | bytes | None, int | float | Decimal, list[Any], dict[str, Any],
    list[int | str | datetime], dict[int | str, Any], tuple[Any, ...], Data, Inner, Named, date | datetime,
    Word | str, Level | int | bool, set[int | str | bool], UUID | str,
]  # fmt: skip
STRANGE = [Arguments("t", {"x": Field(hint, True)}) for hint in DECLARATIONS]


@given(st.sampled_from(STRANGE), ANYTHING)
def test_anything_for_any_type_is_stored_exactly_or_refused(arguments, value):
    """What is stored is the validated value: storing what came back changes nothing any more."""
    try:
        body = arguments.dump({"x": value}, NONE, LIMITS)
    except InvalidArguments:
        return
    back = arguments.load(body)[0]["x"]
    assert arguments.dump({"x": back}, NONE, LIMITS) == body
    assert exactly(arguments.load(body)[0]["x"], back)


@given(JSON)
def test_any_json_value_is_accepted_under_any(value):
    assert exactly(there_and_back(DECLARED["any"], value), value)


# ── sameness ──────────────────────────────────────────────────────────────────────────────────


@given(ANYTHING, ANYTHING)
def test_values_that_differ_are_seen_to_differ(a, b):
    if difference(a, b, 99) is None:
        assert exactly(a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        ([0.0], [-0.0]),
        (complex(0, 0.0), complex(0, -0.0)),
        (Decimal("1.0"), Decimal("1.00")),
        (Decimal(0), Decimal("-0")),
        ({1}, {True}),
        (frozenset({0}), frozenset({False})),
        ({1: "a"}, {True: "a"}),
        ({1: "a"}, {1.0: "a"}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1}, OrderedDict(a=1)),
        ([1], [1, 2]),
        ((1,), [1]),
        (Named(1, b""), (1, b"")),
        (deque([1], maxlen=1), deque([1])),
        (defaultdict(list), defaultdict(int)),
        (Level.HIGH, 1),
        (Word.YES, "yes"),
        ("a", "b"),
        (b"a", "a"),
        (Data(b"a"), Data(b"b")),
        (Inner(raw=b"a"), Inner(raw=b"b")),
        (Aliased(theNumber=1, a=1), Aliased(theNumber=1)),
        (Aliased(theNumber=1, a=1), Aliased(theNumber=1, a=True)),
        (datetime(2026, 1, 1, 12, tzinfo=UTC), datetime(2026, 1, 1, 13, tzinfo=timezone(timedelta(hours=1)))),
        (time(12, tzinfo=UTC), time(13, tzinfo=timezone(timedelta(hours=1)))),
        (object(), object()),
    ],
)
def test_what_equality_lets_pass_is_a_difference(a, b):
    assert difference(a, b, 9) is not None
    assert difference(b, a, 9) is not None


def test_an_equality_that_breaks_is_a_difference():
    class Broken:
        def __eq__(self, other):
            raise RuntimeError

        __hash__ = None

    assert difference(Broken(), Broken(), 9) is not None


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, Decimal("NaN"), Decimal("Infinity"), [math.nan]]
)
def test_numbers_that_are_not_finite_differ_even_from_themselves(value):
    assert difference(value, value, 9).problem == "is not a finite number"


def test_zones_come_back_as_the_offset_they_had_even_around_a_clock_change():
    twice = [datetime(2026, 10, 25, 2, 30, fold=fold, tzinfo=BERLIN) for fold in (0, 1)]
    back = [there_and_back(DECLARED["datetime"], each) for each in twice]
    assert [each.isoformat() for each in back] == ["2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00"]


def test_an_offset_with_seconds_is_refused_rather_than_rounded():
    with pytest.raises(InvalidArguments, match="another value"):
        there_and_back(DECLARED["datetime"], datetime(1800, 1, 1, tzinfo=BERLIN))


def test_cached_properties_are_no_lost_attributes():
    value = Data(b"abc")
    assert value.size == 3
    assert there_and_back(DECLARED["dataclass"], value) == value


def test_bytes_in_every_kind_of_container_come_back():
    raw = bytes(range(256))
    everything = {
        "dataclass": Data(raw),
        "named tuple": Named(1, raw),
        "typed dict": {"type": raw},
        "model": Inner(raw=raw, below=[Inner(raw=raw)]),
    }
    for case, value in everything.items():
        assert exactly(there_and_back(DECLARED[case], value), value)
