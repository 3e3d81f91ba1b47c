"""What differs between two runs, and what does not."""

from __future__ import annotations

import pytest

from duly.proof.difference import (
    Difference,
    Fault,
    effects_that_differ,
    files_that_differ,
    relied_on,
    rows_that_differ,
    unseen,
)
from duly.proof.files import Content
from duly.proof.outside import Effect
from duly.proof.snapshot import NEW, Row, Snapshot, Table, shown

COLUMNS = ("id", "name", "at")
Line = tuple[str, str, str]
ANN: Line = ("1", "'ann'", "'2026-01-01 10:00:00'")
BOB: Line = ("2", "'bob'", "'2026-01-01 10:00:01'")


def row(values: Line, *, drawn: bool = False) -> Row:
    return Row(values, (NEW, *values[1:]) if drawn else values)


def left(*came: Line, went: tuple[Line, ...] = (), drawn: bool = False) -> Snapshot:
    """A world in which these rows came to the table ``people``, and those went."""
    rows = tuple(row(values, drawn=drawn) for values in came)
    gone = tuple(row(values) for values in went)
    return Snapshot({("shop.db", "people"): Table("people", COLUMNS, ("id",), rows, gone)})


def rows(clean: Snapshot, other: Snapshot, **how: object) -> list[Difference]:
    return list(rows_that_differ(clean, other, **how))  # type: ignore[arg-type]


# ── rows ──────────────────────────────────────────────────────────────────────────────────────


def test_same_rows_do_not_differ() -> None:
    assert rows(left(ANN, BOB), left(BOB, ANN)) == []
    assert rows(Snapshot(), Snapshot()) == []


def test_row_once_too_often_is_doubled_whatever_number_was_drawn() -> None:
    again = ("2", *ANN[1:])
    (found,) = rows(left(ANN, drawn=True), left(ANN, again, drawn=True))
    assert found == Difference(
        "row", "people in shop.db", Fault.DOUBLED, ("+ id=2  name='ann'  at='2026-01-01 10:00:00'",)
    )


def test_number_that_was_drawn_does_not_matter() -> None:
    assert rows(left(ANN, drawn=True), left(("7", *ANN[1:]), drawn=True)) == []
    (found,) = rows(left(ANN), left(("7", *ANN[1:])))  # it was given
    assert found.columns == ("people.id",)


def test_row_that_is_missing() -> None:
    (found,) = rows(left(ANN, BOB), left(ANN))
    assert (found.fault, found.lines[0][:6]) == (Fault.MISSING, "- id=2")


def test_row_that_is_there_and_should_not_be() -> None:
    (found,) = rows(Snapshot(), left(BOB))
    assert (found.fault, found.lines[0][:6]) == (Fault.MORE, "+ id=2")


def test_row_that_was_not_removed_and_row_that_was() -> None:
    (found,) = rows(left(went=(ANN,)), Snapshot())
    assert found.fault is Fault.MORE
    (found,) = rows(Snapshot(), left(went=(ANN,)))
    assert found.fault is Fault.MISSING


def test_changed_row_shows_both_and_the_columns() -> None:
    changed = ("1", "'eve'", ANN[2])
    (found,) = rows(left(ANN, went=(BOB,)), left(changed, went=(BOB,)))
    assert (found.fault, found.columns, found.by_chance) == (Fault.CHANGED, ("people.name",), False)
    assert [line[0] for line in found.lines] == ["-", "+"]


def test_update_that_never_came_is_a_changed_row() -> None:
    (found,) = rows(left(("1", "'eve'", ANN[2]), went=(ANN,)), Snapshot())
    assert (found.fault, found.columns) == (Fault.CHANGED, ("people.name",))
    assert found.lines == (
        "- id=1  name='eve'  at='2026-01-01 10:00:00'",
        "+ id=1  name='ann'  at='2026-01-01 10:00:00'",
    )


def test_free_column_is_not_compared() -> None:
    later = (*ANN[:2], "'2027-01-01 00:00:00'")
    assert rows(left(ANN), left(later), free=["people.at"]) == []
    assert rows(left(ANN), left(later), free=["public.people.at", "others.at"]) != []
    assert rows(left(ANN), left(later, later), free=["people.at"]) != []


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("'2026-01-01 10:00:00'", "'2026-01-01 10:00:09.5'", True),
        ("2026-01-01T10:00:00+00:00", "2026-01-01T10:00:01+00:00", True),
        ("1790000000.25", "1790000001", True),
        ("'0198a1c2-8d3e-7f40-9c55-2b1f6f0f9a01'", "'0198a1c2-8d3e-7f40-9c55-2b1f6f0f9a02'", True),
        ("1", "2", False),
        ("100", "200", False),
        ("'paid'", "'open'", False),
        ("'2026-01-01 10:00:00'", "NULL", False),
    ],
)
def test_clocks_and_random_ids_differ_by_chance(before: str, after: str, expected: bool) -> None:
    (found,) = rows(left((*ANN[:2], before)), left((*ANN[:2], after)))
    assert found.by_chance is expected


