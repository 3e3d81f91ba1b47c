"""The prover: a task crashed, frozen and doubled at every point, each time in a fresh world, and compared.

1. Two clean runs. What differs between them is chance (a clock, a random id), and must be declared free.
2. For each point of the clean run: killed before it, killed after it, frozen before it.
3. Two deliveries at once, a few times.
4. Each run must have left what the clean one left: the same rows, files and effects, the same outcome.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from duly.errors import CannotTell, DulyError, SchemaError
from duly.proof import difference
from duly.proof.difference import Difference, Fault
from duly.proof.hints import hint
from duly.proof.home import Home
from duly.proof.points import Moment, Point, Stop
from duly.proof.run import Run, Runs
from duly.proof.snapshot import Snapshot
from duly.proof.verdict import Divergence, Trial, Verdict, Word
from duly.proof.world import World, Worlds

if TYPE_CHECKING:
    from duly.task.task import Task

DOUBLED = 3
"""How often two deliveries are tried at once: their course is not the same each time."""
RETURNED = "returned"

Progress = Callable[[int, int, str], None]
"""Told how many runs are done, how many there are to be, and what comes next."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A run, and what it has left."""

    run: Run
    left: Snapshot


@dataclass(frozen=True, slots=True)
class _Try:
    """One thing to be done to the task."""

    trial: Trial
    point: Point | None
    moment: Moment | None
    runs: Callable[[World], Run]


@dataclass(slots=True)
class _Findings:
    """What came out so far."""

    divergences: list[Divergence] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    free: set[str] = field(default_factory=set)
    relies_on: set[str] = field(default_factory=set)
    done: int = 0


