"""The codec: one declared content, in a body with a version, checked on its way in and on its way out.

To write:

1. validate what was given (this may coerce: "1" for an int is stored as 1);
2. write it as JSON;
3. refuse a body that is too large;
4. parse the very bytes again, and refuse when what comes back is not the same.

Arguments and results are written alike; they differ only in the name that their content has in the body.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic_core import ValidationError

from duly.envelope import refusal
from duly.envelope.difference import FLATTEN, Difference, difference
from duly.envelope.shape import Shape, record
from duly.errors import ArgumentsMisfit, InvalidArguments

VERSION = 1
DEEPEST = 128


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a body may be (bytes of JSON, before sealing), and how many containers may nest in it.

    A depth beyond 128 counts as 128: the JSON parser gives up at 200.
    """

    size: int = 65_536
    depth: int = 32


class Codec:
    """Writes and reads bodies ``{"v":1, key: content, …}``. Raises what ``Shape`` raises.

    *key* is the content's name in the body, *extra* declares further parts, *outer* counts the
    containers around the content that are ours. Messages begin with *name* and call the content *noun*.
    """

    __slots__ = ("_key", "_name", "_noun", "_outer", "_shape")

    def __init__(
        self,
        name: str,
        noun: str,
        key: str,
        content: Any,
        *,
        extra: Mapping[str, Any] | None = None,
        outer: int = 0,
    ) -> None:
        parts: dict[str, Any] = {"v": Literal[1], key: content, **(extra or {})}
        self._shape = Shape(record("Body", parts))
        self._name, self._noun, self._key, self._outer = name, noun, key, outer

    def write(self, content: Any, extra: Mapping[str, Any], limits: Limits) -> bytes:
        """The body; ``InvalidArguments`` when the content does not fit, or would not come back as it is."""
        given = self._validated({"v": VERSION, self._key: content, **extra})
        body = self._written(given, limits)
        if len(body) > limits.size:
            raise self._refused(
                f"{self._noun}: {len(body):,} bytes as JSON, where {limits.size:,} are allowed; "
                "pass an id to look the data up by"
            )
        back = self._parsed_again(given, body, limits)
        found = difference(given[self._key], back[self._key], self._room(limits))
        if found:
            raise self._refused(self._told(found, limits))
        return body

    def read(self, body: bytes) -> dict[str, Any]:
        """All parts of a body; ``ArgumentsMisfit`` when it does not fit what is declared here."""
        # Refusals are raised outside the handlers, so that no pydantic error, which quotes what it
        # refused, hangs on as the context. The same in the methods below.
        try:
            return self._parse(body)
        except ValidationError as fault:
            said = self._misfit(fault)
        except Exception as fault:  # noqa: BLE001 - validators are the user's code
            said = f"a validator raised {type(fault).__qualname__}"
        raise ArgumentsMisfit(f"{self._name}: {said}")

    # ── the steps of write ────────────────────────────────────────────────────────────────────

    def _validated(self, given: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._shape.validate(given)  # type: ignore[no-any-return]
        except ValidationError as fault:
            said = refusal.of_validation(fault, self._shape, self._noun)
        except Exception as fault:  # noqa: BLE001 - as in read
            said = f"a validator raised {type(fault).__qualname__}"
        raise self._refused(said)

    def _written(self, given: dict[str, Any], limits: Limits) -> bytes:
        try:
            return self._write(given)
        except Exception as fault:  # noqa: BLE001 - serializers may be the user's code
            said = self._never(given, limits) or self._unwritten(given, fault)
        raise self._refused(said)

    def _parsed_again(self, given: dict[str, Any], body: bytes, limits: Limits) -> dict[str, Any]:
        try:
            return self._parse(body)
        except ValidationError as fault:
            said = refusal.of_validation(fault, self._shape, self._noun)
        except Exception as fault:  # noqa: BLE001 - as in read
            said = f"a validator raised {type(fault).__qualname__}"
        raise self._refused(self._never(given, limits) or f"it would not come back: {said}")

    def _write(self, given: dict[str, Any]) -> bytes:
        return self._shape.write(given, by_alias=False, round_trip=True, warnings=False)

    def _parse(self, body: bytes) -> dict[str, Any]:
        return self._shape.parse(body, by_alias=False, by_name=True)  # type: ignore[no-any-return]

    def _room(self, limits: Limits) -> int:
        return min(limits.depth, DEEPEST) + self._outer

    # ── words ─────────────────────────────────────────────────────────────────────────────────

    def _refused(self, said: str) -> InvalidArguments:
        return InvalidArguments(f"{self._name}: {said}")

    def _misfit(self, fault: ValidationError) -> str:
        details = fault.errors(include_url=False, include_context=False, include_input=False)
        if any(detail["loc"] == ("v",) for detail in details):
            return f"{self._noun}: written in a version that this release of Duly does not read"
        return refusal.of_validation(fault, self._shape, self._noun)

    def _never(self, given: dict[str, Any], limits: Limits) -> str:
        """What there is in the content that can never be stored, which says more than the failure it led to."""
        content = given[self._key]
        found = difference(content, content, self._room(limits))
        return self._told(found, limits) if found else ""

    def _told(self, found: Difference, limits: Limits) -> str:
        if found.remedy is FLATTEN:  # the whole path would be as long as it is deep
            found.path = found.path[: self._outer]
            found.problem = f"nests more than {min(limits.depth, DEEPEST)} containers"
        return refusal.of_difference(found, self._shape.names, self._noun)

    def _unwritten(self, given: dict[str, Any], fault: Exception) -> str:
        """Which argument could not be written, and why."""
        content = given[self._key]
        for name, value in content.items() if self._outer else ():
            try:
                self._write({self._key: {name: value}})
            except Exception as its:  # noqa: BLE001 - as in _written
                return f"{name} {refusal.of_writing(its)}"
        return f"{self._noun} {refusal.of_writing(fault)}"
