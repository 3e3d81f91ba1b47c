"""A sealed envelope opens only as it was sealed, where it was sealed."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly.clock import Clock
from duly.envelope.keys import Key, Keyring
from duly.envelope.seal import Sealer, key_id_of
from duly.errors import ArgumentsMisfit, EnvelopeError, EnvelopeRejected, UnknownKey
from duly.model.ids import new_id
from duly.model.job import Binding

NOW = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)
BODY = b'{"v":1,"a":{"user_id":42},"o":{}}'
FIRST, SECOND = Key("k1", bytes(range(32))), Key("k2", bytes(range(32, 64)))
SEALER = Sealer(Keyring([FIRST]))
PLAIN = Sealer(Keyring())


class TurnedClock(Clock):
    def __init__(self, now):
        self.now = now

    def wall(self):
        return self.now


def binding(**changes):
    usual = Binding(new_id(), new_id(), "shop.send", "mail", "anna", NOW, NOW + timedelta(days=90))
    return usual._replace(**changes)


BOUND = binding()
SEALED = SEALER.seal("arguments", BOUND, BODY)


# ── there and back ────────────────────────────────────────────────────────────────────────────


@given(body=st.binary(max_size=300), label=st.text(max_size=20), principal=st.none() | st.text(max_size=20))
def test_what_was_sealed_opens(body, label, principal):
    try:
        label.encode(), (principal or "").encode()
    except UnicodeEncodeError:
        return
    body = b"{" + body
    where = binding(principal=principal)
    blob = SEALER.seal(label, where, body)
    assert SEALER.open(label, where, blob) == body
    assert len(body) < 8 or body not in blob


def test_the_header_is_as_documented():
    blob = Sealer(Keyring([FIRST]), clock=TurnedClock(NOW)).seal("arguments", BOUND, BODY)
    assert blob[:4] == b"\x01\x02k1"
    assert blob[4:6] == (NOW.date() - datetime(2020, 1, 1, tzinfo=UTC).date()).days.to_bytes(2)
    assert len(blob) == 6 + 12 + len(BODY) + 16
    assert key_id_of(blob) == SEALER.key_id == "k1"


@pytest.mark.parametrize("year", [1999, 2019, 2020, 2199, 2300])
def test_any_clock_seals_what_can_be_opened(year):
    blob = Sealer(Keyring([FIRST]), clock=TurnedClock(NOW.replace(year=year))).seal("x", BOUND, BODY)
    assert SEALER.open("x", BOUND, blob) == BODY


def test_an_instant_is_bound_not_the_zone_it_is_written_in():
    elsewhere = BOUND._replace(enqueued_at=BOUND.enqueued_at.astimezone(timezone(timedelta(hours=9))))
    assert SEALER.open("arguments", elsewhere, SEALED) == BODY


def test_old_keys_open_what_they_sealed_and_the_first_one_seals():
    both = Sealer(Keyring([SECOND, FIRST]))
    assert both.open("arguments", BOUND, SEALED) == BODY
    assert key_id_of(both.seal("arguments", BOUND, BODY)) == "k2"


def test_nonces_do_not_repeat():
    blobs = [SEALER.seal("arguments", BOUND, BODY) for _ in range(5_000)]
    assert len({blob[6:18] for blob in blobs}) == len(blobs)


def test_threads_share_a_sealer():
    def there_and_back(number):
        where = binding(task=f"t{number}")
        body = b'{"n":%d}' % number * 50
        return SEALER.open("arguments", where, SEALER.seal("arguments", where, body)) == body

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(there_and_back, range(3_000)))


# ── edited, copied, swapped ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("place", range(len(SEALED)))
@pytest.mark.parametrize("bit", [0x01, 0x20, 0x80])
def test_a_changed_byte_never_opens(place, bit):
    edited = bytearray(SEALED)
    edited[place] ^= bit
    with pytest.raises((EnvelopeRejected, UnknownKey)) as refused:
        SEALER.open("arguments", BOUND, bytes(edited))
    if place not in (2, 3):  # in the key id: it may have become the id of an unknown key
        assert refused.type is EnvelopeRejected


@pytest.mark.parametrize("length", range(len(SEALED)))
def test_a_shortened_envelope_is_rejected(length):
    with pytest.raises(EnvelopeRejected):
        SEALER.open("arguments", BOUND, SEALED[:length])


def test_a_lengthened_envelope_is_rejected():
    with pytest.raises(EnvelopeRejected):
        SEALER.open("arguments", BOUND, SEALED + b"\0")


@pytest.mark.parametrize(
    "changes",
    [
        {"id": new_id()},
        {"origin": new_id()},
        {"id": BOUND.origin, "origin": BOUND.id},
        {"task": "shop.sent"},
        {"task": ""},
        {"queue": "mai"},
        {"principal": "anne"},
        {"principal": ""},
        {"principal": None},
        {"enqueued_at": NOW + timedelta(microseconds=1)},
        {"expires_at": BOUND.expires_at + timedelta(microseconds=1)},
        {"expires_at": NOW, "enqueued_at": BOUND.expires_at},
        {"task": "mail", "queue": "shop.send"},
        {"task": "shop.sen", "queue": "dmail"},
        {"queue": "maila", "principal": "nna"},
        {"queue": "mailanna", "principal": ""},
    ],
)
def test_a_changed_column_is_rejected(changes):
    with pytest.raises(EnvelopeRejected, match="edited"):
        SEALER.open("arguments", BOUND._replace(**changes), SEALED)


def test_no_principal_and_an_empty_one_differ():
    blob = SEALER.seal("arguments", BOUND._replace(principal=None), BODY)
    with pytest.raises(EnvelopeRejected):
        SEALER.open("arguments", BOUND._replace(principal=""), blob)


TEXTS = st.text("ab", max_size=3)
COLUMNS = st.tuples(TEXTS, TEXTS, TEXTS, st.none() | TEXTS)


@given(COLUMNS, COLUMNS)
def test_nothing_moves_from_one_column_to_its_neighbor(one, other):
    (label, task, queue, principal), (label2, task2, queue2, principal2) = one, other
    blob = SEALER.seal(label, BOUND._replace(task=task, queue=queue, principal=principal), BODY)
    elsewhere = BOUND._replace(task=task2, queue=queue2, principal=principal2)
    if one == other:
        assert SEALER.open(label2, elsewhere, blob) == BODY
    else:
        with pytest.raises(EnvelopeRejected):
            SEALER.open(label2, elsewhere, blob)


def test_envelopes_swapped_between_jobs_are_rejected():
    one, other = binding(), binding()
    blobs = SEALER.seal("arguments", one, BODY), SEALER.seal("arguments", other, BODY)
    for where, blob in ((one, blobs[1]), (other, blobs[0])):
        with pytest.raises(EnvelopeRejected):
            SEALER.open("arguments", where, blob)


def test_a_result_is_not_taken_for_arguments():
    with pytest.raises(EnvelopeRejected):
        SEALER.open("arguments", BOUND, SEALER.seal("result", BOUND, BODY))


def test_another_secret_under_the_same_id_is_rejected():
    with pytest.raises(EnvelopeRejected):
        Sealer(Keyring([Key("k1", SECOND.secret)])).open("arguments", BOUND, SEALED)


def test_another_day_in_the_header_is_rejected():
    later = SEALED[:4] + (int.from_bytes(SEALED[4:6]) + 1).to_bytes(2) + SEALED[6:]
    with pytest.raises(EnvelopeRejected):
        SEALER.open("arguments", BOUND, later)


# ── with keys, without keys, with others ──────────────────────────────────────────────────────


def test_without_keys_envelopes_are_plain():
    assert PLAIN.key_id is None
    assert PLAIN.seal("arguments", BOUND, BODY) == BODY
    assert PLAIN.open("arguments", BOUND, BODY) == BODY
    assert key_id_of(BODY) is None


def test_a_plain_envelope_is_rejected_where_keys_are_set():
    with pytest.raises(EnvelopeRejected, match="plain although keys are set"):
        SEALER.open("arguments", BOUND, BODY)


@pytest.mark.parametrize("sealer", [PLAIN, Sealer(Keyring([SECOND]))])
def test_an_unknown_key_is_said_by_its_id(sealer):
    with pytest.raises(UnknownKey, match=r"'k1'.*DULY_KEYS"):
        sealer.open("arguments", BOUND, SEALED)


GARBAGE = [
    b"",
    b"\x01",
    b"\x01\x02k1",
    b"[]",
    b"null",
    b" {}",
    b"\x00" * 60,
    b"\x02" + SEALED[1:],
    b"\xff" * 80,
]
GARBAGE += [
    b"\x01\x00" + bytes(60),
    b"\x01\xff" + b"a" * 400,
    b"\x01\x02K1" + SEALED[4:],
    b"\x01\x02k\n" + SEALED[4:],
]


@pytest.mark.parametrize("blob", GARBAGE)
def test_garbage_is_rejected_with_keys_and_a_misfit_without(blob):
    with pytest.raises(EnvelopeRejected):
        SEALER.open("arguments", BOUND, blob)
    with pytest.raises(ArgumentsMisfit):
        PLAIN.open("arguments", BOUND, blob)
    assert key_id_of(blob) is None


@given(st.binary(max_size=120))
def test_no_bytes_raise_anything_but_envelope_errors(blob):
    for sealer in (SEALER, PLAIN):
        try:
            sealer.open("arguments", BOUND, blob)
        except EnvelopeError:
            pass
        else:
            assert sealer is PLAIN
            assert blob[:1] == b"{"
    key_id_of(blob)


def test_a_refused_envelope_says_nothing_of_its_content_or_key():
    with pytest.raises(EnvelopeRejected) as refused:
        SEALER.open("result", BOUND, SEALED)
    for hidden in ("user_id", "anna", repr(FIRST.secret)[2:12], FIRST.secret.hex()[:8]):
        assert hidden not in str(refused.value)


# ── digests ───────────────────────────────────────────────────────────────────────────────────


def test_a_digest_without_a_key_is_a_plain_hash():
    assert PLAIN.digest(b"x", None) == SEALER.digest(b"x", None) == hashlib.sha256(b"x").digest()


def test_a_digest_depends_on_key_and_content_and_not_on_the_day():
    both = Sealer(Keyring([FIRST, SECOND]))
    assert (
        len(
            {
                both.digest(b"x", "k1"),
                both.digest(b"x", "k2"),
                both.digest(b"y", "k1"),
                both.digest(b"x", None),
            }
        )
        == 4
    )
    tomorrow = Sealer(Keyring([SECOND, FIRST]), clock=TurnedClock(NOW + timedelta(days=1)))
    assert tomorrow.digest(b"x", "k1") == both.digest(b"x", "k1")
    assert len(both.digest(b"x", "k1")) == 32


def test_a_digest_under_a_missing_key_is_refused():
    with pytest.raises(UnknownKey, match="'k2'"):
        SEALER.digest(b"x", "k2")


def test_stored_envelopes_stay_readable_in_every_release():
    """An envelope as this format makes it: a change that breaks this needs another first byte."""
    where = Binding(
        UUID(int=1), UUID(int=2), "shop.send", "mail", None, NOW.replace(year=2025), NOW.replace(year=2027)
    )
    blob = bytes.fromhex(
        "01026b3107d0000102030405060708090a0b6b68dd7a343b37f3129d7887e031b7481871c13d42fb7d2b9e8f08ca7f84b3760620acdab7a6512c2875fa99be71d7871a"
    )
    assert SEALER.open("arguments", where, blob) == BODY
