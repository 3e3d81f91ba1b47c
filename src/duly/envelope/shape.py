"""Shapes: what pydantic is told, so that a body of declared types goes to JSON and comes back exactly.

The one place that knows how pydantic builds things. A shape is made from a TypedDict (parameters may
be called ``copy``, ``json`` or ``_x``, which a model would not allow), and then its core schema is
retouched before the validator and the serializer are built:

- every nested model, dataclass and TypedDict gets *our* JSON settings: with its own, bytes in a nested
  model would be refused or come back changed, and NaN might pass;
- sets are written in sorted order, so that the same call has the same bytes, and digest, in any process;
- what can never round-trip is refused while the program starts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, ForwardRef, get_args, get_origin

from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationUnexpectedValue, SchemaSerializer, SchemaValidator
from typing_extensions import TypedDict

from duly.envelope.difference import SECRETS, SECRETS_WAIT

# Lossless in both directions; "null" turns NaN into None, which the comparison then refuses.
_CONFIG: dict[str, Any] = {
    "ser_json_bytes": "base64",
    "val_json_bytes": "base64",
    "ser_json_timedelta": "iso8601",
    "ser_json_temporal": "iso8601",
    "ser_json_inf_nan": "null",
    "hide_input_in_errors": True,
}
# Where schemas stand inside a core schema. Anything else (defaults, metadata, classes) is left alone.
_INNER = frozenset(
    (
        "schema",
        "items_schema",
        "keys_schema",
        "values_schema",
        "fields",
        "choices",
        "definitions",
        "steps",
        "extras_schema",
        "extras_keys_schema",
        "arguments_schema",
        "var_args_schema",
        "var_kwargs_schema",
        "lax_schema",
        "strict_schema",
        "json_schema",
        "python_schema",
        "return_schema",
        "serialization",
        "computed_fields",
    )
)
_BY_NAME = ("fields", "choices")  # may be a mapping from names (one may be "type") to schemas
_NAMING = ("name", "alias", "validation_alias")
_CONFIGURED = ("model", "dataclass", "typed-dict")
_typed_dict: Any = TypedDict  # type checkers want its keys written out
_SETS = ("set", "frozenset")


class UnfitError(Exception):
    """A type that could be declared and never stored; the message says why and what to write instead."""


class Shape:
    """A TypedDict that can go to JSON and back. Raises ``UnfitError``, or what pydantic raises."""

    __slots__ = ("indexed", "names", "parse", "validate", "write")

    def __init__(self, body: Any) -> None:
        schema = _retouched(TypeAdapter(body).core_schema)
        validator, serializer = _built(schema)
        self.names = frozenset(_names(schema))
        """Every declared name of a field, so that messages can tell names from keys, which are values."""
        self.indexed = not _has_other_keys(schema)
        """Whether every number in a path is an index: no dict has keys that are not text."""
        self.validate = validator.validate_python
        self.parse = validator.validate_json
        self.write = serializer.to_json


def record(name: str, parts: Mapping[str, Any]) -> Any:
    """A TypedDict with these keys, whatever they are called, and no others."""
    kind = _typed_dict(name, dict(parts))
    kind.__pydantic_config__ = {"extra": "forbid"}
    return kind


def plainly_unfit(hint: Any) -> str | None:
    """What a look at a type hint tells against storing it; None when nothing does. Cheap."""
    if isinstance(hint, str | ForwardRef):
        return "is a name that could not be resolved; import it where the task is declared"
    return f"is a secret: {SECRETS_WAIT}" if _holds_secret(hint) else None


def why_unfit(hint: Any) -> str | None:
    """What keeps a type hint from being stored, and what to write instead; None when nothing does."""
    why = plainly_unfit(hint)
    if why:
        return why
    try:
        _built(_retouched(TypeAdapter(hint).core_schema))
    except UnfitError as fault:
        return str(fault)
    except Exception as fault:  # noqa: BLE001 - types may build their schemas with the user's code
        return (
            f"cannot be stored ({type(fault).__name__}): write a JSON type, a dataclass or a pydantic model"
        )
    return None


def _holds_secret(hint: Any) -> bool:
    """Whether a type hint names one of pydantic's secret types anywhere."""
    kind = get_origin(hint) or hint
    if isinstance(kind, type) and issubclass(kind, SECRETS):
        return True
    return any(_holds_secret(inner) for inner in get_args(hint))


