"""Differences: whether a value that went to JSON and back is the same, strictly, and if not, where and why.

Equality is too weak for this: ``True == 1 == 1.0``, ``0.0 == -0.0``, a subclass may equal its base, and
two datetimes are equal at different offsets. So types must be the same all the way down, and each
kind of value has its rule. One walk both decides and, only when something is off, says where: a
difference gets its path while the recursion unwinds, so that the usual case pays nothing for it.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import cached_property, lru_cache
from inspect import getattr_static
from math import copysign, isfinite
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Secret, SecretBytes, SecretStr

SECRETS = (SecretStr, SecretBytes, Secret)
SECRETS_WAIT = (
    "sensitive arguments need sealing support that is not there yet; pass an id and look the secret up"
)
ANNOTATE = "annotate it with its exact type, or pass plain JSON values"
FLATTEN = "pass fewer levels, or an id to look the data up by"


@dataclasses.dataclass(slots=True)
class Difference:
    """Why a value is refused: what is wrong and what to do, and the steps from the argument to it."""

    problem: str
    remedy: str
    path: list[int | str] = dataclasses.field(default_factory=list)

    def within(self, step: int | str) -> Difference:
        """The same, seen from one container further out."""
        self.path.insert(0, step)
        return self


def difference(a: Any, b: Any, room: int) -> Difference | None:
    """None when *b* is the very same value as *a*; else the first difference.

    *room* is how many containers may still be nested here, so that the recursion is bounded. Some
    values are refused even if they come back: naive datetimes and times, numbers that are not finite.
    So a value that differs from itself is one that can never be stored.
    """
    kind = type(a)
    if kind is not type(b):
        return _other_type(kind, type(b))
    if kind in _EQUAL_IS_SAME:
        return None if a == b else _other_value(kind)
    return _rule_for(kind)(a, b, room)  # type: ignore[arg-type]  # a type is hashable


Rule = Callable[[Any, Any, int], "Difference | None"]

_EQUAL_IS_SAME = frozenset({str, int, bool, type(None), bytes, UUID, date, timedelta})
_NAMELESS = ""  # the step into a set, or to a key that is no declared name


@lru_cache(1024)
def _rule_for(kind: type) -> Rule:
    """The rule of a type: the first in ``_RULES`` that it is a subclass of."""
    if issubclass(kind, SECRETS):
        return _secret
    if dataclasses.is_dataclass(kind):
        return _dataclass
    return next((rule for base, rule in _RULES if issubclass(kind, base)), _by_equality)


# ── containers ────────────────────────────────────────────────────────────────────────────────


def _mapping(a: dict[Any, Any], b: dict[Any, Any], room: int) -> Difference | None:
    """Keys, values and their order, which JSON keeps too."""
    if room <= 0:
        return Difference("is nested too deep", FLATTEN)
    if len(a) != len(b):
        return _other_value(type(a))
    for (key, value), (other_key, other) in zip(a.items(), b.items(), strict=True):
        found = difference(key, other_key, room - 1)
        if found:
            return found.within(_NAMELESS)
        found = difference(value, other, room - 1)
        if found:
            return found.within(key if type(key) is str else _NAMELESS)
    if isinstance(a, defaultdict) and a.default_factory is not b.default_factory:  # type: ignore[attr-defined]
        return Difference("has a default_factory that would be another", ANNOTATE)
    return None


def _sequence(a: Any, b: Any, room: int) -> Difference | None:
    if room <= 0:
        return Difference("is nested too deep", FLATTEN)
    if len(a) != len(b):
        return _other_value(type(a))
    for place, (value, other) in enumerate(zip(a, b, strict=True)):
        found = difference(value, other, room - 1)
        if found:
            return found.within(place)
    if isinstance(a, deque) and a.maxlen != b.maxlen:
        return Difference("has a maxlen, which would be lost", "pass a list")
    return None


def _set(a: Any, b: Any, room: int) -> Difference | None:
    """Each member against the one that equals it: ``{1}`` equals ``{True}`` and is not the same."""
    if room <= 0:
        return Difference("is nested too deep", FLATTEN)
    if len(a) != len(b):
        return _other_value(type(a))
    others = {other: other for other in b}
    for value in a:
        if value not in others:
            return _other_value(type(value)).within(_NAMELESS)
        found = difference(value, others[value], room - 1)
        if found:
            return found.within(_NAMELESS)
    return None


def _model(a: BaseModel, b: BaseModel, room: int) -> Difference | None:
    """Fields, extra fields and private attributes; which fields were set explicitly is not kept."""
    if room <= 0:
        return Difference("is nested too deep", FLATTEN)
    found = _attributes(a.__dict__, b.__dict__, type(a).__pydantic_fields__, room)
    if found is None and (a.__pydantic_extra__ or b.__pydantic_extra__):
        found = _mapping(a.__pydantic_extra__ or {}, b.__pydantic_extra__ or {}, room)
    if found is None and (a.__pydantic_private__ or b.__pydantic_private__):
        found = _mapping(a.__pydantic_private__ or {}, b.__pydantic_private__ or {}, room)
        return found and Difference("has private attributes, which would be lost", "make them fields")
    return found


def _dataclass(a: Any, b: Any, room: int) -> Difference | None:
    if room <= 0:
        return Difference("is nested too deep", FLATTEN)
    kind: Any = type(a)
    for name in _field_names(kind):
        found = difference(getattr(a, name, _ABSENT), getattr(b, name, _ABSENT), room - 1)
        if found:
            return found.within(name)
    return _lost_attribute(a)


def _attributes(
    a: Mapping[str, Any], b: Mapping[str, Any], names: Iterable[str], room: int
) -> Difference | None:
    for name in names:
        found = difference(a.get(name, _ABSENT), b.get(name, _ABSENT), room - 1)
        if found:
            return found.within(name)
    return None


@lru_cache(1024)
def _field_names(kind: Hashable) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))  # type: ignore[arg-type]


def _lost_attribute(a: Any) -> Difference | None:
    """What was hung on an instance beside its fields would be lost; cached properties come again."""
    kind: Any = type(a)
    beside = getattr(a, "__dict__", {}).keys() - set(_field_names(kind))
    if all(isinstance(getattr_static(kind, name, None), cached_property) for name in beside):
        return None
    return Difference("has attributes that are no fields, which would be lost", "declare them as fields")


class _Absent:
    """The type of what is not there; told apart from None."""


_ABSENT = _Absent()


# ── single values ─────────────────────────────────────────────────────────────────────────────


def _float(a: float, b: float, _room: int) -> Difference | None:
    if not isfinite(a):
        return Difference("is not a finite number", "pass None, or leave it out")
    return None if a == b and copysign(1, a) == copysign(1, b) else _other_value(type(a))


def _decimal(a: Decimal, b: Decimal, _room: int) -> Difference | None:
    if not a.is_finite():
        return Difference("is not a finite number", "pass None, or leave it out")
    return None if a.as_tuple() == b.as_tuple() else _other_value(type(a))


def _moment(a: datetime | time, b: datetime | time, _room: int) -> Difference | None:
    """The same reading at the same offset; ``==`` between zones is False around a clock change."""
    if a.utcoffset() is None:
        example = "datetime.now(UTC)" if isinstance(a, datetime) else "time(9, tzinfo=UTC)"
        return Difference(f"is a {type(a).__name__} without a time zone", f"give it one, e.g. {example}")
    same = a.utcoffset() == b.utcoffset() and a.replace(tzinfo=None, fold=0) == b.replace(tzinfo=None, fold=0)
    return None if same else _other_value(type(a))


def _enum(a: Enum, b: Enum, _room: int) -> Difference | None:
    return None if a is b else _other_value(type(a))


def _by_repr(a: object, b: object, _room: int) -> Difference | None:
    return None if repr(a) == repr(b) else _other_value(type(a))


def _secret(_a: object, _b: object, _room: int) -> Difference | None:
    return Difference("is a secret", SECRETS_WAIT)


def _absent(_a: object, _b: object, _room: int) -> None:
    return None


def _by_equality(a: Any, b: Any, _room: int) -> Difference | None:
    try:
        same = a == b
    except Exception:  # noqa: BLE001 - the __eq__ of a class we do not know; unequal is the safe answer
        same = False
    return None if same is True else _other_value(type(a))


# A subclass stands before its base.
_RULES: tuple[tuple[type, Rule], ...] = (
    (Enum, _enum),
    (BaseModel, _model),
    (dict, _mapping),
    (list, _sequence),
    (tuple, _sequence),
    (deque, _sequence),
    (set, _set),
    (frozenset, _set),
    (float, _float),
    (complex, _by_repr),
    (Decimal, _decimal),
    (datetime, _moment),
    (time, _moment),
    (_Absent, _absent),
)


# ── words ─────────────────────────────────────────────────────────────────────────────────────


def _other_type(kind: type, other: type) -> Difference:
    if issubclass(kind, SECRETS):
        return Difference("is a secret", SECRETS_WAIT)
    if issubclass(kind, float) and other is type(None):  # what JSON makes of NaN and infinity
        return Difference("is not a finite number", "pass None, or leave it out")
    if issubclass(kind, other) and other is not object:
        return Difference(
            f"is of type {kind.__qualname__}, and would come back as its base {other.__qualname__}",
            f"declare {kind.__qualname__}, or pass a plain {other.__qualname__}",
        )
    return Difference(
        f"is of type {kind.__qualname__}, and would come back as {other.__qualname__}", ANNOTATE
    )


def _other_value(kind: type) -> Difference:
    return Difference(f"is of type {kind.__qualname__}, and would come back with another value", ANNOTATE)
