"""What is sent on a connection, cut into messages, and made alike where only dates differ."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from duly.proof.message import Conversation
from duly.proof.outside import Effect

KEY = "0193e4a5-8c5e-7000-8000-0123456789ab"


class Wire:
    """A conversation, and the effects that it comes to."""

    def __init__(self, peer: str = "bank:80", *, hidden: bool = False) -> None:
        self.talk = Conversation(peer, [KEY.encode()], hidden=hidden)
        self.begun: list[tuple[str, str]] = []
        self._effects: list[Callable[[], Effect]] = []

    def say(self, *parts: bytes) -> Wire:
        for part in parts:
            self.talk.send(part, self._begin, "shop.py:1")
        return self

    def _begin(self, kind: str, what: str, effect: Callable[[], Effect]) -> int:
        self.begun.append((kind, what))
        self._effects.append(effect)
        return len(self.begun)

    @property
    def effect(self) -> Effect:
        (effect,) = self._effects
        return effect()


def test_parts_up_to_an_answer_are_one_message() -> None:
    wire = Wire().say(b"POST /pay HTTP/1.1\r\nHost: bank\r\n\r\n", b"paid")
    assert wire.talk.answered() == 1
    assert wire.talk.answered() == 0
    wire.say(b"GET / HTTP/1.1\r\n\r\n")
    assert wire.begun == [("http", "POST http://bank:80/pay"), ("http", "GET http://bank:80/")]


def test_what_was_not_taken_is_not_counted() -> None:
    whole = Wire().say(b"abcdef")
    halting = Wire().say(b"abcdef")
    halting.talk.unsent(3)
    assert halting.say(b"def").effect == whole.effect


def request(headers: bytes, body: bytes = b"paid") -> Effect:
    return Wire().say(b"POST /pay HTTP/1.1\r\n" + headers + b"\r\n\r\n" + body).effect


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (request(b"Date: Mon\r\nA: 1"), request(b"A: 1\r\nDate: Tue"), True),
        (request(b"A: 1"), request(b"A: 2"), False),
        (request(b"A: 1"), request(b"A: 1", b"other"), False),
        (
            request(b"Content-Type: multipart/form-data; boundary=abc", b"--abc\r\nx"),
            request(b"Content-Type: multipart/form-data; boundary=xyz", b"--xyz\r\nx"),
            True,
        ),
    ],
)
def test_requests_are_alike_but_for_dates_and_boundaries(one: Effect, other: Effect, alike: bool) -> None:
    assert (one == other) is alike


def test_key_anywhere_in_it_makes_a_message_keyed() -> None:
    assert request(b"Idempotency-Key: " + KEY.encode()).keyed
    assert request(b"A: 1", b"{'order': '" + KEY.encode() + b"-2'}").keyed
    assert not request(b"A: 1").keyed


def test_of_a_talk_with_a_mail_server_only_the_mail_counts() -> None:
    def mail(date: str) -> Effect:
        wire = Wire("mail:25").say(b"ehlo shop\r\n")
        wire.talk.answered()
        for said in (b"mail FROM:<a@b>\r\n", b"rcpt TO:<you@c>\r\n", b"rcpt TO:<me@c>\r\n", b"data\r\n"):
            wire.say(said)
            wire.talk.answered()
        wire.say(f"Date: {date}\r\nSubject: hi\r\n\r\nhello\r\n.\r\n".encode())
        wire.talk.answered()
        wire.say(b"QUIT\r\n")
        assert wire.begun == [("mail", "me@c, you@c")]
        return wire.effect

    assert mail("Mon") == mail("Tue")


def test_encrypted_message_has_no_payload() -> None:
    effect = Wire("bank:443", hidden=True).say(b"\x17\x03\x03abc").effect
    assert (effect.kind, effect.target, effect.payload) == ("socket", "bank:443", None)
