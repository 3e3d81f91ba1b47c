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

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING
from uuid import UUID

from duly.clock import Clock
from duly.errors import DatabaseBusy, DatabaseError
from duly.model.events import (
    DatabaseFound,
    DatabaseLost,
    JobEnded,
    JobPutBack,
    JobRetried,
    LeaseWasLost,
    Notice,
    SecurityAlert,
    Started,
    Stopped,
)
from duly.model.job import ClaimedJob
from duly.model.report import Ended, Lost, PutBack, Recorded, Released, Report, Succeeded
from duly.model.states import Outcome
from duly.worker.executor import Executor
from duly.worker.pace import BATCH, Pace
from duly.worker.pool import Loop, Threads
from duly.worker.queues import EVERYTHING, Selection
from duly.worker.services.membership import Membership
from duly.worker.services.upkeep import Rescue, Upkeep
from duly.worker.ticket import Done, Ticket
from duly.worker.writeturn import WriteTurn

if TYPE_CHECKING:
    from sqlalchemy import Connection

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
        self._line = store.line(lock=LOCK_WAIT, statement=STATEMENT_WAIT)
        self._turn_of = WriteTurn(shared=store.dialect.name == "sqlite")
        executor = Executor(home, self._turn_of)
        self._done: SimpleQueue[Done | None] = SimpleQueue()
        self._threads = Threads(executor, self._done, threads)
        self._loop = Loop(executor, self._done, coroutines)
        self._pace = Pace(threads, coroutines, async_share=_async_share(home))
        self.membership = Membership(store, home.settings, self._clock, str(queues))
        self._upkeep = Upkeep(store, self._clock, home.emitter)
        self._rescue = Rescue(store, home.settings, home.emitter)
        self._held: dict[UUID, Ticket] = {}
        self._held_async = 0
        self._finished: dict[UUID, Done] = {}
        self._waiting_queues: list[str] = []
        self._queues_due = 0.0
        self._rest = SHORTEST_REST
        self._doubtful = False
        self._lost_at: float | None = None
        self._dry = False
        self._drain_until: float | None = None
        self._announce: Callable[[str], None] = _nobody
        self._released = 0
        self.tally: Counter[str] = Counter()
        """How the attempts ended so far: outcomes, ``retried`` and ``put back``."""

    # ── life ──────────────────────────────────────────────────────────────────────────────────

    def run(self, announce: Callable[[str], None] | None = None) -> bool:
        """Work until told to stop (or until there is nothing left); whether all that ran has ended.

        *announce* is called with each worker id this pump takes. The first exchange must succeed:
        a database that is not there at the start is the caller's to see.
        """
        self._announce = announce or _nobody
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
            return not self._held or self._clock.monotonic() >= self._drain_until
        return self._until_empty and self._dry and not self._held and not self._more_soon()

    def _more_soon(self) -> bool:
        """Whether a job is due in a moment: one put back without a wait, or enqueued just now."""
        try:
            with self._transaction() as connection:
                every = EVERYTHING[0] in self._queues.patterns
                names = [] if every else self._names(connection)
                return (every or bool(names)) and self._store.upkeep.due_soon(connection, names, SOON)
        except DatabaseError as error:
            self._stumble(error)
            return True

    def _leave(self) -> bool:
        """Stop the lanes, record what ended, take our row out; False when something still runs."""
        self._drain_until = self._drain_until or self._clock.monotonic()
        self._take_back(self._held.values())
        calm = all([self._loop.stop(1.0), self._threads.stop(0.2)])
        self._gather()
        try:
            while self._finished:
                self._exchange()
            with self._transaction() as connection:
                self._release_unknown(connection)
                self.membership.leave(connection)
        except DatabaseError as error:
            self._stumble(error)  # our row goes stale, and others take over
        self._home.emitter.emit(Stopped("worker", self.membership.id, self._released))
        self.membership.forget()
        self._line.close()
        return calm and not self._held

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
        self._found()
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
                self._forget(done.ticket)
                self.tally[Outcome.SUCCEEDED.value] += 1
                self._tell_success(done)
            case Lost():
                self._forget(done.ticket)
                self._home.emitter.emit(LeaseWasLost(job.id, job.task))
            case _ if self._held.get(job.id) is done.ticket:
                self._finished[job.id] = done
            case _ if not isinstance(report, Released):
                # Lost, and claimed again by ourselves meanwhile: it must not take the new attempt's place.
                self._home.emitter.emit(LeaseWasLost(job.id, job.task))

    def _sleep(self) -> None:
        """Rest until something ends, or the next look is due: 5, 10, 20 … ms up to the poll interval."""
        now = self._clock.monotonic()
        until = min(self.membership.due, self._upkeep.due) - now
        if self._lost_at is not None:
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
            names = self._names(connection) if limit > 0 else []
            reply, settled = self._store.jobs.exchange(
                connection, self.membership.id, list(reports.values()), names or ("",), limit if names else 0
            )
        self._acknowledge(reports, reply.lost | settled.lost, settled.expired)
        for job in reply.replayed:
            cause = "its job ended before; the row was put back, and is removed"
            self._home.emitter.emit(SecurityAlert(job.id, job.task, job.queue, cause))
        if not reply.alive:
            self._disown()
        self._hand_over(reply.claimed)
        self._dry = limit > 0 and not reply.claimed and not reply.replayed
        if reply.claimed:
            self._rest = SHORTEST_REST
        elif limit > 0:
            self._queues_due = 0.0
        return bool(reports or reply.claimed)

    def _room(self) -> int:
        if self._draining or not self.membership.joined:
            return 0
        return self._pace.room(len(self._held) - self._held_async, self._held_async)

    def _reports(self) -> dict[UUID, Report]:
        """What to hand in: outcomes, and jobs that have waited here for too long."""
        if stale := self._stale():
            self._pace.stall()
            self._take_back(stale)
        return {identity: done.report for identity, done in list(self._finished.items())[: 2 * BATCH]}

    def _stale(self) -> list[Ticket]:
        if self._draining:
            return list(self._held.values())
        limit = self._clock.monotonic() - UNSTARTED
        return [ticket for ticket in self._held.values() if ticket.since < limit and ticket.waiting]

    def _take_back(self, tickets: Iterable[Ticket]) -> None:
        for ticket in tickets:
            if ticket.take():
                job = ticket.job
                self._finished[job.id] = Done(ticket, Released(job.id, job.claim), 0.0)
                self._released += 1

    def _names(self, connection: Connection) -> list[str]:
        """The queues to claim from. With patterns: those that had jobs a second ago, or now if that was dry."""
        if self._queues.open and self._clock.monotonic() >= self._queues_due:
            self._waiting_queues = self._store.upkeep.waiting_queues(connection)
            self._queues_due = self._clock.monotonic() + 1.0
        return self._queues.among(self._waiting_queues)

    def _hand_over(self, jobs: list[ClaimedJob]) -> None:
        if not jobs:
            return
        now, worker = self._clock.monotonic(), self.membership.id
        sync: list[Ticket] = []
        loop: list[Ticket] = []
        for job in jobs:
            task = self._home.find(job.task)
            ticket = Ticket(job, worker, now, asynchronous=task is not None and task.signature.is_async)
            if (lost := self._held.get(job.id)) is not None:
                self._forget(lost)
            self._held[job.id] = ticket
            (loop if ticket.asynchronous else sync).append(ticket)
        self._held_async += len(loop)
        self._pace.saw([(ticket.job.task, ticket.asynchronous) for ticket in (*sync, *loop)])
        self._threads.hand_over(sync)
        if loop:
            self._loop.hand_over(loop)

    def _forget(self, ticket: Ticket) -> None:
        if self._held.get(ticket.job.id) is ticket:
            del self._held[ticket.job.id]
            self._held_async -= ticket.asynchronous

    def _acknowledge(self, reports: dict[UUID, Report], lost: set[UUID], expired: set[UUID]) -> None:
        """These outcomes stand in the database now, or have lost their fence: forget them, and say so."""
        for identity, report in reports.items():
            done = self._finished.pop(identity)
            self._forget(done.ticket)
            if type(report) is Succeeded and identity not in lost:  # the hot case
                self.tally["succeeded"] += 1
                self._tell_success(done)
                continue
            if identity in lost:
                if not isinstance(report, Released):
                    self._home.emitter.emit(LeaseWasLost(identity, done.ticket.job.task))
            elif identity in expired:
                self.tally[Outcome.EXPIRED.value] += 1
                self._tell_end(done, Outcome.EXPIRED, "its next attempt could only come after expires_at")
            else:
                self.tally[_word(report)] += 1
                self._tell(done)

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
                return self._upkeep.look(connection)
        return False

    def _look_after_the_dead(self) -> None:
        """Offer their jobs again, a batch a transaction; what is locked is left for the next beat."""
        while True:
            with self._transaction() as connection:
                if not self._rescue.look(connection, self.membership.id):
                    return

    def _recover(self) -> None:
        """After an exchange whose reply was lost: are we still a member, and what do the rows say we hold?"""
        if not self._doubtful:
            return
        with self._transaction() as connection:
            if not self.membership.joined or not self.membership.beat(connection):
                self._disown()
                self._join(connection)
            self._reconcile(connection)
        self._doubtful = False

    def _join(self, connection: Connection) -> None:
        self.membership.join(connection)
        self._announce(self.membership.id)

    def _reconcile(self, connection: Connection) -> None:
        """Rows that name us and that we do not know are released; jobs that are no longer ours are cancelled."""
        rows = self._release_unknown(connection)
        for ticket in [t for t in self._held.values() if rows.get(t.job.id) != t.job.claim]:
            if ticket.job.id not in self._finished:
                self._cancel(ticket)

    def _release_unknown(self, connection: Connection) -> dict[UUID, int]:
        rows = self._store.jobs.held_by(connection, self.membership.id)
        unknown = [
            Released(identity, claim)
            for identity, claim in rows.items()
            if (ticket := self._held.get(identity)) is None or ticket.job.claim != claim
        ]
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
        self._doubtful = True
        for ticket in list(self._held.values()):
            self._cancel(ticket)

    def _cancel(self, ticket: Ticket) -> None:
        """A job that is no longer ours: drop it if it has not started, else tell it to stop."""
        if ticket.take():
            self._forget(ticket)
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
        self._doubtful = True
        self.membership.missed()
        if self._lost_at is None and not isinstance(error, DatabaseBusy):
            self._lost_at = self._clock.monotonic()
            self._home.emitter.emit(DatabaseLost(str(error)))

    def _found(self) -> None:
        if self._lost_at is not None:
            self._home.emitter.emit(DatabaseFound(self._clock.monotonic() - self._lost_at))
            self._lost_at = None

    # ── events ────────────────────────────────────────────────────────────────────────────────

    def _tell(self, done: Done) -> None:
        job, report = done.ticket.job, done.report
        match report:
            case Ended():
                self._tell_end(done, report.outcome, report.cause)
            case PutBack(counted=True):
                retried = JobRetried(job.id, job.task, job.queue, job.attempt + 1, report.cause, report.after)
                self._home.emitter.emit(retried)
                self._hurry(report)
            case PutBack():
                if report.cause == "snoozed":
                    self._home.emitter.emit(
                        JobPutBack(job.id, job.task, job.queue, report.cause, problem=False)
                    )
                self._hurry(report)

    def _hurry(self, report: PutBack) -> None:
        if report.after is not None:
            self._upkeep.hurry(report.after)

    def _tell_success(self, done: Done) -> None:
        if self._home.emitter.successes:
            self._tell_end(done, Outcome.SUCCEEDED, None)

    def _tell_end(self, done: Done, outcome: Outcome, cause: str | None) -> None:
        job = done.ticket.job
        self._home.emitter.emit(
            JobEnded(job.id, job.task, job.queue, outcome, job.attempt + 1, cause, round(done.seconds, 6))
        )


def _async_share(home: Home) -> float:
    """Before anything was seen: none, all, or half of the jobs are async, as the tasks are."""
    kinds = {task.signature.is_async for task in home.tasks}
    return 0.5 if len(kinds) == 2 else float(True in kinds)


def _word(report: Report) -> str:
    match report:
        case Ended():
            return report.outcome.value
        case PutBack(counted=True):
            return "retried"
        case _:
            return "put back"


def _nobody(_: str) -> None:
    pass
