"""Refusals: what to say when arguments do not fit, without ever saying what they are.

Arguments may be secret, and messages end up in logs: so they name places, types and declared bounds,
never a value. Keys of dicts are values too; only declared names are shown in a path.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from pydantic_core import ErrorDetails, ValidationError

from duly.envelope.difference import ANNOTATE, Difference
from duly.envelope.shape import Shape

_MOST_SHOWN = 3
_FLUSHED = "an id is None until the object was flushed: session.flush() first"
_MISSING = ("missing", "missing_argument")
_WANTS_ID = ("int_type", "uuid_type", "string_type")
# Errors whose text is made of the declaration and of types and lengths alone. Others quote some input.
_DISCREET = frozenset(
    """
    missing missing_argument extra_forbidden unexpected_keyword_argument frozen_field
    int_type int_parsing int_parsing_size int_from_float float_type float_parsing finite_number
    bool_type bool_parsing string_type string_sub_type string_unicode string_too_short string_too_long
    string_pattern_mismatch bytes_type bytes_too_short bytes_too_long none_required
    list_type tuple_type set_type frozen_set_type dict_type mapping_type iterable_type too_long too_short
    model_type model_attributes_type dataclass_type dataclass_exact_type is_instance_of is_subclass_of
    callable_type enum literal_error uuid_type uuid_version date_type date_parsing date_from_datetime_inexact
    date_past date_future time_type time_parsing datetime_type datetime_parsing datetime_past
    datetime_future timezone_naive timezone_aware time_delta_type time_delta_parsing
    decimal_type decimal_parsing decimal_max_digits decimal_max_places decimal_whole_digits
    greater_than greater_than_equal less_than less_than_equal multiple_of
    union_tag_not_found recursion_loop complex_type url_type
    """.split()  # noqa: SIM905 - seventy names, read as text
)


def of_validation(fault: ValidationError, shape: Shape, noun: str) -> str:
    """What is wrong, place by place: at most three places, one sentence for each."""
    places: dict[str, list[ErrorDetails]] = {}
    for detail in fault.errors(include_url=False, include_context=False):
        places.setdefault(_place(detail, shape, noun), []).append(detail)
    shown = [f"{path} {_sentence(details)}" for path, details in places.items()][:_MOST_SHOWN]
    more = len(places) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def of_difference(found: Difference, names: Collection[str], noun: str) -> str:
    """Where, what, and what to do."""
    return f"{path_of(found.path, names, noun)} {found.problem}; {found.remedy}"


def of_writing(fault: Exception) -> str:
    """Why something could not be written as JSON. The serializer's own text may quote it, so it is only read."""
    if "surrogates not allowed" in str(fault):
        return "holds a lone surrogate, which is not text; pass bytes, or clean the text first"
    return f"cannot be written as JSON ({type(fault).__qualname__}); {ANNOTATE}"


def path_of(steps: Sequence[int | str], names: Collection[str], noun: str) -> str:
    """A place as one would write it in Python; what is neither a declared name nor an index is ``[…]``."""
    if not steps:
        return noun
    path = "".join(_step(step, names) for step in steps)
    return path.removeprefix(".") if path.startswith(".") else f"{noun}{path}"


def _place(detail: ErrorDetails, shape: Shape, noun: str) -> str:
    """Where an error is. A number may be a key, that is, a value: it is shown where it must be an index."""
    steps = [step if shape.indexed or isinstance(step, str) else "" for step in detail["loc"][1:]]
    return path_of(steps, shape.names, noun)


def _step(step: int | str, names: Collection[str]) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if step in names else "[…]"


def _sentence(details: list[ErrorDetails]) -> str:
    """One sentence for all that is said of one place: of a union, each member has its say."""
    kinds = [detail["type"] for detail in details]
    given: Any = details[0]["input"]
    if kinds[0] in _MISSING:
        return "is missing"
    said = dict.fromkeys(_said(detail) for detail in details)
    text = f"does not fit: {' or '.join(said)}"
    if given is None and any(kind in _WANTS_ID for kind in kinds):
        return f"{text}, not None ({_FLUSHED})"
    return f"{text} (it is of type {type(given).__qualname__})"


def _said(detail: ErrorDetails) -> str:
    if detail["type"] == "json_invalid":
        return "it is not JSON that can be read: cut short, nested too deep, or with a number too long"
    return detail["msg"] if detail["type"] in _DISCREET else f"its type refuses it as {detail['type']}"
