"""What differs between the clean run and another: rows, effects, files, the job's outcome."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from duly.proof.files import Content
from duly.proof.outside import Effect
from duly.proof.snapshot import Row, Snapshot, Table

_LONGEST = 60
_CHANCE = (
    re.compile(r"'?\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?'?"),
    re.compile(r"1\d{9}(\.\d+)?"),
    re.compile(r"'?[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}'?"),
)
"""What clocks and random ids look like: instants, seconds since 1970, UUIDs."""
_MOST_LINES = 12
_MOST_ROWS = 5


class Fault(StrEnum):
    """What kind of difference it is."""

    DOUBLED = "doubled"
    MISSING = "missing"
    CHANGED = "changed"
    MORE = "more"


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is not as after the clean run."""

    kind: str
    """``row``, ``effect``, ``file`` or ``outcome``."""
    where: str
    """The table, the receiver, the file."""
    fault: Fault
    lines: tuple[str, ...]
    """``+`` is here and not after the clean run, ``-`` the other way round, ``~`` is not the same."""
    columns: tuple[str, ...] = ()
    """Of a changed row: ``table.column``, for each that is not the same."""
    effect: str = ""
    """Of an effect: its kind."""
    by_chance: bool = False
    """Whether they differ only as clocks and random ids do."""


# ── rows ──────────────────────────────────────────────────────────────────────────────────────


def rows_that_differ(
    clean: Snapshot, other: Snapshot, *, free: Collection[str] = (), only_doubled: bool = False
) -> Iterator[Difference]:
    """Compare row by row, but for the *free* columns (``table.column``).

    *only_doubled*: what is missing, or was left half-way, is as promised.
    """
    for place in sorted({*clean.tables, *other.tables}):
        database, name = place
        before, after = clean.tables.get(place), other.tables.get(place)
        found = _Pairs.between(
            before, after, {column.rpartition(".")[2] for column in free if _is_of(column, name)}
        )
        yield from found.told(f"{name} in {database}", name, only_doubled=only_doubled)


def _is_of(column: str, table: str) -> bool:
    return column.rpartition(".")[0] in {table, table.rpartition(".")[2]}


@dataclass(slots=True)
class _Pairs:
    """The rows of one table that are in one of the two worlds only; a changed row is in both, with one key."""

    columns: tuple[str, ...]
    changed: list[tuple[Row, Row]]
    missing: list[Row]
    more: list[Row]
    doubled: list[Row]

    @classmethod
    def between(cls, clean: Table | None, other: Table | None, free: Collection[str]) -> _Pairs:
        table = clean or other
        assert table is not None  # noqa: S101 - it is in one of the two
        blank = frozenset(table.columns.index(name) for name in free if name in table.columns)
        before, after = clean or _untouched(table), other or _untouched(table)
        there, here = [*before.came, *after.went], [*after.came, *before.went]
        missing, more = _without(there, here, blank), _without(here, there, blank)
        changed = _paired(missing, more, [table.columns.index(name) for name in table.key])
        done = {_compared(row, blank) for row in before.came}
        doubled = [row for row in more if _compared(row, blank) in done]
        return cls(table.columns, changed, missing, [row for row in more if row not in doubled], doubled)

    def told(self, where: str, table: str, *, only_doubled: bool) -> Iterator[Difference]:
        if self.doubled:
            lines = [f"+ {self._row(row)}" for row in self.doubled]
            yield Difference("row", where, Fault.DOUBLED, _few(lines, _MOST_ROWS))
        if only_doubled:
            return
        for a, b in self.changed:
            pairs = list(zip(self.columns, a.compared, b.compared, strict=True))
            names = [name for name, before, after in pairs if before != after]
            lines = [f"- {self._row(a, names)}", f"+ {self._row(b, names)}"]
            columns = tuple(f"{table}.{name}" for name in names)
            chance = all(by_chance(before, after) for _, before, after in pairs if before != after)
            yield Difference("row", where, Fault.CHANGED, tuple(lines), columns, by_chance=chance)
        for rows, sign, fault in ((self.more, "+", Fault.MORE), (self.missing, "-", Fault.MISSING)):
            if rows:
                yield Difference(
                    "row", where, fault, _few([f"{sign} {self._row(row)}" for row in rows], _MOST_ROWS)
                )

    def _row(self, row: Row, names: Collection[str] = ()) -> str:
        """All columns, those that matter first to catch the eye: in the table's own order, each cut short."""
        told = [f"{name}={_short(value)}" for name, value in zip(self.columns, row.values, strict=True)]
        if len(told) > 8 and names:
            told = [
                text
                for text, name in zip(told, self.columns, strict=True)
                if name in {self.columns[0], *names}
            ]
        return "  ".join(told)


def _paired(missing: list[Row], more: list[Row], keys: list[int]) -> list[tuple[Row, Row]]:
    """Take out of both what is one row, changed: the same key, or the same but for a clock; or one is left in each."""
    pairs: list[tuple[Row, Row]] = []

    def take(alike: Callable[[Row, Row], bool]) -> None:
        for a in list(missing):
            b = next((b for b in more if alike(a, b)), None)
            if b is not None:
                missing.remove(a)
                more.remove(b)
                pairs.append((a, b))

    take(lambda a, b: bool(keys) and all(a.values[k] == b.values[k] for k in keys))
    take(lambda a, b: all(x == y or by_chance(x, y) for x, y in zip(a.compared, b.compared, strict=True)))
    if len(missing) == len(more) == 1:
        take(lambda _a, _b: True)
    return pairs


