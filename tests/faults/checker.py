"""The ledger checker: what was promised, what ran and what the database says must agree.

(a) Every committed enqueue has ended exactly once, or still waits (then it has not been lost, and says so).
(b) What a transactional task wrote is there once where its job succeeded, and not at all where it did not.
(c) No claim is started twice; claims rise, and attempts do not go down with them; the ledger has the last one.
(d) What is in the ledger as succeeded was done by the claim that the ledger names.
(e) Nothing started before ``run_at`` or after ``expires_at``; nothing ended as succeeded after it.
(f) What is unrepeatable was done once where its job succeeded, at most once where that is uncertain, else never.
(g) What was rolled back, and what nobody enqueued, never ran.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.databases import Database

SLACK = 1.0
"""Seconds that may pass, on a busy machine, between a worker's look at the clock and the start it writes down."""


@dataclass(frozen=True)
class Start:
    """An attempt began, says the journal. Times are seconds since 1970, by the database's machine."""

    job: str
    claim: int
    attempt: int
    worker: str
    at: float
    run_at: float
    expires_at: float


@dataclass(frozen=True)
class Effect:
    """A row that a transactional task wrote."""

    job: str
    claim: int
    worker: str
    at: float


@dataclass(frozen=True)
class Ended:
    """A row of the ledger."""

    job: str
    outcome: str
    claim: int
    attempts: int
    worker: str | None
    ended_at: float
    expires_at: float


@dataclass(frozen=True)
class Unfinished:
    """A row of the jobs table."""

    job: str
    state: str
    claim: int