class Prover:
    """Proves one call of one task. *free* names columns that may differ, as ``table.column``."""

    def __init__(
        self,
        app: Home,
        task: Task[..., Any],
        arguments: Mapping[str, Any],
        worlds: Worlds,
        *,
        free: Collection[str] = (),
        reach: Collection[str] = (),
        progress: Progress = lambda _done, _all, _next: None,
    ) -> None:
        self._app = app
        self._task = task
        self._arguments = dict(arguments)
        self._worlds = worlds
        self._free = frozenset(free)
        self._progress = progress
        self._runs = Runs(app, task, arguments, reach=frozenset(reach))
        self._findings = _Findings()
        self._began = time.monotonic()

    def prove(self) -> Verdict:
        """Do it all; the verdict."""
        self._make_ready()
        self._progress(0, 2, "a clean run")
        clean = self._see(self._runs.clean)
        if why := self._why_not(clean):
            return self._verdict(clean, Word.CANNOT_TELL, reasons=why)
        self._progress(1, 2, "another clean run")
        again = self._see(self._runs.clean)
        if self._chance(clean, again):
            return self._verdict(clean, Word.CANNOT_TELL)
        self._try_all(clean, list(self._trials(clean.run)))
        found = self._findings
        if found.divergences:
            return self._verdict(clean, Word.DIVERGES)
        return self._verdict(clean, Word.CANNOT_TELL if found.reasons else Word.PROVED)

    # ── before ────────────────────────────────────────────────────────────────────────────────

    def _make_ready(self) -> None:
        """Duly's tables are in the copy, of this release; no connection stays open."""
        try:
            tables = self._tables()
        except DulyError:
            raise
        except (
            Exception
        ) as error:  # the application's own listeners may run here, and meet what a copy refuses
            kind = type(error).__name__
            raise CannotTell(
                f"a copy of the app's database cannot be opened ({kind}; does it ATTACH?)"
            ) from error
        self._worlds.disregard(tables.metadata.tables)
        self._app.close()

    def _tables(self) -> Any:
        try:
            return self._app.store.tables
        except SchemaError:
            self._app.migrate()
            return self._app.store.tables

    def _see(self, runs: Callable[[World], Run]) -> _Seen:
        world = self._worlds.fresh()
        try:
            return _Seen(runs(world), world.snapshot())
        finally:
            world.remove()

    def _why_not(self, seen: _Seen) -> list[str]:
        """Why nothing can be said, of a clean run."""
        if why := [*self._worlds.notes, *seen.run.notes]:
            return list(dict.fromkeys(why))
        if seen.run.outcome != "succeeded":
            how = f"the clean run ended {seen.run.outcome} after {seen.run.attempts} attempts ({seen.run.cause})"
            return [f"{how}: give arguments with which the task succeeds on this data"]
        return []

    def _chance(self, clean: _Seen, again: _Seen) -> bool:
        """Whether two clean runs differ, so that nothing could be compared with them."""
        for one in self._differences(clean, again):
            self._by_chance(one)
        if again.run.notes:
            self._findings.reasons += again.run.notes
        return bool(self._findings.reasons)

    def _by_chance(self, one: Difference) -> None:
        found = self._findings
        found.free.update(one.columns)
        what = (
            "its " + ", ".join(column.rpartition(".")[2] for column in one.columns) if one.columns else "it"
        )
        reason = f"{one.where}: {what} {'are' if one.columns[1:] else 'is'} not the same from one clean run to the next"
        if reason not in found.reasons:
            found.reasons.append(reason)

    # ── trials ────────────────────────────────────────────────────────────────────────────────

    def _trials(self, clean: Run) -> Iterator[_Try]:
        for point in clean.points:
            for moment in Moment:
                if moment is Moment.BEFORE or point.kind != RETURNED:
                    stop = Stop(point.number, moment)
                    yield _Try(Trial.KILLED, point, moment, partial(self._runs.crashed, at=stop))
        for point in clean.points:
            if not point.held:
                stop = Stop(point.number, Moment.BEFORE)
                yield _Try(Trial.FROZEN, point, Moment.BEFORE, partial(self._runs.frozen, at=stop))
        for _ in range(DOUBLED):
            yield _Try(Trial.DOUBLED, None, None, self._runs.doubled)

    def _try_all(self, clean: _Seen, trials: list[_Try]) -> None:
        for number, one in enumerate(trials):
            where = f" {one.moment} {one.point.where}" if one.point else ""
            self._progress(number + 2, len(trials) + 2, f"{one.trial}{where}")
            seen = self._see(one.runs)
            self._findings.done += 1
            self._judge(clean, seen, one)
        self._progress(len(trials) + 2, len(trials) + 2, "")

    def _judge(self, clean: _Seen, seen: _Seen, one: _Try) -> None:
        found = self._findings
        new = [note for note in (*self._worlds.notes, *seen.run.notes) if note not in found.reasons]
        if new:
            found.reasons += new
            return
        found.relies_on |= difference.relied_on(clean.run.effects, seen.run.effects)
        for effect in difference.unseen(clean.run.effects, seen.run.effects):
            found.reasons.append(
                f"something was sent to {effect.target} twice ({effect.where}), and what it was cannot be seen"
            )
        differ = list(self._differences(clean, seen))
        for chance in (each for each in differ if each.by_chance):
            self._by_chance(chance)
        differ = [each for each in differ if not each.by_chance]
        if differ:
            found.divergences.append(
                Divergence(
                    trial=one.trial,
                    point=one.point,
                    moment=one.moment,
                    outcome=seen.run.outcome,
                    attempts=seen.run.attempts,
                    differences=tuple(differ),
                    hint=hint(differ, one.point, self._task.effects),
                )
            )

    def _differences(self, clean: _Seen, seen: _Seen) -> Iterator[Difference]:
        promised = self._task.unrepeatable and seen.run.outcome == "uncertain"
        if seen.run.outcome != clean.run.outcome and not promised:
            lines = (f"- {clean.run.outcome}", f"+ {seen.run.outcome or 'did not end'}")
            yield Difference("outcome", "the job's outcome", Fault.CHANGED, lines)
        yield from difference.effects_that_differ(clean.run.effects, seen.run.effects, only_doubled=promised)
        yield from difference.rows_that_differ(clean.left, seen.left, free=self._free, only_doubled=promised)
        yield from difference.files_that_differ(clean.left.files, seen.left.files, only_doubled=promised)

    def _verdict(self, clean: _Seen, word: Word, reasons: Collection[str] = ()) -> Verdict:
        found = self._findings
        return Verdict(
            word=word,
            task=self._task.name,
            arguments=self._arguments,
            effects=self._task.effects,
            points=clean.run.points,
            runs=found.done,
            seconds=time.monotonic() - self._began,
            divergences=tuple(found.divergences),
            reasons=tuple(reasons or found.reasons),
            remedies=tuple(sorted(found.free)),
            relies_on=tuple(sorted(found.relies_on)),
        )
