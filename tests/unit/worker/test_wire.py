"""What a worker and a cell say to each other comes back as it went, and nothing else is taken for a message."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import get_args
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly.model.job import ClaimedJob
from duly.model.report import Died, Ended, Lost, PutBack, Recorded, Released, Report, Succeeded
from duly.model.states import Outcome
from duly.task.context import Stop
from duly.worker.wire import Began, Garbled, Message, Order, Returned, StopAsked, Wire, decode, encode

NOW = datetime(2026, 5, 4, 3, 2, 1, 987_654, UTC)
ID = UUID("018f0000-0000-7000-8000-00000000000a")
JOB = ClaimedJob(
    ID, ID, "shop.charge", "mail", -5, 3, 1, 0, NOW, NOW + timedelta(days=90), NOW, "ada", bytes(range(256))
)
REPORTS: list[Report] = [
    Succeeded(ID, 3, NOW),
    Succeeded(ID, 3, NOW, b"\x00sealed"),
    *(Ended(ID, 3, outcome, "why: ü\n", counted=True, started_at=NOW, error=b"\xff") for outcome in Outcome),
    Ended(ID, 3, Outcome.EXPIRED, "", counted=False),
    PutBack(ID, 3, "ValueError", True, timedelta(days=2, seconds=3, microseconds=4), None, b"", NOW),
    PutBack(ID, 3, "snoozed", counted=False, at=NOW, unheard=True),
    Died(ID, 3, "killed by SIGSEGV", NOW),
    Died(ID, 3, "exit status 3"),
    Released(ID, 3),
    Recorded(ID, 3),
    Lost(ID, 2**62),
]
MESSAGES: list[Message] = [
    Order(JOB, "host.1.abc", NOW),
    Order(JOB._replace(principal=None, envelope=b""), "", NOW),
    *(StopAsked(reason) for reason in Stop),
    Began(NOW),
    Returned(),
    *REPORTS,
]


def test_every_kind_of_report_is_tried() -> None:
    assert {type(report) for report in REPORTS} == set(get_args(Report))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_went(message: Message) -> None:
    back = decode(encode(message))
    assert back == message
    assert type(back) is type(message)


@given(st.text(), st.binary(), st.integers(0, 2**62))
def test_whatever_stands_in_the_fields(cause: str, error: bytes, claim: int) -> None:
    report = Ended(ID, claim, Outcome.FAILED, cause, counted=True, started_at=NOW, error=error)
    assert decode(encode(report)) == report


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b"{}",
        b'{"kind": "Recorded"}',
        b'{"kind": "os.system", "id": "x"}',
        b'{"kind": "Began", "at": 5}',
        b'{"kind": "Began", "at": null}',
        b'{"kind": ["Began"], "at": null}',
        b"[" * 100_000,
        encode(Recorded(ID, 3)).replace(b"3}", b'"3"}'),
        encode(Recorded(ID, 3)).replace(b"3}", b"true}"),
        encode(Released(ID, 3)).replace(ID.hex.encode(), b"nobody"),
        encode(Succeeded(ID, 3, NOW, b"abc")).replace(b"YWJj", b"Y!Jj"),
        encode(StopAsked(Stop.LOST)).replace(b"lost", b"found"),
    ],
)
def test_anything_else_is_garbled(body: bytes) -> None:
    with pytest.raises(Garbled):
        decode(body)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_no_field_of_an_order_may_be_anything(value: object) -> None:
    said = json.loads(encode(Order(JOB, "worker", NOW)))
    said["job"] = value
    with pytest.raises(Garbled):
        decode(json.dumps(said).encode())


# ── the line ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


Ends = tuple[socket.socket, socket.socket]


def test_messages_in_pieces_and_in_a_row(ends: Ends) -> None:
    one, other = ends
    wire = Wire(other)
    bodies = [encode(message) for message in (Began(NOW), Returned(), Recorded(ID, 1))]
    said = b"".join(len(body).to_bytes(4) + body for body in bodies)
    one.sendall(said[:3])
    assert wire.hear() == []
    one.sendall(said[3:-1])
    assert wire.hear() == [Began(NOW), Returned()]
    one.sendall(said[-1:])
    assert wire.hear() == [Recorded(ID, 1)]
    assert wire.hear(wait=False) == []


def test_a_message_longer_than_a_read(ends: Ends) -> None:
    one, other = ends
    long = Succeeded(ID, 1, NOW, bytes(60_000))
    Wire(one).say(long)
    heard, wire = [], Wire(other)
    while not heard:
        heard = wire.hear() or []
    assert heard == [long]


def test_the_end_of_the_line(ends: Ends) -> None:
    one, other = ends
    wire, copy = Wire(other), one.dup()
    Wire(one).say(Returned())
    Wire(one).close()
    assert wire.hear() == [Returned()]
    assert wire.hear() is None  # though another process has a copy of the other end
    with pytest.raises(OSError, match="pipe"):
        wire.say(Returned())
    Wire(one).close()
    copy.close()
