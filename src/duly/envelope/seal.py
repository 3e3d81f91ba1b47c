"""Seals: AES-256-GCM over a body, bound to the columns of its row.

Two kinds of envelope::

    plain     {…                                        the body itself, a JSON object
    sealed    0x01 | length | key id | day | nonce | ciphertext and tag
              1      1        1-16     2     12      n + 16 bytes

The sub-key is that of the key id and the *day* (days since 2020-01-01, UTC) of sealing, so that no
sub-key ever seals so much that random nonces could meet. The associated data is ``_LENGTHS``, the
fields of fixed size (``_ITS_OWN``), then header, label, task, queue and principal: with the lengths in
front, nothing can be shifted from one field to its neighbor.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from datetime import UTC, date, datetime
from functools import lru_cache
from struct import Struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from duly.clock import Clock
from duly.envelope.keys import KEY_ID, Key, Keyring
from duly.errors import ArgumentsMisfit, EnvelopeRejected, UnknownKey
from duly.model.job import Binding

_SEALED = 0x01  # no JSON text begins with it, and a plain envelope begins with "{"
_NONCE_BYTES, _TAG_BYTES = 12, 16
_FIRST_DAY = date(2020, 1, 1).toordinal()
_LAST_DAY = 0xFFFF  # in 2199
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KEPT_CIPHERS, _KEPT_DIGEST_KEYS = 256, 16
_NO_PRINCIPAL = -1  # as a length: None is not ""
# Lengths of header, label, task, queue, principal; then enqueued_at, expires_at, id, origin.
_LENGTHS = Struct(">IIIIi")
_ITS_OWN = Struct(">qq 16s16s")


class Sealer:
    """Seals bodies with the active key of a ring, and opens what any of its keys has sealed.

    An empty ring seals nothing: envelopes are then plain, and only plain ones are opened.
    """

    __slots__ = ("_cipher", "_clock", "_digest_under", "_ring", "key_id")

    def __init__(self, ring: Keyring, *, clock: Clock | None = None) -> None:
        self._ring = ring
        self._clock = clock or Clock()
        self.key_id: str | None = ring.active.id if ring.active else None
        """The id of the key that seals; None when envelopes are plain."""
        # Kept per sealer, not per process: another ring may have another secret under the same id.
        # By header, that is, by key id and day: days in use are those that waiting jobs were sealed on.
        self._cipher = lru_cache(_KEPT_CIPHERS)(self._derived)
        self._digest_under = lru_cache(_KEPT_DIGEST_KEYS)(self._digest_key)

    def seal(self, label: str, binding: Binding, body: bytes) -> bytes:
        """The envelope of *body*, which opens only under the same *label* and *binding*.

        *body* is a JSON object in bytes (it begins with ``{``); instants in *binding* are aware.
        """
        if self.key_id is None:
            return body
        header = _header_of(self.key_id, self._clock.wall().toordinal())
        nonce = os.urandom(_NONCE_BYTES)
        cipher = self._cipher(header)
        return header + nonce + cipher.encrypt(nonce, body, _associated(header, label, binding))

    def open(self, label: str, binding: Binding, blob: bytes) -> bytes:
        """The body of an envelope.

        Raises ``EnvelopeRejected`` when it, or a column it is bound to, is not what was sealed, or
        when it is plain although there are keys; ``UnknownKey`` when its key is not in the ring;
        ``ArgumentsMisfit`` when there are no keys and it is neither plain nor sealed.
        """
        if blob[:1] == b"{":
            if self._ring:
                raise EnvelopeRejected(_PLAIN_BUT_KEYS)
            return blob
        header = _header(blob)
        if header is None:
            if self._ring:
                raise EnvelopeRejected("the envelope is cut short or is not one of Duly's: it was edited")
            raise ArgumentsMisfit(
                "the envelope is neither plain nor sealed: another release, or an edit, made it"
            )
        cipher = self._cipher(header)
        body_at = len(header) + _NONCE_BYTES
        try:
            return cipher.decrypt(
                blob[len(header) : body_at], blob[body_at:], _associated(header, label, binding)
            )
        except InvalidTag:
            raise EnvelopeRejected(_EDITED) from None

    def digest(self, content: bytes, key_id: str | None) -> bytes:
        """32 bytes that decide "same content": an HMAC under that key, a plain SHA-256 without one.

        Raises ``UnknownKey`` when the key is not in the ring.
        """
        if key_id is None:
            return hashlib.sha256(content).digest()
        return hmac.digest(self._digest_under(key_id), content, "sha256")

    def _derived(self, header: bytes) -> AESGCM:
        key = self._key(_key_id(header))
        return AESGCM(key.derive("seal", int.from_bytes(header[-2:])))

    def _digest_key(self, key_id: str) -> bytes:
        return self._key(key_id).derive("digest")

    def _key(self, key_id: str) -> Key:
        key = self._ring.find(key_id)
        if key is None:
            raise UnknownKey(f"made with the key {key_id!r}, which is not among DULY_KEYS here; add it")
        return key


def key_id_of(blob: bytes) -> str | None:
    """The id of the key that an envelope says it was sealed with; None for one that is not sealed."""
    header = _header(blob)
    return None if header is None else _key_id(header)


_PLAIN_BUT_KEYS = (
    "the envelope is plain although keys are set: it was written without the key (after keys were added "
    "for the first time: let plain jobs end first, or enqueue them again)"
)
_EDITED = "the envelope does not open: it or a column it is sealed to was edited, or it is another job's"


@lru_cache(64)
def _header_of(key_id: str, ordinal: int) -> bytes:
    """The header for a key and a day, the day clamped to what two bytes hold."""
    day = min(max(ordinal - _FIRST_DAY, 0), _LAST_DAY)
    return b"%c%c%b%b" % (_SEALED, len(key_id), key_id.encode(), day.to_bytes(2))


def _header(blob: bytes) -> bytes | None:
    """Everything before the nonce, or None when these bytes cannot be a sealed envelope."""
    if len(blob) < 2 or blob[0] != _SEALED:
        return None
    end = 2 + blob[1] + 2
    header = blob[:end]
    return header if len(blob) >= end + _NONCE_BYTES + _TAG_BYTES and _well_made(header) else None


@lru_cache(_KEPT_CIPHERS)
def _well_made(header: bytes) -> bool:
    return KEY_ID.match(header[2:-2].decode("latin-1")) is not None


def _key_id(header: bytes) -> str:
    return header[2:-2].decode()


def _associated(header: bytes, label: str, binding: Binding) -> bytes:
    identity, origin, task, queue, principal, enqueued_at, expires_at = binding
    lengths, names = _shared(header, label, task, queue, principal)
    own = _ITS_OWN.pack(
        _microseconds(enqueued_at),
        _microseconds(expires_at),
        identity.int.to_bytes(16),
        origin.int.to_bytes(16),
    )
    return lengths + own + names


@lru_cache(1024)
def _shared(header: bytes, label: str, task: str, queue: str, principal: str | None) -> tuple[bytes, bytes]:
    """What many envelopes have in common: the lengths in front, and the fields behind."""
    name, task_name, queue_name = label.encode(), task.encode(), queue.encode()
    who = b"" if principal is None else principal.encode()
    lengths = _LENGTHS.pack(
        len(header),
        len(name),
        len(task_name),
        len(queue_name),
        _NO_PRINCIPAL if principal is None else len(who),
    )
    return lengths, b"".join((header, name, task_name, queue_name, who))


def _microseconds(instant: datetime) -> int:
    """Whole microseconds since 1970, whatever the time zone it is written in."""
    since = instant - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
