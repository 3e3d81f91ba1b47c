"""Arguments go into a body and come out of it; what does not fit is a misfit or a wrong declaration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from inspect import Parameter
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import AfterValidator, BaseModel, Secret, SecretBytes, SecretStr
from pydantic import Field as Bound

from duly.envelope.arguments import Arguments, Field, Limits, SealedOptions
from duly.errors import ArgumentsMisfit, DeclarationError
from duly.model.retry import Backoff

LIMITS, NONE = Limits(), SealedOptions()


def taking(hint: Any, required: bool = True) -> Arguments:
    return Arguments("shop.send", {"x": Field(hint, required)})


def stored(hint: Any, value: Any) -> Any:
    arguments = taking(hint)
    return arguments.load(arguments.dump({"x": value}, NONE, LIMITS))[0]["x"]


# ── the body ──────────────────────────────────────────────────────────────────────────────────


def test_the_body_is_as_documented():
    arguments = Arguments("t", {"user_id": Field(int, True), "kind": Field(str, False)})
    assert arguments.dump({"user_id": 42}, NONE, LIMITS) == b'{"v":1,"a":{"user_id":42},"o":{}}'


def test_only_what_is_given_is_stored_and_comes_back():
    arguments = Arguments("t", {"a": Field(int, True), "b": Field(int, False), "c": Field(int | None, False)})
    for values in ({"a": 1}, {"a": 1, "b": 2}, {"a": 1, "c": None}):
        assert arguments.load(arguments.dump(values, NONE, LIMITS)) == (values, NONE)


def test_what_is_stored_is_the_validated_value():
    assert stored(int, "1") == 1
    assert stored(float, 1) == 1.0
    assert type(stored(float, 1)) is float
    assert stored(UUID, "12345678-1234-5678-1234-567812345678") == UUID(
        "12345678-1234-5678-1234-567812345678"
    )


def test_a_parameter_without_a_hint_takes_what_json_holds():
    value = {"a": [1, True, 1.0, None, "x\0y", {"b": []}]}
    for hint in (Any, Parameter.empty):
        assert repr(stored(hint, value)) == repr(value)


@pytest.mark.parametrize(
    "name",
    [
        "copy",
        "json",
        "_x",
        "model_config",
        "self",
        "type",
        "v",
        "a",
        "o",
        "*ids",
        "**opts",
        "schema",
        "__x",
        "é",
        "cls",
    ],
)
def test_any_parameter_name_will_do(name):
    arguments = Arguments("t", {name: Field(int, True)})
    assert arguments.load(arguments.dump({name: 1}, NONE, LIMITS))[0] == {name: 1}


def test_variadic_parameters_are_fields_like_others():
    arguments = Arguments(
        "t", {"*ids": Field(tuple[int, ...], False), "**opts": Field(dict[str, bool], False)}
    )
    values = {"*ids": (1, 2), "**opts": {"copy": True}}
    assert arguments.load(arguments.dump(values, NONE, LIMITS))[0] == values


def test_options_travel_with_the_arguments():
    options = SealedOptions(
        3, Backoff(power=2, jitter=0.5, cap=60.5), timedelta(seconds=1, microseconds=7), False
    )
    arguments = taking(int)
    body = arguments.dump({"x": 1}, options, LIMITS)
    assert arguments.load(body) == ({"x": 1}, options)
    part = arguments.dump({"x": 1}, SealedOptions(keep_result=True), LIMITS)
    assert json.loads(part)["o"] == {"keep_result": True}
    assert arguments.load(part)[1] == SealedOptions(keep_result=True)


def test_the_same_call_has_the_same_bytes_in_another_process():
    program = """
import sys
from dataclasses import dataclass
from pydantic import BaseModel
from duly.envelope.arguments import *
class Model(BaseModel):
    tags: set[str]
@dataclass
class Data:
    tags: frozenset[tuple[str, str]]
