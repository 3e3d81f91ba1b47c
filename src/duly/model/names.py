"""Names of tasks and queues: fixed patterns, so that nothing odd ever reaches a log, a page or a query."""

from __future__ import annotations

import re

LONGEST_NAME = 200
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*\Z")


def check_name(kind: str, name: object) -> str:
    """*name* as it is, or an error that says what the names of this *kind* may be made of."""
    if not isinstance(name, str):
        raise TypeError(f"{kind} must be a name (str), not {name!r}")
    if len(name) > LONGEST_NAME or not _NAME.match(name):
        raise ValueError(
            f"{kind} {name[:80]!r} is not a name: letters, digits, '_', '.' and '-', "
            f"not beginning with '.' or '-', at most {LONGEST_NAME}"
        )
    return name
