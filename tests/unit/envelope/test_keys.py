"""Keys are read strictly, derived by purpose and day, and never shown."""

from __future__ import annotations

import base64
import traceback

import pytest

from duly.envelope.keys import Key, Keyring, new_key
from duly.errors import SettingsError

SECRET = bytes(range(200, 232))
TEXT = base64.urlsafe_b64encode(SECRET).decode()


def test_the_first_key_seals_and_all_are_found():
    ring = Keyring.parse(f"new:{TEXT}, old:{TEXT.rstrip('=')}\n older:{TEXT}")
    assert ring.active == Key("new", SECRET)
    assert ring.find("old") == Key("old", SECRET)
    assert ring.find("older").secret == SECRET
    assert ring.find("unheard") is None
    assert ring


@pytest.mark.parametrize("text", ["", "  ", "\n", ",", " ,, "])
def test_an_empty_text_is_a_ring_without_keys(text):
    ring = Keyring.parse(text)
    assert not ring
    assert ring.active is None
    assert ring.find("") is None


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (TEXT, "key 1 has no ':'"),
        (f":{TEXT}", "the id of key 1"),
        (f"New:{TEXT}", "the id of key 1"),
        (f"{'a' * 17}:{TEXT}", "the id of key 1"),
        (f"{TEXT}:k", "the id of key 1"),
        ("k:", "secret of key 'k'"),
        (f"k:{TEXT[:40]}", "secret of key 'k'"),
        (f"k:{TEXT}{TEXT}", "secret of key 'k'"),
        (f"k:{TEXT[:-2]}+=", "secret of key 'k'"),
        (f"k:{TEXT[:20]}:{TEXT[21:]}", "secret of key 'k'"),
        (f"k:{TEXT} k:{new_key().partition(':')[2]}", "two keys have the id k"),
        (f"k:{TEXT} k:{TEXT}", "two keys have the id k"),
    ],
)
def test_a_malformed_key_is_named_with_its_remedy_and_not_shown(entry, said):
    with pytest.raises(SettingsError) as refused:
        Keyring.parse(entry)
    told = "".join(traceback.format_exception_only(refused.value))
    assert said in told
    assert "duly keys new" in told
    for start in range(len(entry) - 6):
        piece = entry[start : start + 6]
        assert piece in "two keys have the id k" or piece not in told


def test_a_secret_of_another_length_is_refused():
    with pytest.raises(SettingsError, match="exactly 32 bytes, not 31"):
        Key("k", SECRET[:-1])


def test_key_material_is_in_no_repr():
    key = Key("k1", SECRET)
    for text in (repr(key), str(key), f"{key}", repr(Keyring([key])), repr([key])):
        assert "k1" in text
        for shown in (repr(SECRET), TEXT, SECRET.hex(), repr(SECRET)[2:10]):
            assert shown not in text


def test_a_new_key_is_one_line_that_parses_and_is_new():
    lines = {new_key() for _ in range(50)}
    assert len(lines) == 50
    for line in lines:
        assert "\n" not in line
        assert len(Keyring.parse(line).active.secret) == 32


def test_sub_keys_differ_by_purpose_day_and_key():
    one, other = Key("a", SECRET), Key("a", SECRET[::-1])
    derived = [one.derive("seal", 1), one.derive("seal", 2), one.derive("digest"), other.derive("seal", 1)]
    assert len(set(derived)) == 4
    assert {len(each) for each in derived} == {32}
    assert SECRET not in derived


def test_sub_keys_stay_the_same_in_every_release():
    """A change here would make every stored envelope unreadable."""
    assert Key("a", bytes(32)).derive("seal", 2000).hex() == (
        "403bd6a867c23971d489a93c80ac60599fed85662ddaf2fcc2f161b631514e62"
    )
    assert Key("a", bytes(32)).derive("digest").hex() == (
        "26bf367fde63cc43d61e56b87b3c20bbd54fc1ebd9f654af74d77e03b1ee9beb"
    )
