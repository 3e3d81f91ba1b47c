"""What an attempt sends through Python's sockets, plain and encrypted; and where it may not send anything.

Audit hooks tell of connections, not of what is sent on them, so the methods of ``socket`` and ``ssl`` are
wrapped: for good, in a child that ends soon.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

from duly.proof.course import Course
from duly.proof.lines import Lines
from duly.proof.message import Conversation
from duly.proof.postbox import put_up
from duly.proof.world import connecting

_INTERNET = (socket.AF_INET, socket.AF_INET6)
_HANDSHAKE = range(0x14, 0x18)


class Sockets:
    """The conversations of one process."""

    def __init__(self, course: Course, lines: Lines, keys: Collection[bytes], reach: frozenset[str]) -> None:
        self._course = course
        self._lines = lines
        self._keys = keys
        self._reach = reach
        self._talks: dict[int, Conversation | None] = {}
        """By file handle; None: a database's, or nobody's business."""
        self._sealed: dict[int, Conversation] = {}
        self._names: dict[str, str] = {}

    def watch(self) -> None:
        """From here on, in this process, for good."""
        self._wrap_connects()
        for name, kind in (("send", 0), ("sendall", 0), ("sendto", 0), ("sendmsg", 1)):
            self._wrap_send(socket.socket, name, many=bool(kind))
        self._wrap_send(ssl.SSLSocket, "send", encrypted=True)
        for name in ("recv", "recv_into"):
            self._wrap_answer(socket.socket, name)
        self._wrap_answer(ssl.SSLSocket, "read")
        self._wrap_objects()
        self._wrap_close()
        put_up(self._name_postbox)

    # ── who is spoken to ──────────────────────────────────────────────────────────────────────

    def _wrap_connects(self) -> None:
        for name in ("connect", "connect_ex"):
            self._wrap_connect(name)
        resolve = socket.getaddrinfo

        def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
            found = resolve(host, *args, **kwargs)
            for *_, address in found:
                self._names[str(address[0])] = str(host)
            return found

        socket.getaddrinfo = getaddrinfo

    def _wrap_close(self) -> None:
        close = socket.socket._real_close  # type: ignore[attr-defined]  # noqa: SLF001 - what all ways to close come to

        def closed(line: socket.socket, *args: Any) -> None:
            self._talks.pop(line.fileno(), None)
            close(line, *args)

        socket.socket._real_close = closed  # type: ignore[attr-defined]  # noqa: SLF001

    def _wrap_connect(self, name: str) -> None:
        connect = getattr(socket.socket, name)

        def wrapped(line: socket.socket, address: Any) -> Any:
            if connecting():
                self._talks[line.fileno()] = None
            elif self._course.inside:
                self._check_reach(line, address)
                self._talks[line.fileno()] = Conversation(self._peer(line, address), self._keys)
            return connect(line, address)

        setattr(socket.socket, name, wrapped)

    def _check_reach(self, line: socket.socket, address: Any) -> None:
        """Refuse other hosts: what a task does to them it would do at every point."""
        if line.family not in _INTERNET:
            return
        host = self._names.get(str(address[0]), str(address[0]))
        if host in self._reach or str(address[0]) in self._reach or _is_here(str(address[0])):
            return
        self._course.note(
            f"the task would have reached {host} ({self._lines.innermost()}), and so at every point again: give it a "
            "stand-in on this machine, or allow it with --reach"
        )
        raise ConnectionRefusedError(f"duly prove reaches no other host: {host}")

    def _peer(self, line: socket.socket, address: Any) -> str:
        if line.family not in _INTERNET:
            return str(address)
        return f"{self._names.get(str(address[0]), address[0])}:{address[1]}"

    def _name_postbox(self, line: socket.socket, host: str, port: int) -> None:
        self._talks[line.fileno()] = Conversation(f"{host}:{port}", self._keys)

    def _talk(self, line: socket.socket) -> Conversation | None:
        """The conversation on this socket; of one that was connected before we watched it is made here."""
        handle = line.fileno()
        if handle not in self._talks:
            self._talks[handle] = None
            with suppress(OSError):
                if line.family in _INTERNET and line.type == socket.SOCK_STREAM:
                    self._talks[handle] = Conversation(self._peer(line, line.getpeername()), self._keys)
        return self._talks[handle]

    # ── what is said ──────────────────────────────────────────────────────────────────────────

    def _wrap_send(self, kind: type, name: str, *, many: bool = False, encrypted: bool = False) -> None:
        send: Callable[..., Any] = getattr(kind, name)

        def wrapped(line: Any, data: Any, *args: Any) -> Any:
            if not self._course.inside or connecting():
                return send(line, data, *args)
            talk = self._talk_to(line, args) if name in ("sendto", "sendmsg") else self._talk(line)
            if talk is None:
                return send(line, data, *args)
            said = b"".join(map(bytes, data)) if many else bytes(data)
            self._say(talk, said, encrypted=encrypted)
            taken: int | None = 0
            try:
                with self._course.outside():  # sendall calls send, an encrypted send a plain one
                    taken = send(line, data, *args)
            finally:
                if taken is not None:  # all of it
                    talk.unsent(len(said) - taken)
            return taken

        setattr(kind, name, wrapped)

    def _talk_to(self, line: socket.socket, args: tuple[Any, ...]) -> Conversation | None:
        """A datagram has its address with it, and is a message of its own."""
        address = args[-1] if args and args[-1] is not None and not isinstance(args[-1], int) else None
        if address is None or line.type == socket.SOCK_STREAM:
            return self._talk(line)
        self._check_reach(line, address)
        return Conversation(self._peer(line, address), self._keys)

    def _say(self, talk: Conversation, data: bytes, *, encrypted: bool = False) -> None:
        if not encrypted and len(data) > 2 and data[0] in _HANDSHAKE and data[1] == 3:
            if self._sealed:  # seen before it was encrypted
                return
            talk.hidden = True
        if encrypted:
            talk.scheme = "https"
        talk.send(data, self._course.begin, self._lines.innermost())

    def _wrap_answer(self, kind: type, name: str) -> None:
        receive: Callable[..., Any] = getattr(kind, name)

        def wrapped(line: Any, *args: Any, **kwargs: Any) -> Any:
            received = receive(line, *args, **kwargs)
            if self._course.inside and received:
                talk = self._talks.get(line.fileno())
                if talk is not None and (point := talk.answered()):
                    self._course.done(point)
            return received

        setattr(kind, name, wrapped)

    # ── encrypted in memory (asyncio) ─────────────────────────────────────────────────────────

    def _wrap_objects(self) -> None:
        write, read, shake = ssl.SSLObject.write, ssl.SSLObject.read, ssl.SSLObject.do_handshake

        def shaken(sealed: ssl.SSLObject) -> None:
            if id(sealed) not in self._sealed and self._course.inside and not connecting():
                peer = sealed.server_hostname or "an encrypted connection"
                self._sealed[id(sealed)] = Conversation(peer, self._keys)
            shake(sealed)

        def written(sealed: ssl.SSLObject, data: Any) -> int:
            talk = self._sealed.get(id(sealed))
            if talk is not None and self._course.inside:
                self._say(talk, bytes(data), encrypted=True)
            return write(sealed, data)

        def heard(sealed: ssl.SSLObject, *args: Any, **kwargs: Any) -> Any:
            received = read(sealed, *args, **kwargs)
            talk = self._sealed.get(id(sealed))
            if talk is not None and received and (point := talk.answered()):
                self._course.done(point)
            return received

        for name, wrapped in (("do_handshake", shaken), ("write", written), ("read", heard)):
            setattr(ssl.SSLObject, name, wrapped)


def _is_here(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return address == "localhost"
