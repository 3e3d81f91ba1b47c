"""Text from anywhere, made safe for one line of a log or a terminal."""

from __future__ import annotations

import re

_BARE = re.compile(r"[^\s\"'=\\]+\Z")


def one_line(text: str) -> str:
    r"""*text* with everything that could move the cursor, color it or begin a line written as an escape.

    What is not printable (control characters, line ends, ANSI sequences, marks that turn the
    direction of writing, lone surrogates) becomes ``\n``, ``\x1b``, ``\u202e``.
    """
    return text if text.isprintable() else "".join(_shown(character) for character in text)


def value(text: str) -> str:
    """*text* as a value in ``key=value``: bare where that is unmistakable, else quoted."""
    if text.isprintable() and _BARE.match(text):
        return text
    inside = "".join("\\" + c if c in '"\\' else _shown(c) for c in text)
    return f'"{inside}"'


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