arguments = Arguments("t", {
    "b": Field(set[str], True), "a": Field(Model, True), "c": Field(dict[str, Data], True),
    "d": Field(set[str] | str, True),
})
words = {f"w{i}" for i in range(40)}
values = {"a": Model(tags=words), "d": words, "c": {"x": Data(frozenset((w, w) for w in words))}, "b": words}
body = arguments.dump(values, SealedOptions(), Limits())
assert arguments.load(body)[0] == values
sys.stdout.write(arguments.fingerprint + body.decode())
"""

    def told(seed):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        return subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, check=True, timeout=60
        ).stdout

    assert told("1") == told("2") != b""


def test_the_order_in_which_arguments_are_given_does_not_matter():
    arguments = Arguments("t", {"a": Field(int, True), "b": Field(int, True)})
    assert arguments.dump({"a": 1, "b": 2}, NONE, LIMITS) == arguments.dump({"b": 2, "a": 1}, NONE, LIMITS)


# ── the fingerprint ───────────────────────────────────────────────────────────────────────────


def test_the_fingerprint_follows_names_requiredness_and_types():
    prints = [
        Arguments("t", fields).fingerprint
        for fields in (
            {},
            {"a": Field(int, True)},
            {"b": Field(int, True)},
            {"a": Field(int, False)},
            {"a": Field(str, True)},
            {"a": Field(Any, True)},
            {"a": Field(int, True), "b": Field(int, True)},
            {"a": Field(Annotated[int, Bound(gt=0)], True)},
            {"a": Field(Literal["x"], True)},
        )
    ]
    assert len(set(prints)) == len(prints)
    assert {len(each) for each in prints} == {16}


def test_the_fingerprint_stays_for_what_fits_the_same():
    class Model(BaseModel):
        title: str = "one"

    first = Arguments("t", {"a": Field(Model, True), "b": Field(int, True)}).fingerprint

    class Model(BaseModel):
        """Now it says what it is."""

        title: str = "two"

    assert Arguments("other", {"b": Field(int, True), "a": Field(Model, True)}).fingerprint == first

    class Model(BaseModel):
        title: int = 2

    assert Arguments("t", {"a": Field(Model, True), "b": Field(int, True)}).fingerprint != first


def test_a_type_without_a_json_schema_has_a_fingerprint_without_addresses():
    assert len(taking(Callable[[int], int] | None).fingerprint) == 16
    one, other = (taking(Annotated[Callable, AfterValidator(lambda x: x)]) for _ in range(2))
    assert one.fingerprint == other.fingerprint


# ── declarations ──────────────────────────────────────────────────────────────────────────────


class Opaque:
    pass


class HoldsSecret(BaseModel):
    password: SecretStr | None = None


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        (Opaque, "Opaque"),
        (list[Opaque], "Opaque"),
        (bytearray, "bytearray"),
        ("Unresolved", "could not be resolved"),
        (Iterable[int], "read only once"),
        (SecretStr, "sealing support that is not there yet"),
        (dict[str, SecretBytes | None], "sealing support that is not there yet"),
        (Annotated[Secret[int], "x"], "sealing support that is not there yet"),
        (HoldsSecret, "sealing support that is not there yet"),
    ],
)
def test_a_type_that_cannot_be_stored_is_refused_by_name(hint, said):
    with pytest.raises(DeclarationError) as refused:
        Arguments("shop.send", {"fine": Field(int, True), "bad": Field(hint, False)})
    assert str(refused.value).startswith("shop.send: parameter 'bad' (")
    assert said in str(refused.value)


# ── misfits ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 10_000, "not JSON"),
        (b"[]", "does not fit"),
        (b'{"v":2,"a":{"x":1},"o":{}}', "version"),
        (b'{"a":{"x":1},"o":{}}', "version"),
        (b'{"v":1,"a":{},"o":{}}', "x is missing"),
        (b'{"v":1,"a":{"x":"hush-hush"},"o":{}}', "x does not fit"),
        (b'{"v":1,"a":{"x":1,"y":2},"o":{}}', "not permitted"),
        (b'{"v":1,"a":{"x":1},"o":{"retries":2}}', "not permitted"),
        (b'{"v":1,"a":{"x":1},"o":{"max_attempts":"hush-hush"}}', "max_attempts does not fit"),
        (b'{"v":1,"a":{"x":1},"o":{"retry":{"power":-1}}}', "does not fit"),
        (b'{"v":1,"a":{"x":1},"o":{},"z":1}', "not permitted"),
        (b'{"v":1,"a":{"x":1}}', "missing"),
    ],
)
def test_a_body_that_does_not_fit_is_a_misfit(body, said):
    with pytest.raises(ArgumentsMisfit) as refused:
        taking(int).load(body)
    assert said in str(refused.value)
    assert "hush" not in str(refused.value)
    assert refused.value.__cause__ is refused.value.__context__ is None


def test_arguments_of_an_older_signature_fit_while_only_optional_ones_were_added():
    body = taking(int).dump({"x": 1}, NONE, LIMITS)
    newer = Arguments("t", {"x": Field(int, True), "y": Field(int, False)})
    assert newer.load(body)[0] == {"x": 1}
    with pytest.raises(ArgumentsMisfit, match="y is missing"):
        Arguments("t", {"x": Field(int, True), "y": Field(int, True)}).load(body)


def test_an_aware_datetime_keeps_instant_and_offset():
    for text in ("2026-01-01T12:00:00.000001+05:30", "2026-01-01T12:00:00-11:00"):
        assert stored(datetime, datetime.fromisoformat(text)).isoformat() == text
    assert stored(datetime, datetime(2026, 1, 1, tzinfo=UTC)).utcoffset() == timedelta(0)
