"""A mail server that takes everything and delivers nothing: a prover must not send anybody a hundred mails."""

from __future__ import annotations

import smtplib
import socket
import threading
from typing import Any

_REPLIES = {
    b"EHLO": b"250-postbox\r\n250-AUTH PLAIN LOGIN\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n",
    b"DATA": b"354 go on\r\n",
    b"QUIT": b"221 bye\r\n",
    b"AUTH": b"235 welcome\r\n",
}
_TAKEN = b"250 taken\r\n"


def put_up(named: Any) -> None:
    """Have every ``smtplib`` client of this process, for good, speak to the postbox.

    *named* is told of each connection: its socket, host and port.
    """

    def get_socket(_client: smtplib.SMTP, host: str, port: int, _timeout: float | None) -> socket.socket:
        ours, theirs = socket.socketpair()
        named(ours, host, port)
        threading.Thread(target=_serve, args=(theirs,), daemon=True, name="duly-postbox").start()
        return ours

    def starttls(_client: smtplib.SMTP, *_: Any, **__: Any) -> tuple[int, bytes]:
        return 220, b"ready"

    for kind in (smtplib.SMTP, smtplib.SMTP_SSL):
        kind._get_socket = get_socket  # type: ignore[union-attr]  # noqa: SLF001 - the one seam it has
        kind.starttls = starttls  # type: ignore[method-assign, assignment]


def _serve(line: socket.socket) -> None:
    """One conversation."""
    with line, line.makefile("rb") as words:
        line.sendall(b"220 postbox\r\n")
        for said in words:
            verb = said[:4].upper()
            line.sendall(_REPLIES.get(verb, _TAKEN))
            if verb == b"DATA":
                for text in words:
                    if text == b".\r\n":
                        break
                line.sendall(_TAKEN)
            if verb == b"QUIT":
                return
