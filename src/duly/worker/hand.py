"""What a worker has in hand: claimed jobs, and outcomes that no exchange has carried yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from uuid import UUID

from duly.model.report import Released, Report
from duly.worker.ticket import Done, Ticket


class Hand:
    """Tickets by job. Only the pump's thread touches it; lanes see the tickets alone."""

    def __init__(self) -> None:
        self._tickets: dict[UUID, Ticket] = {}
        self._finished: dict[UUID, Done] = {}
        self.asynchronous = 0
        """How many of the jobs are async."""

    def __len__(self) -> int:
        return len(self._tickets)

    @property
    def sync(self) -> int:
        """How many of the jobs are not."""
        return len(self._tickets) - self.asynchronous

    @property
    def tickets(self) -> list[Ticket]:
        """All of them, the oldest claim first."""
        return list(self._tickets.values())

    def holds(self, ticket: Ticket) -> bool:
        """Whether this claim is the one we hold of its job."""
        return self._tickets.get(ticket.job.id) is ticket

    def hold(self, ticket: Ticket) -> None:
        """A job was claimed. An older claim of it is lost by that, whatever its attempt still does."""
        older = self._tickets.get(ticket.job.id)
        if older is not None:
            self.drop(older)
        self._tickets[ticket.job.id] = ticket
        self.asynchronous += ticket.asynchronous

    def drop(self, ticket: Ticket) -> None:
        """The job is no longer ours, or its outcome stands in the database."""
        if self.holds(ticket):
            del self._tickets[ticket.job.id]
            self.asynchronous -= ticket.asynchronous

    def finish(self, done: Done) -> None:
        """An attempt is over: its outcome waits for the next exchange."""
        self._finished[done.ticket.job.id] = done

    def handed_in(self, job: UUID) -> Done:
        """An exchange has carried this outcome: forget it, and the job with it."""
        done = self._finished.pop(job)
        self.drop(done.ticket)
        return done

    def reports(self, most: int) -> dict[UUID, Report]:
        """The oldest outcomes that wait."""
        return {job: done.report for job, done in list(self._finished.items())[:most]}

    def stale(self, before: float) -> list[Ticket]:
        """Jobs claimed before then that still have not started."""
        return [ticket for ticket in self._tickets.values() if ticket.since < before and ticket.waiting]

    def give_back(self, tickets: Iterable[Ticket]) -> int:
        """Release those of *tickets* that have not started, with the next exchange; how many."""
        count = 0
        for ticket in tickets:
            if ticket.take():
                self.finish(Done(ticket, Released(ticket.job.id, ticket.job.claim), 0.0))
                count += 1
        return count

    def unknown(self, rows: Mapping[UUID, int]) -> list[Released]:
        """Of the rows that name us (job and claim): those that we do not know."""
        return [Released(job, claim) for job, claim in rows.items() if not self._knows(job, claim)]

    def lost(self, rows: Mapping[UUID, int]) -> list[Ticket]:
        """Jobs that we take for ours, with nothing to hand in, though no row says so."""
        return [
            ticket
            for job, ticket in self._tickets.items()
            if rows.get(job) != ticket.job.claim and job not in self._finished
        ]

    def _knows(self, job: UUID, claim: int) -> bool:
        ticket = self._tickets.get(job)
        return ticket is not None and ticket.job.claim == claim
