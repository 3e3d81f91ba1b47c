"""What a worker has in hand: claimed jobs, and outcomes that no exchange has carried yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice, takewhile
from uuid import UUID

from duly.model.report import Released
from duly.worker.ticket import Done, Ticket


class Hand:
    """Tickets by job. Only the pump's thread touches it; lanes see the tickets alone."""

    def __init__(self) -> None:
        self._tickets: dict[int, Ticket] = {}
        self._finished: dict[int, Done] = {}
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

    def of(self, job: UUID) -> Ticket | None:
        """The claim that we hold of this job."""
        return self._tickets.get(job.int)

    def holds(self, ticket: Ticket) -> bool:
        """Whether this claim is the one we hold of its job."""
        return self._tickets.get(ticket.key) is ticket

    def hold(self, ticket: Ticket) -> None:
        """A job was claimed. An older claim of it is lost by that, whatever its attempt still does."""
        older = self._tickets.pop(ticket.key, None)
        if older is not None:
            self.asynchronous -= older.asynchronous
        self._tickets[ticket.key] = ticket
        self.asynchronous += ticket.asynchronous

    def drop(self, ticket: Ticket) -> None:
        """The job is no longer ours, or its outcome stands in the database."""
        if self.holds(ticket):
            del self._tickets[ticket.key]
            self.asynchronous -= ticket.asynchronous

    def finish(self, done: Done) -> None:
        """An attempt is over: its outcome waits for the next exchange."""
        self._finished[done.ticket.key] = done

    def finished(self, most: int) -> list[Done]:
        """The oldest outcomes that wait."""
        return list(islice(self._finished.values(), most))

    def handed_in(self, done: Done) -> None:
        """An exchange has carried this outcome: forget it, and the job with it."""
        del self._finished[done.ticket.key]
        self.drop(done.ticket)

    def stale(self, before: float) -> list[Ticket]:
        """Jobs claimed before then that still have not started."""
        old = takewhile(lambda ticket: ticket.since < before, self._tickets.values())
        return [ticket for ticket in old if ticket.waiting]

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
            for key, ticket in self._tickets.items()
            if key not in self._finished and rows.get(ticket.job.id) != ticket.job.claim
        ]

    def _knows(self, job: UUID, claim: int) -> bool:
        ticket = self.of(job)
        return ticket is not None and ticket.job.claim == claim
