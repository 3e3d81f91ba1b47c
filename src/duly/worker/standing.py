"""A worker's standing among workers: a member, or not any more; and what the rows say it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from duly.clock import Clock
from duly.model.events import Notice
from duly.model.report import Ended, PutBack, Released, Report
from duly.task.context import Stop
from duly.worker.hand import Hand
from duly.worker.services.membership import Membership
from duly.worker.ticket import Ticket

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from duly.store.outcomes import Settled
    from duly.store.workers import Held, Pulse
    from duly.worker.home import Home


class Standing:
    """Keeps the membership, and holds what we have in hand against the rows: at every beat, and after doubt."""

    def __init__(
        self, home: Home, clock: Clock, queues: str, hand: Hand, cancel: Callable[[Ticket, Stop], None]
    ) -> None:
        self._store = home.store
        self._emitter = home.emitter
        self._hand = hand
        self._cancel = cancel
        self._announce: Callable[[str], object] = str
        self.membership = Membership(home.store, home.settings, clock, queues)

    def join(self, connection: Connection, announce: Callable[[str], object] | None = None) -> None:
        """Enter under a new id, which is announced now and whenever it changes."""
        self._announce = announce or self._announce
        self.membership.join(connection)
        self._announce(self.membership.id)

    def beat(self, connection: Connection) -> Pulse | None:
        """A beat, and what it tells; None when our row was gone, so that we have a new id and hold nothing."""
        pulse = self.membership.beat(connection) if self.membership.joined else None
        if pulse is None:
            self.disown()
            self.join(connection)
            self.membership.due = 0.0  # what the old id left behind is for the living, so for us too
        else:
            self._reconcile(connection, pulse.held)
        return pulse

    def _reconcile(self, connection: Connection, held: Mapping[UUID, Held]) -> None:
        """Rows that name us and that we do not know are released; jobs that are no longer ours are dropped."""
        claims = {job: row.claim for job, row in held.items()}
        self.release_unknown(connection, claims)
        for ticket in self._hand.lost(claims):
            self._let_go(ticket)
        for job, row in held.items():
            if row.cancelling:
                self._stop(job)

    def leave(self, connection: Connection, last: Sequence[Report]) -> Settled:
        """Give back what we do not know, settle the *last* outcomes, and take our row out."""
        self.release_unknown(connection, self._store.jobs.held_by(connection, self.membership.id))
        reports = [report for report in last if isinstance(report, Ended | PutBack | Released)]
        settled = self._store.outcomes.settle(connection, self.membership.id, reports)
        self.membership.leave(connection)
        return settled

    def release_unknown(self, connection: Connection, claims: Mapping[UUID, int]) -> None:
        """Give back what names us and is not in our hand: a reply that brought it was lost."""
        unknown = self._hand.unknown(claims)
        if unknown:
            self._store.outcomes.settle(connection, self.membership.id, unknown)

    def disown(self) -> None:
        """Our row is gone: others count us as dead. We hold nothing; what runs is told to stop."""
        if not self.membership.joined:
            return  # done before; the database went away before we could join anew
        self._emitter.emit(
            Notice(f"worker {self.membership.id} was taken for dead; it drops its jobs and takes a new id")
        )
        self.membership.forget()
        for ticket in self._hand.tickets:
            self._let_go(ticket)

    def _let_go(self, ticket: Ticket) -> None:
        """A job that is no longer ours: drop it if it has not started, else tell it to stop."""
        if ticket.take():
            self._hand.drop(ticket)
        else:
            self._cancel(ticket, Stop.LOST)

    def _stop(self, job: UUID) -> None:
        """Somebody cancels a job that we run. What has not started ends with the exchange that gives it back."""
        ticket = self._hand.of(job)
        if ticket is not None and not self._hand.give_back([ticket]):
            self._cancel(ticket, Stop.CANCELLED)