def test_what_is_missing_is_as_promised_where_only_doubling_counts() -> None:
    again = ("2", *ANN[1:])
    assert rows(left(ANN, BOB), left(ANN), only_doubled=True) == []
    assert rows(left(ANN), left(("1", "'half'", ANN[2])), only_doubled=True) == []
    assert len(rows(left(ANN, drawn=True), left(ANN, again, drawn=True), only_doubled=True)) == 1


def test_many_rows_are_cut_short() -> None:
    many = tuple((str(number), "'x'", "NULL") for number in range(9))
    (found,) = rows(Snapshot(), left(*many))
    assert len(found.lines) == 6
    assert found.lines[-1] == "  … and 4 more"


def test_values_are_told_apart_by_type() -> None:
    assert shown(1) != shown("1")
    assert shown(None) != shown("NULL")
    assert shown(b"\x00" * 100) != shown(b"\x01" * 100)
    assert shown(memoryview(b"ab")) == shown(b"ab") == "x'6162'"


# ── effects ───────────────────────────────────────────────────────────────────────────────────


def mail(payload: str | None = "hello", *, keyed: bool = False) -> Effect:
    return Effect("mail", "ann@example.org", payload, keyed, "shop.py:1")


def test_mail_sent_twice_differs() -> None:
    (found,) = effects_that_differ([mail()], [mail(), mail()])
    assert found == Difference(
        "effect", "mail to ann@example.org", Fault.DOUBLED, ("+ twice, once in the clean run",), effect="mail"
    )


def test_mail_not_sent_differs_unless_that_is_promised() -> None:
    (found,) = effects_that_differ([mail()], [])
    assert (found.fault, found.lines) == (Fault.MISSING, ("- not at all, once in the clean run",))
    assert list(effects_that_differ([mail()], [], only_doubled=True)) == []
    assert len(list(effects_that_differ([mail()], [mail()] * 2, only_doubled=True))) == 1


def test_repetition_with_the_key_counts_once_and_is_relied_on() -> None:
    clean, other = [mail(keyed=True)], [mail(keyed=True)] * 3
    assert list(effects_that_differ(clean, other)) == []
    assert relied_on(clean, other) == {"mail to ann@example.org"}
    assert relied_on(clean, clean) == set()


def test_other_content_under_the_same_key_differs() -> None:
    found = list(effects_that_differ([mail("a", keyed=True)], [mail("a", keyed=True), mail("b", keyed=True)]))
    assert [one.fault for one in found] == [Fault.MORE]


def test_content_that_cannot_be_seen_is_not_judged() -> None:
    clean, other = [mail(None)], [mail(None)] * 2
    assert list(effects_that_differ(clean, other)) == []
    assert len(unseen(clean, other)) == 1
    assert unseen(clean, clean) == []


# ── files ─────────────────────────────────────────────────────────────────────────────────────


def content(text: str | None, digest: str = "") -> Content:
    return Content(digest or str(hash(text)), text)


@pytest.mark.parametrize(
    ("clean", "other", "fault", "lines"),
    [
        (content("a\n"), content("a\na\n"), Fault.DOUBLED, ("  a", "+ a")),
        (content("a\nb\n"), content("a\n"), Fault.CHANGED, ("  a", "- b")),
        (content("a\n"), None, Fault.MISSING, ("- is not there",)),
        (None, content("a\n"), Fault.CHANGED, ("+ is there, and is not after the clean run",)),
        (content(None, "x"), content(None, "y"), Fault.CHANGED, ("~ has another content",)),
    ],
)
def test_file_that_differs(
    clean: Content | None, other: Content | None, fault: Fault, lines: tuple[str, ...]
) -> None:
    (found,) = files_that_differ({"a": clean} if clean else {}, {"a": other} if other else {})
    assert (found.where, found.fault, found.lines) == ("a", fault, lines)


def test_same_files_do_not_differ() -> None:
    assert list(files_that_differ({"a": content("x")}, {"a": content("x")})) == []
    assert list(files_that_differ({"a": content("x")}, {"a": None}, only_doubled=True)) == []