@dataclass
class Books:
    """All that is known of a run."""

    promised: dict[str, bool] = field(default_factory=dict)
    """The jobs whose enqueue was committed; whether they are transactional."""
    undone: set[str] = field(default_factory=set)
    """The jobs whose enqueue was rolled back."""
    unrepeatable: set[str] = field(default_factory=set)
    """Those of the promised that must not be done twice, whatever happens."""
    launches: Counter[str] = field(default_factory=Counter)
    """How often each of these was done, says the journal."""
    starts: list[Start] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    unfinished: list[Unfinished] = field(default_factory=list)

    def complaints(self, *, calm: bool = False, finished: bool = True) -> list[str]:
        """What is wrong. *calm*: nothing was killed, so nothing may start twice. *finished*: nothing may be left."""
        return [
            *self._of_enqueues(finished=finished),
            *self._of_effects(),
            *self._of_claims(calm=calm),
            *self._of_time(),
            *self._of_launches(),
        ]

    # ── (a), (g) ──────────────────────────────────────────────────────────────────────────────

    def _of_enqueues(self, *, finished: bool) -> Iterator[str]:
        ended = Counter(row.job for row in self.ended)
        left = Counter(row.job for row in self.unfinished)
        ran = {row.job for row in self.starts} | {row.job for row in self.effects}
        for job in self.promised:
            if ended[job] > 1:
                yield f"{job}: {ended[job]} outcomes"
            if not ended[job] and not left[job]:
                yield f"{job}: lost, neither ended nor waiting"
            if ended[job] and left[job]:
                yield f"{job}: ended, and there again"
            if finished and left[job]:
                yield f"{job}: not finished"
        for job in sorted((ran | ended.keys() | left.keys()) - self.promised.keys()):
            what = "was rolled back" if job in self.undone else "was never enqueued"
            yield f"{job}: {what}, but {'ran' if job in ran else 'is there'}"

    # ── (b), (d) ──────────────────────────────────────────────────────────────────────────────

    def _of_effects(self) -> Iterator[str]:
        effects: defaultdict[str, list[Effect]] = defaultdict(list)
        for effect in self.effects:
            effects[effect.job].append(effect)
        ended = {row.job: row for row in self.ended}
        for job, transactional in self.promised.items():
            if not transactional:
                continue
            found, row = effects[job], ended.get(job)
            if len(found) > 1:
                yield f"{job}: its effect happened {len(found)} times"
            succeeded = row is not None and row.outcome == "succeeded"
            if succeeded and not found:
                yield f"{job}: succeeded without its effect"
            if found and not succeeded:
                yield f"{job}: has an effect, but {row.outcome if row else 'no outcome'}"
            if (
                row is not None
                and succeeded
                and found
                and (found[0].claim, found[0].worker) != (row.claim, row.worker)
            ):
                yield f"{job}: done by claim {found[0].claim}, the ledger says {row.claim}"

    # ── (c) ───────────────────────────────────────────────────────────────────────────────────

    def _of_claims(self, *, calm: bool) -> Iterator[str]:
        starts: defaultdict[str, list[Start]] = defaultdict(list)
        for start in self.starts:
            starts[start.job].append(start)
        ended = {row.job: row for row in self.ended}
        left = {row.job: row for row in self.unfinished}
        for job, begun in starts.items():
            twice = [claim for claim, times in Counter(start.claim for start in begun).items() if times > 1]
            if twice:
                yield f"{job}: claim {twice[0]} was started twice"
            if calm and len({start.attempt for start in begun}) < len(begun):
                yield f"{job}: an attempt ran twice, though nobody was killed"
            in_order = sorted(begun, key=lambda start: start.claim)
            if any(one.attempt > other.attempt for one, other in pairwise(in_order)):
                yield f"{job}: a later claim has an earlier attempt"
            last = in_order[-1].claim
            row = ended.get(job) or left.get(job)
            if row is not None and row.claim < last:
                yield f"{job}: claim {last} was started, the database knows {row.claim}"
            if (
                job in ended
                and ended[job].outcome == "succeeded"
                and ended[job].claim not in {s.claim for s in begun}
            ):
                yield f"{job}: succeeded in claim {ended[job].claim}, which never started"
        for row in self.ended:
            if row.outcome == "succeeded" and row.job in self.promised and row.job not in starts:
                yield f"{row.job}: succeeded without a start"
            if row.outcome == "succeeded" and row.attempts > len(starts[row.job]):
                yield f"{row.job}: {row.attempts} attempts, but {len(starts[row.job])} starts"

    # ── (e) ───────────────────────────────────────────────────────────────────────────────────

    def _of_time(self) -> Iterator[str]:
        for start in self.starts:
            if start.at < start.run_at:
                yield f"{start.job}: started {start.run_at - start.at:.3f} s too early"
            if start.at > start.expires_at + SLACK:
                yield f"{start.job}: started {start.at - start.expires_at:.3f} s after it had expired"
        for row in self.ended:
            if row.outcome == "succeeded" and self.promised.get(row.job) and row.ended_at > row.expires_at:
                yield f"{row.job}: succeeded {row.ended_at - row.expires_at:.3f} s after it had expired"

    # ── (f) ───────────────────────────────────────────────────────────────────────────────────

    def _of_launches(self) -> Iterator[str]:
        ended = {row.job: row.outcome for row in self.ended}
        for job in sorted(self.unrepeatable):
            times, outcome = self.launches[job], ended.get(job)
            if times > 1:
                yield f"{job}: is unrepeatable, and was done {times} times"
            if outcome == "succeeded" and not times:
                yield f"{job}: succeeded without being done"
            if times and outcome not in {"succeeded", "uncertain", None}:
                yield f"{job}: was done, but {outcome}"


# ── reading ───────────────────────────────────────────────────────────────────────────────────


def read(database: Database, journal: Path) -> Books:
    """The books as journal and database have them; who enqueued what is for the caller to fill in."""
    return Books(
        launches=Counter(line["job"] for line in lines(journal) if line["event"] == "launched"),
        starts=[
            Start(
                *(line[name] for name in ("job", "claim", "attempt", "worker", "at", "run_at", "expires_at"))
            )
            for line in lines(journal)
            if line["event"] == "start"
        ],
        effects=[
            Effect(job, claim, worker, _seconds(at))
            for job, claim, worker, at in database.rows("SELECT job, claim, worker, at FROM effects")
        ],
        ended=[
            Ended(str(job), outcome, claim, attempts, worker, _seconds(ended_at), _seconds(expires_at))
            for job, outcome, claim, attempts, worker, ended_at, expires_at in database.rows(
                "SELECT job_id, outcome, claim, attempts, worker, ended_at, expires_at FROM duly_executions"
            )
        ],
        unfinished=[
            Unfinished(str(job), state, claim)
            for job, state, claim in database.rows("SELECT id, state, claim FROM duly_jobs")
        ],
    )


def lines(journal: Path) -> list[dict[str, Any]]:
    """What is in the journal, in its order."""
    if not journal.exists():
        return []
    return [json.loads(line) for line in journal.read_text().splitlines()]


def _seconds(moment: datetime | str) -> float:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