def by_chance(before: str, after: str) -> bool:
    """Whether both are instants, or both are UUIDs: two runs at different times have different ones."""
    return any(kind.fullmatch(before) and kind.fullmatch(after) for kind in _CHANCE)


def _untouched(table: Table) -> Table:
    return Table(table.name, table.columns, table.key, (), ())


def _compared(row: Row, blank: Collection[int]) -> tuple[str, ...]:
    return tuple("" if place in blank else value for place, value in enumerate(row.compared))


def _without(some: list[Row], others: list[Row], blank: Collection[int]) -> list[Row]:
    """Those of *some* that have no like among *others*."""
    left = Counter(_compared(row, blank) for row in others)
    found = []
    for row in some:
        if left[_compared(row, blank)]:
            left[_compared(row, blank)] -= 1
        else:
            found.append(row)
    return found


# ── effects ───────────────────────────────────────────────────────────────────────────────────


def effects_that_differ(
    clean: Collection[Effect], other: Collection[Effect], *, only_doubled: bool = False
) -> Iterator[Difference]:
    """Compare what was sent. Repetitions that carry the job's key count once: their receivers know them by it."""
    before, after = _counted(clean), _counted(other)
    for effect in sorted(
        {*before, *after}, key=lambda effect: (effect.kind, effect.target, effect.payload or "")
    ):
        sent, planned = after[effect], before[effect]
        beside = f"{_times(sent)}, {_times(planned)} in the clean run"
        if sent > planned:
            fault = Fault.DOUBLED if planned else Fault.MORE
            yield Difference("effect", _told(effect), fault, (f"+ {beside}",), effect=effect.kind)
        elif sent < planned and not only_doubled:
            yield Difference("effect", _told(effect), Fault.MISSING, (f"- {beside}",), effect=effect.kind)


def relied_on(clean: Collection[Effect], other: Collection[Effect]) -> set[str]:
    """The receivers that were sent something twice, and must know it by its key."""
    before, after = Counter(map(_same, clean)), Counter(map(_same, other))
    return {_told(effect) for effect in after if effect.keyed and after[effect] > max(before[effect], 1)}


def unseen(clean: Collection[Effect], other: Collection[Effect]) -> list[Effect]:
    """Those that were repeated, and whose content cannot be seen."""
    before, after = Counter(map(_same, clean)), Counter(map(_same, other))
    return [effect for effect in after if effect.payload is None and after[effect] > before[effect]]


def _same(effect: Effect) -> Effect:
    return Effect(effect.kind, effect.target, effect.payload, effect.keyed, "")


def _counted(effects: Collection[Effect]) -> Counter[Effect]:
    count = Counter(_same(effect) for effect in effects if effect.payload is not None)
    return Counter({effect: 1 if effect.keyed else number for effect, number in count.items()})


def _told(effect: Effect) -> str:
    match effect.kind:
        case "mail":
            return f"mail to {effect.target}"
        case "job":
            return f"job of {effect.target}"
        case "process":
            return f"program {effect.target}"
        case "socket":
            return f"sent to {effect.target}"
    return effect.target


def _times(number: int) -> str:
    return {0: "not at all", 1: "once", 2: "twice"}.get(number, f"{number} times")


# ── files ─────────────────────────────────────────────────────────────────────────────────────


def files_that_differ(
    clean: Mapping[str, Content | None], other: Mapping[str, Content | None], *, only_doubled: bool = False
) -> Iterator[Difference]:
    """Compare by content. A file that is not named is as it was before the run."""
    for path in sorted({*clean, *other}):
        before, after = clean.get(path), other.get(path)
        if before == after or (only_doubled and not _repeated(before, after)):
            continue
        fault = (
            Fault.DOUBLED if _repeated(before, after) else Fault.MISSING if after is None else Fault.CHANGED
        )
        yield Difference("file", path, fault, _lines(before, after))


def _repeated(before: Content | None, after: Content | None) -> bool:
    """Whether there is more of the same at the end."""
    if before is None or after is None or not before.text or not after.text:
        return False
    return after.text != before.text and after.text.startswith(before.text)


def _lines(before: Content | None, after: Content | None) -> tuple[str, ...]:
    if after is None:
        return ("- is not there",)
    if before is None:
        return ("+ is there, and is not after the clean run",)
    if before.text is None or after.text is None:
        return ("~ has another content",)
    compared = difflib.ndiff(before.text.splitlines(), after.text.splitlines())
    return _few([f"{line[0]} {_short(line[2:])}" for line in compared if line[0] != "?"], _MOST_LINES)


# ── words ─────────────────────────────────────────────────────────────────────────────────────


def _few(lines: list[str], most: int) -> tuple[str, ...]:
    if len(lines) <= most:
        return tuple(lines)
    return (*lines[:most], f"  … and {len(lines) - most} more")


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