def _built(schema: Any) -> tuple[SchemaValidator, SchemaSerializer]:
    """Validator and serializer made from *schema* alone.

    pydantic-core would rather take what each model class has built for itself, without our retouching.
    Where the switch for that is missing, nested bytes that are not UTF-8 are refused, no worse.
    """
    try:
        return (
            SchemaValidator(schema, _CONFIG, _use_prebuilt=False),  # type: ignore[arg-type]
            SchemaSerializer(schema, _CONFIG, _use_prebuilt=False),  # type: ignore[arg-type]
        )
    except TypeError:
        return SchemaValidator(schema, _CONFIG), SchemaSerializer(schema, _CONFIG)  # type: ignore[arg-type]


def _retouched(node: Any) -> Any:
    """A copy of a core schema with our settings, in which sets are written in order."""
    if isinstance(node, list | tuple):
        return type(node)(_retouched(inner) for inner in node)
    if not isinstance(node, dict):
        return node
    new = {key: _retouched_inner(key, inner) if key in _INNER else inner for key, inner in node.items()}
    kind = node.get("type")
    if kind in _CONFIGURED:
        new["config"] = {**node.get("config", {}), **_CONFIG}
    elif kind in _SETS and "serialization" not in node:
        inner = {key: value for key, value in new.items() if key != "ref"}
        new["serialization"] = {"type": "function-wrap", "function": _in_order, "schema": inner}
    elif kind == "generator":
        raise UnfitError("can be read only once, so it cannot be stored; write list[…] or Sequence[…]")
    elif _makes_secret(node):
        raise UnfitError(f"is a secret: {SECRETS_WAIT}")
    return new


def _retouched_inner(key: str, inner: Any) -> Any:
    if key in _BY_NAME and isinstance(inner, dict):
        return {name: _retouched(schema) for name, schema in inner.items()}
    return _retouched(inner)


def _in_order(value: Any, write: Any) -> list[Any]:
    """The members of a set as JSON values, sorted by their JSON text."""
    if not isinstance(value, set | frozenset):  # another member of a union may fit
        raise PydanticSerializationUnexpectedValue("not a set")
    return sorted(write(value), key=lambda member: json.dumps(member, sort_keys=True))


def _makes_secret(node: Mapping[str, Any]) -> bool:
    function = node.get("function")
    makes = function.get("function") if isinstance(function, dict) else None
    return isinstance(makes, type) and issubclass(makes, SECRETS)


def _has_other_keys(schema: Any) -> bool:
    """Whether there is a dict in it whose keys are not declared as text."""
    return any(
        node.get("type") == "dict" and node.get("keys_schema", {}).get("type") != "str"
        for node in _every_node(schema)
    )


def _names(schema: Any) -> Iterator[str]:
    """The names of all fields and parameters in it, and their aliases."""
    for node in _every_node(schema):
        yield from (node[key] for key in _NAMING if isinstance(node.get(key), str))
        if isinstance(node.get("fields"), dict):
            yield from node["fields"]


def _every_node(node: Any) -> Iterator[dict[str, Any]]:
    """A core schema and all schemas in it."""
    if isinstance(node, list | tuple):
        for inner in node:
            yield from _every_node(inner)
    elif isinstance(node, dict):
        yield node
        for key in _INNER & node.keys():
            inner = node[key]
            named = key in _BY_NAME and isinstance(inner, dict)
            yield from _every_node(list(inner.values()) if named else inner)
