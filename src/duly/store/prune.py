"""Pruning: ledger rows that were kept for long enough are emptied, and removed once nobody needs their key.

A row is *over* when its job ended longer ago than such rows are kept, and its key is *free* a day after
``expires_at``: until then a copy of the job's row could still run. An over row is emptied while its key is
not free, and removed when it is. Ledgers are large, so no row is looked at again and again: pruning goes
through the ledger in four orders, a batch at a time, and writes down how far it has come in each.

1. By ``expires_at``, up to a day ago. A row that one of the orders below has passed already is removed; to
   the others they will come.
2. By ``ended_at``, up to when rows are over, once for each of ``succeeded``, ``failed`` and ``other``. A row
   whose ``expires_at`` the first order has passed is removed; any other of this kind is emptied.

So whichever comes to a row second removes it. What comes in behind the first order (a job that expired
while all workers were down) is removed by the second; behind the second nothing comes in, since what is
kept is kept longer than any transaction lasts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Row,
    and_,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)

from duly.model.pruning import ORDERS, Keep, Pruned, order_of
from duly.model.states import Outcome
from duly.store.dialect.base import StoreDialect
from duly.store.schema import Tables
from duly.store.statements import BATCH

FREE_AFTER = timedelta(days=1)
"""How long after ``expires_at`` a job's key stays."""
BY_EXPIRY = "expired"
"""What the order by ``expires_at`` is called; the others are called as the outcomes that they see to."""

_COLUMN = {BY_EXPIRY: "expires_at"} | dict.fromkeys(ORDERS, "ended_at")
_CONTENT = ("cause", "result", "envelope", "trace")


class Place(NamedTuple):
    """How far an order has come: up to this instant, and this job."""

    at: datetime
    job: UUID


_BEFORE_ALL = Place(datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0))


