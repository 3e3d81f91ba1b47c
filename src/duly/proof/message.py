"""What is sent on a connection, cut into messages: requests, mails, or just bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection
from email import message_from_bytes
from email.message import Message as Mail

from duly.proof.outside import Effect

_REQUEST = re.compile(rb"([A-Z]{3,16}) (\S+) HTTP/1\.[01]\r\n")
_GREETING = re.compile(rb"(EHLO|HELO|LHLO) ", re.IGNORECASE)
_RECIPIENT = re.compile(rb"RCPT TO:\s*<?([^>\s]+)>?[^\r]*\r\n", re.IGNORECASE)
_CHANGING = ("date", "message-id", "traceparent", "tracestate")
_BOUNDARY = re.compile(rb'boundary="?([^";\r\n]+)"?', re.IGNORECASE)


def digest(data: bytes) -> str:
    """Of what was sent."""
    return hashlib.sha256(data).hexdigest()


class Conversation:
    """One connection to somebody: what was sent since the last answer."""

    def __init__(self, peer: str, keys: Collection[bytes], *, hidden: bool = False) -> None:
        self.peer = peer
        """Host and port, or the path of a socket."""
        self.hidden = hidden
        """What is sent is encrypted: nothing of it can be seen."""
        self.scheme = "http"
        """``https`` where it is seen before it is encrypted."""
        self._keys = keys
        self._sent = bytearray()
        self._smtp = False
        self._recipients: list[str] = []
        self._point = 0

    def send(self, data: bytes, begin: Callable[[str, str, Callable[[], Effect]], int], where: str) -> None:
        """These bytes are about to be sent: they begin a message, or go on with it."""
        if not self._point:
            self._smtp = self._smtp or bool(_GREETING.match(data))
            if self._smtp and not self._is_mail(data):
                return
            kind, what = self._named(data)
            sent = self._sent = bytearray()
            self._point = begin(kind, what, lambda: self._effect(kind, what, bytes(sent), where))
        self._sent += data

    def unsent(self, size: int) -> None:
        """The last *size* bytes were not taken: they will be sent again."""
        if self._point and size:
            del self._sent[-size:]

    def answered(self) -> int:
        """Something came back: the message was whole. The number of its point; 0 when none was under way."""
        point, self._point = self._point, 0
        return point

    def _is_mail(self, data: bytes) -> bool:
        """Of what is said to a mail server, only the mail itself is an effect."""
        self._recipients += [found.decode(errors="replace") for found in _RECIPIENT.findall(data)]
        return not _is_command(data)

    def _named(self, data: bytes) -> tuple[str, str]:
        if self._smtp:
            to, self._recipients = ", ".join(sorted(self._recipients)), []
            return "mail", to or self.peer
        request = _REQUEST.match(data)
        if request is not None:
            method, path = (part.decode("latin-1") for part in request.groups())
            return "http", f"{method} {self.scheme}://{self.peer}{path}"
        return "socket", self.peer

    def _effect(self, kind: str, what: str, sent: bytes, where: str) -> Effect:
        keyed = any(key in sent for key in self._keys)
        payload = None if self.hidden else digest(_settled(kind, sent))
        return Effect(kind, what, payload, keyed, where)


def _is_command(data: bytes) -> bool:
    """A line of SMTP before and after the mail; the mail ends with a dot on a line of its own."""
    return not data.endswith(b"\r\n.\r\n")


def _settled(kind: str, sent: bytes) -> bytes:
    """Without what changes with each sending."""
    for boundary in _BOUNDARY.findall(sent):
        sent = sent.replace(boundary, b"boundary")
    if kind == "mail":
        return _without_dates(message_from_bytes(sent))
    if kind == "http":
        head, _, body = sent.partition(b"\r\n\r\n")
        request, *fields = head.split(b"\r\n")
        kept = sorted(field for field in fields if _name(field) not in _CHANGING)
        return b"\r\n".join([request, *kept, b"", body])
    return sent


def _without_dates(mail: Mail) -> bytes:
    for name in _CHANGING:
        del mail[name]
    return mail.as_bytes()


def _name(field: bytes) -> str:
    return field.partition(b":")[0].decode("latin-1").strip().lower()
