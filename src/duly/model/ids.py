"""Job ids: UUIDv7 made by the client, increasing within a process; and ids derived from other ids."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from uuid import UUID

_SEQUENCE_BITS = 12


class _Stamps:
    """Milliseconds << 12 | sequence, each greater than the one before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def next(self) -> int:
        with self._lock:
            self._last = max(self._last + 1, (time.time_ns() // 1_000_000) << _SEQUENCE_BITS)
            return self._last


_stamps = _Stamps()


def new_id() -> UUID:
    """A UUIDv7 (RFC 9562): milliseconds, a 12-bit sequence, 62 random bits; greater than the one before.

    When a millisecond's sequence is used up, or the wall clock has gone back, the next value of the
    last one is taken: order within the process is kept, and the time in the id runs ahead a little.
    """
    stamp = _stamps.next()
    milliseconds, sequence = stamp >> _SEQUENCE_BITS, stamp & 0xFFF
    noise = int.from_bytes(os.urandom(8)) & ((1 << 62) - 1)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | sequence << 64 | 0b10 << 62 | noise)


def derived_id(parent: UUID, purpose: str) -> UUID:
    """The id that belongs to *parent* for *purpose*: always the same one (a UUIDv8 beside its parent).

    It keeps the parent's time, so that it sorts near it in an index; the rest is a hash.
    """
    digest = hashlib.sha256(parent.bytes + purpose.encode()).digest()
    noise = int.from_bytes(digest[:10])
    value = (parent.int >> 80 << 80) | noise
    value = value & ~(0xF << 76) | 0x8 << 76
    return UUID(int=value & ~(0b11 << 62) | 0b10 << 62)


def job_id(text: object) -> UUID:
    """The id that *text* names, a UUID or its text; ``ValueError`` when it is neither."""
    if isinstance(text, UUID):
        return text
    return UUID(str(text))
