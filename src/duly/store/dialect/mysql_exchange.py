"""The two halves of MySQL's exchange: successes recorded, and jobs claimed, in plain statements."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from math import ceil
from typing import Any
from uuid import UUID

from sqlalchemy import BindParameter, Connection, Row, TextClause, bindparam, text

from duly.model.job import ClaimedJob
from duly.model.report import Succeeded
from duly.model.states import Outcome
from duly.store.dialect import mysql_sql as sql
from duly.store.dialect.base import BEST_FIRST, Exchanged, Position

MOST_MERGED = 100
"""How many queues one statement looks at."""

_IDS: BindParameter[Any] = bindparam("ids", expanding=True)


class Outcomes:
    """The ledger's part."""

    def __init__(self, words: Mapping[str, str]) -> None:
        done = sql.DONE.format(**words)
        self.record_all = text(sql.RECORD.format(done=done, **words))
        self.remove_all = text(sql.REMOVE.format(done=done))
        self.keep_result = text(sql.RESULT.format(**words))
        self.look_up = text(sql.ENDED.format(**words)).bindparams(_IDS)

    def record(self, connection: Connection, worker: str, succeeded: Sequence[Succeeded]) -> set[UUID]:
        """Move these jobs into the ledger; which of them had lost their fence."""
        done = [(str(s.id), s.claim, str(naive(s.started_at))) for s in succeeded]
        handed_in = {"worker": worker, "done": json.dumps(done)}
        kept = {str(s.id): s.result for s in succeeded if s.result is not None}
        for id_ in self.ended(connection, list(kept)):  # a row that was there before never changes
            del kept[id_]
        connection.execute(self.record_all, handed_in)
        accepted = connection.execute(self.remove_all, handed_in).rowcount
        lost = self.not_recorded(connection, succeeded) if accepted < len(succeeded) else set()
        results = [{"id": id_, "result": result} for id_, result in kept.items() if UUID(id_) not in lost]
        if results:
            connection.execute(self.keep_result, results)
        return lost

    def not_recorded(self, connection: Connection, succeeded: Sequence[Succeeded]) -> set[UUID]:
        """Those that the ledger does not know as succeeded under their claim."""
        known = self.ended(connection, [str(s.id) for s in succeeded])
        return {s.id for s in succeeded if known.get(str(s.id)) != (s.claim, Outcome.SUCCEEDED)}

    def ended(self, connection: Connection, ids: Sequence[str]) -> dict[str, tuple[int, str]]:
        """Of these ids, those in the ledger, with their claim and outcome."""
        if not ids:
            return {}
        rows = connection.execute(self.look_up, {"ids": ids})
        return {row.job_id: (row.claim, row.outcome) for row in rows}


class Claims:
    """The queues' part."""

    def __init__(self, words: Mapping[str, str], outcomes: Outcomes) -> None:
        self._words = words
        self._outcomes = outcomes
        self.pick = text(sql.PICK.format(free=self._free(""), **words))
        self.take = text(sql.CLAIM.format(**words)).bindparams(_IDS)
        self._merged: dict[int, TextClause] = {}

    def _free(self, n: int | str) -> str:
        return sql.FREE.format(n=n, **self._words)

    def heads(self, queues: int) -> TextClause:
        """The best of so many queues."""
        if queues not in self._merged:
            best = [sql.BEST_OF.format(free=self._free(n), **self._words) for n in range(queues)]
            self._merged[queues] = text(sql.HEADS.format(best=" UNION ALL ".join(best)))
        return self._merged[queues]

    def claim(
        self,
        connection: Connection,
        worker: str,
        queues: Sequence[str],
        limit: int,
        after: Mapping[str, Position],
        reply: Exchanged,
    ) -> None:
        """Lock the best, make them this worker's, and tell those that have ended before."""
        rows = self._pick(connection, queues, limit, after)
        ids = [row.id for row in rows]
        if ids:
            connection.execute(self.take, {"worker": worker, "ids": ids})
        ended = self._outcomes.ended(connection, ids)
        for row in rows:
            (reply.replayed if row.id in ended else reply.claimed).append(_claimed(row))
        reply.claimed.sort(key=BEST_FIRST)

    def _pick(
        self, connection: Connection, queues: Sequence[str], limit: int, after: Mapping[str, Position]
    ) -> list[Row[Any]]:
        """Lock the best of *queues*; where others hold all of these, whatever stands behind them."""
        if len(queues) == 1:
            return self._lock(connection, queues[0], limit, after)
        rows: list[Row[Any]] = []
        for queue, share in self._quotas(connection, queues, limit, after):
            rows += self._lock(connection, queue, share, after)
        for queue in () if rows else queues:
            rows += self._lock(connection, queue, limit - len(rows), {})
            if len(rows) == limit:
                break
        return rows

    def _quotas(
        self, connection: Connection, queues: Sequence[str], limit: int, after: Mapping[str, Position]
    ) -> Iterable[tuple[str, int]]:
        """How many of the best so many fall to each queue."""
        heads: list[Row[Any]] = []
        parts = ceil(len(queues) / MOST_MERGED)
        for some in (queues[start::parts] for start in range(parts)):
            places = {name: value for n, queue in enumerate(some) for name, value in _place(queue, after, n)}
            heads += connection.execute(self.heads(len(some)), {"limit": limit, **places})
        return Counter(queue for *_, queue in sorted(map(tuple, heads))[:limit]).items()

    def _lock(
        self, connection: Connection, queue: str, limit: int, after: Mapping[str, Position]
    ) -> list[Row[Any]]:
        return list(connection.execute(self.pick, {"limit": limit, **dict(_place(queue, after, ""))}))


def _place(queue: str, after: Mapping[str, Position], n: int | str) -> list[tuple[str, Any]]:
    """Where the claim of a queue begins, as parameters."""
    priority, run_at, id_ = sql.HEAD
    if queue in after:
        priority, run_at, id_ = after[queue][0], str(naive(after[queue][1])), str(after[queue][2])
    return [(f"queue{n}", queue), (f"priority{n}", priority), (f"run_at{n}", run_at), (f"id{n}", id_)]


def _claimed(row: Any) -> ClaimedJob:
    """The row as it was picked, one claim later."""
    id_, origin, task, queue, priority, claim, attempt, rescues, run_at, expires_at, enqueued_at, *rest = row
    identity = UUID(id_)
    return ClaimedJob(
        identity, identity if origin == id_ else UUID(origin), task, queue, priority, claim + 1, attempt, rescues,
        aware(run_at), aware(expires_at), aware(enqueued_at), *rest,
    )  # fmt: skip


def naive(moment: datetime) -> datetime:
    """In UTC, as it is stored."""
    return moment.astimezone(UTC).replace(tzinfo=None)


def aware(moment: datetime) -> datetime:
    """As it was before it was stored."""
    return moment.replace(tzinfo=UTC)
