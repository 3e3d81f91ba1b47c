"""Fingerprints: whether two releases declare the same parameters, as a short hash.

Made of what decides whether a stored body fits: names, requiredness, and the JSON schema of each type.
Titles, descriptions and the defaults inside models may change without changing it.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import WithDefaultSchema

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # of functions and objects in a repr: another in each process
_DESCRIBING = ("title", "description")


def fingerprint_of(fields: list[tuple[str, bool, Any]]) -> str:
    """16 hex digits for parameters given as (name, required, type hint), in whatever order."""
    told = sorted((name, required, _shape_of(hint)) for name, required, hint in fields)
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _shape_of(hint: Any) -> str:
    try:
        schema = TypeAdapter(hint).json_schema(schema_generator=_WithoutDefaults)
        return json.dumps(_bare(schema), sort_keys=True)
    except Exception:  # noqa: BLE001 - types without a JSON schema, or whose own code fails: their name does
        return _ADDRESS.sub("", repr(hint))


class _WithoutDefaults(GenerateJsonSchema):
    """Leaves out defaults: they do not decide what fits, and a default set has no order."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default", "skipped-discriminator"}  # noqa: RUF012

    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])


def _bare(node: Any) -> Any:
    """The schema without its describing texts; a *property* called "title" is a schema and stays."""
    if isinstance(node, list):
        return [_bare(inner) for inner in node]
    if isinstance(node, dict):
        return {
            key: _bare(inner)
            for key, inner in node.items()
            if not (key in _DESCRIBING and isinstance(inner, str))
        }
    return node