class Prune:
    """One round at a time, whoever asks: the places are locked meanwhile."""

    def __init__(self, tables: Tables, dialect: StoreDialect) -> None:
        self.tables = tables
        self.dialect = dialect

    def look(self, connection: Connection, keep: Keep, now: datetime) -> bool:
        """Whether there is anything to do at *now*: one probe of the ends of indexes."""
        ledger, keys, steps = self.tables.executions.c, self.tables.keys.c, self.tables.steps.c
        until = _until(keep, now)
        due = [
            exists(
                select(ledger.job_id).where(
                    ledger[column] > self._reached(what), ledger[column] <= until[what]
                )
            )
            for what, column in _COLUMN.items()
        ]
        due.append(exists(select(keys.key).where(keys.until_at < now)))
        due.append(exists(select(steps.origin).where(steps.expires_at < now - FREE_AFTER)))
        return bool(connection.scalar(select(or_(*due))))

    def round(
        self, connection: Connection, keep: Keep, limit: int = BATCH, *, patient: bool = False
    ) -> Pruned:
        """Do a batch in each order, at most *limit* rows.

        Nothing where somebody else is at it, unless *patient*: then it waits for them.
        """
        taken = self._take(connection, patient=patient)
        if taken is None:
            return Pruned()
        places, now = taken
        until = _until(keep, now)
        done = self._remove_keys(connection, now, limit) + self._remove_steps(
            connection, now - FREE_AFTER, limit
        )
        for what in _COLUMN:
            rows = self._page(connection, what, places[what], until[what], limit)
            if rows:
                done += self._clear(connection, *_sorted_out(what, rows, places))
                places[what] = Place(rows[-1].moment, rows[-1].job_id)
                self._write_down(connection, what, places[what])
            done += Pruned(more=len(rows) == limit)
        return done

    def count(self, connection: Connection, keep: Keep) -> Pruned:
        """What rounds would do, until there is nothing left to do now; this reads the whole ledger."""
        executions, ledger = self.tables.executions, self.tables.executions.c
        keys, steps = self.tables.keys, self.tables.steps
        now: datetime = connection.execute(select(self.dialect.clock)).scalar_one()
        until, past = _until(keep, now), now - FREE_AFTER
        over = or_(
            *(and_(ledger.outcome.in_(_outcomes(what)), ledger.ended_at <= until[what]) for what in ORDERS)
        )
        late = select(steps.c.origin).where(steps.c.expires_at < past).distinct()

        def number(table: FromClause, *where: ColumnElement[bool]) -> int:
            return connection.scalar(select(func.count()).select_from(table).where(*where)) or 0

        return Pruned(
            emptied=number(executions, over, ledger.expires_at > past, self._has_content()),
            removed=number(executions, over, ledger.expires_at <= past),
            keys=number(keys, keys.c.until_at < now),
            steps=number(late.subquery()),
        )

    # ── places ────────────────────────────────────────────────────────────────────────────────

    def _reached(self, what: str) -> ColumnElement[datetime]:
        pruning = self.tables.pruning.c
        at = select(pruning.at).where(pruning.what == what).scalar_subquery()
        return func.coalesce(at, literal(_BEFORE_ALL.at, pruning.at.type))

    def _take(self, connection: Connection, *, patient: bool) -> tuple[dict[str, Place], datetime] | None:
        """Lock the places; they, and the database's time. None: somebody else has them."""
        pruning = self.tables.pruning
        places = select(pruning, self.dialect.clock.label("now"))
        mine = self.dialect.lock_rows(places, skip_locked=not patient)
        rows = connection.execute(mine).all()
        if not rows and connection.scalar(select(pruning.c.what).limit(1)) is None:
            begun = [{"what": what, "at": _BEFORE_ALL.at, "job_id": _BEFORE_ALL.job} for what in _COLUMN]
            connection.execute(self.dialect.insert_or_ignore(pruning), begun)
            rows = connection.execute(mine).all()
        if len(rows) < len(_COLUMN):
            return None
        return {row.what: Place(row.at, row.job_id) for row in rows}, rows[0].now

    def _write_down(self, connection: Connection, what: str, place: Place) -> None:
        pruning = self.tables.pruning
        moved = update(pruning).where(pruning.c.what == what).values(at=place.at, job_id=place.job)
        connection.execute(moved)

    # ── the ledger ────────────────────────────────────────────────────────────────────────────

    def _page(
        self, connection: Connection, what: str, place: Place, until: datetime, limit: int
    ) -> Sequence[Row[*tuple[Any, ...]]]:
        """The next rows of an order. Written so that every database begins in its index where the last one ended."""
        ledger = self.tables.executions.c
        moment = ledger[_COLUMN[what]]
        shown = (ledger.job_id, ledger.outcome, ledger.ended_at, ledger.expires_at)
        return connection.execute(
            select(moment.label("moment"), *shown, self._has_content().label("content"))
            .where(
                moment >= place.at,
                moment <= until,
                or_(moment > place.at, ledger.job_id > place.job),
            )
            .order_by(moment, ledger.job_id)
            .limit(limit)
        ).all()

    def _has_content(self) -> ColumnElement[bool]:
        return or_(*(self.tables.executions.c[name].is_not(None) for name in _CONTENT))

    def _clear(self, connection: Connection, gone: list[UUID], over: list[Row[Any]]) -> Pruned:
        """Remove the rows that are *gone*, empty those that are *over*; what went wrong in their attempts goes too."""
        executions = self.tables.executions
        full = [row.job_id for row in over if row.content]
        if gone:
            self.dialect.remove_rows(connection, executions, gone)
        if full:
            emptied = update(executions).where(executions.c.job_id.in_(full))
            connection.execute(emptied.values(dict.fromkeys(_CONTENT)))
        if ids := [*gone, *(row.job_id for row in over)]:
            self.dialect.remove_rows(connection, self.tables.attempts, ids)
        return Pruned(emptied=len(full), removed=len(gone))

    # ── what has a time of its own ────────────────────────────────────────────────────────────

    def _remove_keys(self, connection: Connection, now: datetime, limit: int) -> Pruned:
        keys = self.tables.keys
        late = select(keys.c.key, keys.c.until_at).where(keys.c.until_at < now).order_by(keys.c.until_at)
        locked = self.dialect.lock_rows(late.limit(limit), by="keys_until", skip_locked=True)
        gone = list(connection.scalars(locked))
        if gone:
            self.dialect.remove_rows(connection, keys, gone)
        return Pruned(keys=len(gone), more=len(gone) == limit)

    def _remove_steps(self, connection: Connection, until: datetime, limit: int) -> Pruned:
        """All steps of an origin together: a retry may still ask for the first when it has taken the last."""
        steps, kept = self.tables.steps, self.tables.steps.alias("kept")
        alive = exists(select(kept.c.name).where(kept.c.origin == steps.c.origin, kept.c.expires_at >= until))
        late = select(steps.c.origin).where(steps.c.expires_at < until, ~alive).distinct().limit(limit)
        gone = list(connection.scalars(late))
        if gone:
            self.dialect.remove_rows(connection, steps, gone)
        return Pruned(steps=len(gone), more=len(gone) == limit)


def _until(keep: Keep, now: datetime) -> dict[str, datetime]:
    """Up to where each order may go."""
    return {BY_EXPIRY: now - FREE_AFTER} | {what: now - span for what, span in keep.by_order.items()}


def _outcomes(what: str) -> list[str]:
    return [outcome.value for outcome in Outcome if order_of(outcome) == what]


def _sorted_out(
    what: str, rows: Sequence[Row[Any]], places: Mapping[str, Place]
) -> tuple[list[UUID], list[Row[Any]]]:
    """Of the next rows of an order: which are to go, and which are over and not free."""
    if what == BY_EXPIRY:
        passed = [row for row in rows if row.ended_at <= places[order_of(Outcome(row.outcome))].at]
        return [row.job_id for row in passed], []
    mine = [row for row in rows if order_of(Outcome(row.outcome)) == what]
    free = places[BY_EXPIRY].at
    return [row.job_id for row in mine if row.expires_at <= free], [
        row for row in mine if row.expires_at > free
    ]
