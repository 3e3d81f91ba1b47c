"""Keys: read from ``DULY_KEYS``, never shown, and split into sub-keys by purpose and day.

A key is written ``id:secret``: an id of 1 to 16 of ``[a-z0-9]``, and 32 bytes in base64url. The first
key of a ring seals; all of them open. So a key is rolled out by adding it last everywhere, then
moving it to the front, and retired by leaving it in the ring until what it sealed has expired.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from duly.clock import Clock
from duly.errors import SettingsError

SECRET_BYTES = 32
KEY_ID = re.compile(r"[a-z0-9]{1,16}\Z")

_SECRET = re.compile(r"[A-Za-z0-9_\-]{43}=?\Z")  # what 32 bytes are in base64url
_REMEDY = "`duly keys new` makes a new one"


@dataclass(frozen=True, slots=True)
class Key:
    """One key. ``secret`` (32 bytes) stays out of its repr.

    Raises ``SettingsError`` for a bad id or a secret of another length.
    """

    id: str
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not KEY_ID.match(self.id):
            raise SettingsError(f"a key's id must be 1 to 16 of a-z and 0-9; {_REMEDY}")
        if len(self.secret) != SECRET_BYTES:
            raise SettingsError(
                f"the secret of key {self.id!r} must be exactly {SECRET_BYTES} bytes, not {len(self.secret)}; "
                f"{_REMEDY}"
            )

    def derive(self, purpose: str, day: int | None = None) -> bytes:
        """The 32-byte sub-key for a *purpose*, and for a *day* where it changes daily (HKDF-SHA256)."""
        parts = (purpose.encode(), b"" if day is None else day.to_bytes(2))
        info = b"".join(len(part).to_bytes(2) + part for part in parts)
        return HKDF(algorithm=SHA256(), length=SECRET_BYTES, salt=None, info=info).derive(self.secret)


class Keyring:
    """The keys of a process; the first one seals. False when there is none.

    Raises ``SettingsError`` when two keys have the same id.
    """

    __slots__ = ("_by_id", "_keys")

    def __init__(self, keys: Sequence[Key] = ()) -> None:
        self._keys = tuple(keys)
        self._by_id = {key.id: key for key in self._keys}
        if len(self._by_id) != len(self._keys):
            twice = sorted({key.id for key in self._keys if self._by_id[key.id] is not key})
            raise SettingsError(f"two keys have the id {', '.join(twice)}; {_REMEDY}, under an id of its own")

    @classmethod
    def parse(cls, text: str) -> Keyring:
        """Read ``id:secret`` entries, separated by commas or whitespace; an empty text is an empty ring.

        Raises ``SettingsError``, which names the entry at fault by its position and never shows it.
        """
        entries = re.split(r"[\s,]+", text.strip(" \t\r\n,"))
        return cls([_parse_entry(place, entry) for place, entry in enumerate(entries, 1) if entry])

    @property
    def active(self) -> Key | None:
        """The key that seals; None when there is none."""
        return self._keys[0] if self._keys else None

    def find(self, key_id: str) -> Key | None:
        """The key with this id, or None."""
        return self._by_id.get(key_id)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __repr__(self) -> str:
        return f"Keyring({', '.join(self._by_id)})"


def new_key() -> str:
    """A fresh key as one line, ``id:secret``; the id begins with the date, so that its age can be seen."""
    today = Clock().wall()
    name = f"k{today:%Y%m%d}{secrets.token_hex(2)}"
    return f"{name}:{base64.urlsafe_b64encode(secrets.token_bytes(SECRET_BYTES)).decode().rstrip('=')}"


def _parse_entry(place: int, entry: str) -> Key:
    # Neither part of a malformed entry is shown: which of them is the secret cannot be known.
    key_id, colon, secret = entry.partition(":")
    if not colon:
        raise SettingsError(f"key {place} has no ':' between id and secret; write id:secret, {_REMEDY}")
    if not KEY_ID.match(key_id):
        raise SettingsError(f"the id of key {place} must be 1 to 16 of a-z and 0-9; {_REMEDY}")
    if not _SECRET.match(secret):
        raise SettingsError(
            f"the secret of key {key_id!r} must be {SECRET_BYTES} bytes in base64url (43 characters, not "
            f"{len(secret)}, of A-Z a-z 0-9 - _); {_REMEDY}"
        )
    return Key(key_id, base64.urlsafe_b64decode(secret.rstrip("=") + "="))
