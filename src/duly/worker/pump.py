"""The pump: the one thread that owns a worker's line to the database. It exchanges outcomes for jobs.

A turn:

1. Gather what the lanes have finished since the last turn. Outcomes gather while the previous exchange
   is under way, so batching needs no timer.
2. After trouble: a new membership if ours is gone, and reconcile, before anything else is said.
3. Services that are due: beat, reconcile, promote, expire, rescue.
4. The exchange: hand in outcomes, give back what waited too long, claim what can start next.
5. Hand the claimed jobs to the lanes.

Nothing that was gathered is forgotten before an exchange that carried it has committed; a repeated
outcome is told from a lost lease by the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING
from uuid import UUID

from duly.clock import Clock
from duly.errors import DatabaseError
from duly.model.events import (
    Notice,
    Started,
    Stopped,
)
from duly.model.job import ClaimedJob
from duly.model.report import Lost, PutBack, Recorded, Released, Report, Succeeded
from duly.worker.executor import Executor
from duly.worker.hand import Hand
from duly.worker.herald import Herald
from duly.worker.outage import Outage
from duly.worker.pace import BATCH, Pace, share_of_async
from duly.worker.pool import Loop, Threads
from duly.worker.queues import EVERYTHING, Lines, Selection
from duly.worker.services.membership import Membership
from duly.worker.services.upkeep import Rescue, Upkeep
from duly.worker.ticket import Done, Ticket
from duly.worker.writeturn import WriteTurn

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from duly.store.outcomes import Settled
    from duly.worker.home import Home

UNSTARTED = 1.0
"""Seconds that a claimed job may wait here before it is given back."""

SHORTEST_REST = 0.005
SOON = timedelta(milliseconds=50)
LOCK_WAIT, STATEMENT_WAIT = 2.0, 10.0


class Pump:
    """One worker: claims, hands to its lanes, records. ``run`` returns when it has stopped."""

    def __init__(
        self,
        home: Home,
        queues: Selection,
        *,
        threads: int,
        coroutines: int,
        until_empty: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self._home = home
        self._queues = queues
        self._until_empty = until_empty
        self._clock = clock or Clock()
        self._store = store = home.store
        self._line = store.line(lock=LOCK_WAIT, statement=STATEMENT_WAIT, idle=home.settings.lease)
        self._turn_of = WriteTurn(shared=store.dialect.name == "sqlite")
        executor = Executor(home, self._turn_of)
        self._done: SimpleQueue[Done | None] = SimpleQueue()
        self._threads = Threads(executor, self._done, threads)
        self._loop = Loop(executor, self._done, coroutines)
        self._pace = Pace(
            threads, coroutines, async_share=share_of_async(task.signature.is_async for task in home.tasks)
        )
        self.membership = Membership(store, home.settings, self._clock, str(queues))
        self._upkeep = Upkeep(store, self._clock, home.emitter)
        self._rescue = Rescue(store, home.settings, home.emitter)
        self._hand = Hand()
        self._herald = Herald(home.emitter)
        self.tally = self._herald.tally
        """How the attempts ended so far: outcomes, ``retried`` and ``put back``."""
        self._lines = Lines(queues, self._clock)
        self._rest = SHORTEST_REST
        self._outage = Outage(home.emitter, self._clock)
        self._dry = False
        self._drain_until: float | None = None
        self._announce: Callable[[str], object] = str
        self._released = 0

    # ── life ──────────────────────────────────────────────────────────────────────────────────

    def run(self, announce: Callable[[str], object] | None = None) -> bool:
        """Work until told to stop (or until there is nothing left); whether all that ran has ended.

        *announce* is called with each worker id this pump takes. The first exchange must succeed:
        a database that is not there at the start is the caller's to see.
        """
        self._announce = announce or str
        with self._transaction() as connection:
            self._join(connection)
        self._threads.start()
        self._home.emitter.emit(Started("worker", self.membership.id, {"queues": str(self._queues)}))
        try:
            while not self._over():
                if not self.turn():
                    self._sleep()
        finally:
            clean = self._leave()
        return clean

    def drain(self, grace: float) -> None:
        """From any thread: claim no more, give back what was not started, let the rest end within *grace* seconds."""
        self._drain_until = self._clock.monotonic() + grace
        self._done.put(None)

    @property
    def _draining(self) -> bool:
        return self._drain_until is not None

    def _over(self) -> bool:
        if self._drain_until is not None:
            return not self._hand or self._clock.monotonic() >= self._drain_until
        return self._until_empty and self._dry and not self._hand and not self._more_soon()

    def _more_soon(self) -> bool:
        """Whether a job is due in a moment: one put back without a wait, or enqueued just now."""
        try:
            with self._transaction() as connection:
                every = EVERYTHING[0] in self._queues.patterns
                names = [] if every else self._lines.names(self._store, connection)
                return (every or bool(names)) and self._store.upkeep.due_soon(connection, names, SOON)
        except DatabaseError as error:
            self._stumble(error)
            return True

    def _leave(self) -> bool:
        """Stop the lanes, record what ended, take our row out; False when something still runs."""
        self._drain_until = self._drain_until or self._clock.monotonic()
        self._give_back(self._hand.tickets)
        calm = all([self._loop.stop(1.0), self._threads.stop(0.2)])
        self._gather()
        try:
            while self._hand.reports(1) and self._exchange():
                pass  # what others have locked is left for the rescue
            with self._transaction() as connection:
                self._release_unknown(connection)
                self.membership.leave(connection)
        except DatabaseError as error:
            self._stumble(error)  # our row goes stale, and others take over
        self._home.emitter.emit(Stopped("worker", self.membership.id, self._released))
        self.membership.forget()
        self._line.close()
        return calm and not self._hand

    # ── a turn ────────────────────────────────────────────────────────────────────────────────

    def turn(self) -> bool:
        """One turn; whether there was anything to do."""
        self._gather()
        try:
            self._recover()
            worked = self._serve()
            worked = self._exchange() or worked
        except DatabaseError as error:
            self._stumble(error)
            return False
        self._outage.over()
        return worked

    def _gather(self) -> None:
        """What the lanes have finished. What a transactional task recorded itself needs no exchange."""
        while True:
            try:
                done = self._done.get_nowait()
            except Empty:
                return
            if done is not None:
                self._finish(done)

    def _finish(self, done: Done) -> None:
        job, report = done.ticket.job, done.report
        if not isinstance(report, Released):
            self._pace.learn(job.task, done.seconds)
        match report:
            case Recorded():
                self._hand.drop(done.ticket)
                self._herald.succeeded(done)
            case Lost():
                self._hand.drop(done.ticket)
                self._herald.lost(job)
            case _ if self._hand.holds(done.ticket):
                self._hand.finish(done)
            case _ if not isinstance(report, Released):
                # Lost, and claimed again by ourselves meanwhile: it must not take the new attempt's place.
                self._herald.lost(job)

    def _sleep(self) -> None:
        """Rest until something ends, or the next look is due: 5, 10, 20 … ms up to the poll interval."""
        now = self._clock.monotonic()
        until = min(self.membership.due, self._upkeep.due) - now
        if self._outage.lasts:
            wait = min(self._rest, 1.0)
        elif self._room() > 0:
            wait = min(self._rest, until)
        else:
            wait = min(until, UNSTARTED / 4)
        self._rest = min(self._rest * 2, max(self._home.settings.poll, SHORTEST_REST))
        try:
            done = self._done.get(timeout=max(wait, 0.001))
        except Empty:
            return
        if done is not None:
            self._finish(done)

    # ── the exchange ──────────────────────────────────────────────────────────────────────────

    def _exchange(self) -> bool:
        reports = self._reports()
        limit = self._room()
        if not reports and limit <= 0:
            return False
        with self._transaction() as connection:
            names = self._lines.names(self._store, connection) if limit > 0 else []
            reply, settled = self._store.jobs.exchange(
                connection,
                self.membership.id,
                list(reports.values()),
                names or ("",),
                limit if names else 0,
                careful=self._outage.careful,
            )
        # Rows that others have locked keep their outcomes here for the next time; nothing waits behind them.
        self._outage.careful = bool(settled.later)
        reports = {job: report for job, report in reports.items() if job not in settled.later}
        self._acknowledge(reports, reply.lost, settled)
        for job in reply.replayed:
            self._herald.replayed(job)
        if not reply.alive:
            self._disown()
        self._hand_over(reply.claimed)
        self._dry = limit > 0 and not reply.claimed and not reply.replayed
        if reply.claimed:
            self._rest = SHORTEST_REST
        elif limit > 0:
            self._lines.look_again()
        return bool(reports or reply.claimed)

    def _room(self) -> int:
        if self._draining or not self.membership.joined:
            return 0
        return self._pace.room(self._hand.sync, self._hand.asynchronous)

    def _reports(self) -> dict[UUID, Report]:
        """What to hand in: outcomes, and jobs that have waited here for too long."""
        if self._draining:
            self._give_back(self._hand.tickets)
        elif stale := self._hand.stale(self._clock.monotonic() - UNSTARTED):
            self._pace.stall()
            self._give_back(stale)
        return self._hand.reports(2 * BATCH)

    def _give_back(self, tickets: Iterable[Ticket]) -> None:
        self._released += self._hand.give_back(tickets)

    def _hand_over(self, jobs: list[ClaimedJob]) -> None:
        if not jobs:
            return
        now, worker = self._clock.monotonic(), self.membership.id
        sync: list[Ticket] = []
        loop: list[Ticket] = []
        for job in jobs:
            task = self._home.find(job.task)
            ticket = Ticket(job, worker, now, asynchronous=task is not None and task.signature.is_async)
            self._hand.hold(ticket)
            (loop if ticket.asynchronous else sync).append(ticket)
        self._pace.saw([(ticket.job.task, ticket.asynchronous) for ticket in (*sync, *loop)])
        self._threads.hand_over(sync)
        if loop:
            self._loop.hand_over(loop)

    def _acknowledge(self, reports: dict[UUID, Report], lost: set[UUID], settled: Settled) -> None:
        """These outcomes stand in the database now, or have lost their fence: forget them, and say so."""
        for job, report in reports.items():
            done = self._hand.handed_in(job)
            if job in lost or job in settled.lost:
                if not isinstance(report, Released):
                    self._herald.lost(done.ticket.job)
            elif type(report) is Succeeded:
                self._herald.succeeded(done)
            elif job in settled.expired:
                self._herald.expired(done)
            elif isinstance(report, PutBack) and job in settled.recorded:
                # A transactional task whose COMMIT was not answered: it had landed.
                self._herald.ended(done, settled.recorded[job])
            else:
                self._herald.settled(done, report)
                if isinstance(report, PutBack) and report.after is not None:
                    self._upkeep.hurry(report.after)

    # ── services ──────────────────────────────────────────────────────────────────────────────

    def _serve(self) -> bool:
        now = self._clock.monotonic()
        if now >= self.membership.due:
            with self._transaction() as connection:
                if not self.membership.beat(connection):
                    self._disown()
                    self._join(connection)
                self._reconcile(connection)
            if self.membership.may_judge():
                self._look_after_the_dead()
        if now >= self._upkeep.due and not self._draining:
            with self._transaction() as connection:
                found = self._upkeep.look(connection)
            self._upkeep.tell()
            return found
        return False

    def _look_after_the_dead(self) -> None:
        """Offer their jobs again, a batch a transaction; what is locked is left for the next beat."""
        while True:
            with self._transaction() as connection:
                some = self._rescue.look(connection, self.membership.id)
            self._rescue.tell()
            if not some:
                return

    def _recover(self) -> None:
        """After an exchange whose reply was lost: are we still a member, and what do the rows say we hold?"""
        if not self._outage.doubtful:
            return
        with self._transaction() as connection:
            if not self.membership.joined or not self.membership.beat(connection):
                self._disown()
                self._join(connection)
            self._reconcile(connection)
        self._outage.doubtful = False

    def _join(self, connection: Connection) -> None:
        self.membership.join(connection)
        self._announce(self.membership.id)

    def _reconcile(self, connection: Connection) -> None:
        """Rows that name us and that we do not know are released; jobs that are no longer ours are cancelled."""
        rows = self._release_unknown(connection)
        for ticket in self._hand.lost(rows):
            self._cancel(ticket)

    def _release_unknown(self, connection: Connection) -> dict[UUID, int]:
        rows = self._store.jobs.held_by(connection, self.membership.id)
        unknown = self._hand.unknown(rows)
        if unknown:
            self._store.outcomes.settle(connection, self.membership.id, unknown)
        return rows

    def _disown(self) -> None:
        """Our row is gone: others count us as dead. We hold nothing; what runs is told to stop."""
        if not self.membership.joined:
            return  # done before; the database went away before we could join anew
        self._home.emitter.emit(
            Notice(f"worker {self.membership.id} was taken for dead; it drops its jobs and takes a new id")
        )
        self.membership.forget()
        self._outage.doubtful = True
        for ticket in self._hand.tickets:
            self._cancel(ticket)

    def _cancel(self, ticket: Ticket) -> None:
        """A job that is no longer ours: drop it if it has not started, else tell it to stop."""
        if ticket.take():
            self._hand.drop(ticket)
            return
        ticket.cancellation.set()
        if ticket.asynchronous:
            self._loop.cancel([ticket])

    # ── trouble ───────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._turn_of.of_pump(), self._line.transaction() as connection:
            yield connection

    def _stumble(self, error: DatabaseError) -> None:
        """The reply was not read: what it did is unknown until we have reconciled."""
        self._outage.stumble(error)
        self.membership.missed()
