"""The pump: the one thread that owns a worker's line to the database. It exchanges outcomes for jobs.

A turn:

1. Gather what the lanes have finished since the last turn. Outcomes gather while the previous exchange
   is under way, so batching needs no timer.
2. After trouble: a new membership if ours is gone, and reconcile, before anything else is said.
3. What is due: a beat (which reconciles), promotion, expiry, rescue, pruning.
4. The exchange: hand in outcomes, give back what waited too long, claim what can start next.
5. Hand the claimed jobs to the lanes; give back at once what would wait there for too long.

Nothing that was gathered is forgotten before an exchange that carried it has committed; a repeated
outcome is told from a lost lease by the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING
from uuid import UUID

from duly.clock import Clock
from duly.errors import DatabaseError
from duly.model.events import Started, Stopped
from duly.model.job import ClaimedJob
from duly.model.report import Lost, Recorded, Released
from duly.worker.blackbox import BlackBox
from duly.worker.cursor import Cursor
from duly.worker.dealer import Dealer
from duly.worker.duties import Duties
from duly.worker.executor import Executor
from duly.worker.hand import Hand
from duly.worker.herald import Herald
from duly.worker.lanes import Lanes
from duly.worker.outage import Outage
from duly.worker.pace import BATCH, Pace, share_of_async
from duly.worker.queues import Lines, Selection, SuspectLines
from duly.worker.rest import Rest
from duly.worker.standing import Standing
from duly.worker.ticket import Done, Ticket
from duly.worker.writeturn import WriteTurn

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from duly.store.dialect import Exchanged
    from duly.store.outcomes import Settled
    from duly.worker.home import Home
    from duly.worker.isolation import Isolation

UNSTARTED = 1.0
"""Seconds that a claimed job may wait here before it is given back."""

SOON = timedelta(milliseconds=50)
SURE = 0.04
"""One look after a rest of about so long is taken without news: a job may be due a moment later than it came."""

SHORTEST_REST = 0.0002
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
        suspects: bool = False,
        most: int = 0,
        blackbox: BlackBox | None = None,
        isolation: Isolation | None = None,
        clock: Clock | None = None,
        on_suspects: Callable[[], object] = bool,
        executor: type[Executor] = Executor,
    ) -> None:
        self._home = home
        self._queues = queues
        self._until_empty = until_empty or suspects
        self._most = most
        self._clock = clock or Clock()
        self._store = store = home.store
        self._line = store.line(lock=LOCK_WAIT, statement=STATEMENT_WAIT, idle=home.settings.lease)
        self._turn_of = WriteTurn(shared=store.dialect.name == "sqlite")
        self._done: SimpleQueue[Done | None] = SimpleQueue()
        self._executor = executes = executor(home, self._turn_of, isolation=isolation)
        self._lanes = Lanes(
            executes,
            self._done,
            threads=threads,
            coroutines=coroutines,
            blackbox=blackbox,
            emitter=home.emitter,
            on_deaf=self._give_up,
        )
        self._pace = Pace(threads, coroutines, async_share=share_of_async(map(executes.on_loop, home.tasks)))
        self._hand = Hand()
        self._dealer = Dealer(home, executes, self._pace, self._hand)
        self._standing = Standing(home, self._clock, str(queues), self._hand, self._lanes.cancel)
        self.membership = self._standing.membership
        self._herald = Herald(home.emitter)
        self.tally = self._herald.tally
        """How the attempts ended so far: outcomes, ``retried`` and ``put back``."""
        self._lines = (SuspectLines if suspects else Lines)(queues, self._clock)
        self._cursor = Cursor(self._clock)
        self._rest = Rest(home, self._clock)
        self._duties = Duties(home, self._clock, self._standing, self._rest, self._transaction, on_suspects)
        self._outage = Outage(home.emitter, self._clock)
        self._dry = False
        self._look = True
        self._drain_until: float | None = None
        self._released = 0
        self.deaf = False
        """Whether an attempt did not stop, so that this process must end."""
        self.stuck = False
        """Whether it holds SQLite's write lock as well, so that nothing can be recorded before."""

    # ── life ──────────────────────────────────────────────────────────────────────────────────

    def run(self, announce: Callable[[str], object] | None = None) -> bool:
        """Work until told to stop (or until there is nothing left); whether all that ran has ended.

        *announce* is called with each worker id this pump takes. The first exchange must succeed:
        a database that is not there at the start is the caller's to see.
        """
        with self._transaction() as connection:
            self._standing.join(connection, announce)
        self._lanes.start()
        if not self._until_empty:
            self._rest.start(self._ring, lambda: self.membership.id)
        self._home.emitter.emit(Started("worker", self.membership.id, {"queues": str(self._queues)}))
        try:
            while not self._over():
                if not self.turn():
                    self._sleep()
        finally:
            clean = self._leave()
        return clean

    def drain(self, grace: float) -> None:
        """From any thread: claim no more, give back what was not started, let the rest end within *grace* seconds.

        Of several the one that ends first holds.
        """
        until = self._clock.monotonic() + grace
        self._drain_until = until if self._drain_until is None else min(until, self._drain_until)
        self._ring()

    def _give_up(self) -> None:
        """From the watch: an attempt does not stop. Its neighbours may finish; what becomes of it is said last."""
        self.deaf = True
        self.stuck = any(map(self._executor.transactional, self._lanes.deaf)) and self._turn_of.break_off()
        if self.stuck or not self._draining:
            self.drain(0.0 if self.stuck else self._home.settings.grace)

    def _ring(self) -> None:
        """From any thread: look again."""
        self._done.put(None)

    @property
    def _draining(self) -> bool:
        return self._drain_until is not None

    def _over(self) -> bool:
        if self._drain_until is not None:
            busy = set(self._hand.tickets).difference(self._lanes.deaf)
            return not busy or self._clock.monotonic() >= self._drain_until
        if self.spent:
            return not self._hand
        return self._until_empty and self._dry and not self._hand and not self._more_soon()

    @property
    def spent(self) -> bool:
        """Whether it has run as many jobs as it may."""
        return 0 < self._most <= self.tally.total()

    def _more_soon(self) -> bool:
        """Whether a job is due in a moment: one put back without a wait, or enqueued just now."""
        try:
            with self._transaction() as connection:
                return self._lines.more_soon(self._store, connection, SOON)
        except DatabaseError as error:
            self._stumble(error)
            return True

    def _leave(self) -> bool:
        """Stop the lanes, record what ended, take our row out; False when something still runs."""
        self._drain_until = self._drain_until or self._clock.monotonic()
        self._rest.close()
        self._give_back(self._hand.tickets)
        calm = self._lanes.stop()
        self._gather()
        try:
            while self._hand.finished(1) and self._exchange():
                pass  # what others have locked is left for the rescue
            last = self._given_up()
            with self._transaction() as connection:
                settled = self._standing.leave(connection, [done.report for done in last])
            self._acknowledge([done for done in last if done.report.id not in settled.later], set(), settled)
        except DatabaseError as error:
            self._stumble(error)  # our row goes stale, and others take over
        self._home.emitter.emit(Stopped("worker", self.membership.id, self._released))
        self.membership.forget()
        self._line.close()
        return calm and not self._hand

    def _given_up(self) -> list[Done]:
        """How the attempts end that do not stop."""
        given_up = [done for done in self._lanes.given_up() if self._hand.holds(done.ticket)]
        for done in given_up:
            self._hand.finish(done)
        return given_up

    # ── a turn ────────────────────────────────────────────────────────────────────────────────

    def turn(self) -> bool:
        """One turn; whether there was anything to do."""
        self._gather()
        try:
            self._recover()
            found = self._duties.serve(draining=self._draining)
            self._look = self._look or found
            if self._rest.woken:
                self._line.trust()
            worked = self._exchange()
        except DatabaseError as error:
            self._stumble(error)
            return False
        self._outage.over()
        return worked

    def _gather(self) -> None:
        """What the lanes have finished. What a transactional task recorded itself needs no exchange."""
        with suppress(Empty):
            while True:
                self._take_in(self._done.get_nowait())

    def _take_in(self, done: Done | None) -> None:
        """Something has ended, or somebody rang."""
        if done is not None:
            self._look = True  # there is room again
            self._finish(done)
        elif not self._look:
            self._look = self._line.news()
            if not self._look:
                self._rest.rung()

    def _finish(self, done: Done) -> None:
        ticket, report, seconds = done
        if type(report) is not Released:
            self._pace.learn(ticket.job.task, seconds)
        match report:
            case Recorded():
                self._hand.drop(ticket)
                self._herald.succeeded([done])
            case Lost():
                self._hand.drop(ticket)
                self._herald.lost(ticket.job)
            case _ if self._hand.holds(ticket):
                self._hand.finish(done)
            case _ if not isinstance(report, Released):
                # Lost, and claimed again by ourselves meanwhile: it must not take the new attempt's place.
                self._herald.lost(ticket.job)

    def _sleep(self) -> None:
        """Rest until something ends, somebody rings, or the next look is due."""
        now = self._clock.monotonic()
        until = self._duties.due - now
        rest = self._rest.wait()
        if self._outage.lasts:
            until = rest = min(rest, 1.0)
        elif self._room() <= 0:
            until = rest = min(until, UNSTARTED / 4)
        try:
            self._take_in(self._done.get(timeout=max(min(rest, until), SHORTEST_REST)))
        except Empty:
            if rest <= until:
                self._look = self._line.news() or SURE <= rest < 2 * SURE

    # ── the exchange ──────────────────────────────────────────────────────────────────────────

    def _exchange(self) -> bool:
        dones = self._to_hand_in()
        limit = self._room() if self._look or dones else 0
        if not dones and limit <= 0:
            return False
        began = self._clock.monotonic()
        with self._transaction() as connection:
            reply, settled = self._lines.exchange(
                self._store,
                connection,
                self.membership.id,
                [done.report for done in dones],
                limit,
                after=self._cursor.places(),
                careful=self._outage.careful,
            )
            flag = self._rest.flag(found=bool(reply.claimed)) if limit > 0 else None
            if flag is not None:
                self._store.workers.sleeps(connection, self.membership.id, asleep=flag)
        if flag is not None:
            self._rest.asleep = flag
        # Rows that others have locked keep their outcomes here for the next time; nothing waits behind them.
        self._outage.careful = bool(settled.later)
        if settled.later:
            dones = [done for done in dones if done.report.id not in settled.later]
        self._acknowledge(dones, reply.lost, settled)
        for job in reply.replayed:
            self._herald.replayed(job)
        if not reply.alive:
            self._standing.disown()
            self._outage.doubtful = True
        self._hand_over(reply.claimed)
        more = limit > 0 and self._learn(reply, limit, self._clock.monotonic() - began)
        return bool(dones or reply.claimed or more)

    def _learn(self, reply: Exchanged, limit: int, seconds: float) -> bool:
        """What the claim tells about the next one; whether it should follow at once."""
        more = self._cursor.learn(reply.claimed, limit, seconds)
        if reply.claimed or reply.replayed:
            self._rest.over()
        elif not more:
            more = self._lines.dry()
        self._look = more or bool(reply.claimed or reply.replayed)
        self._dry = not self._look
        return more

    def _room(self) -> int:
        if self._draining or not self.membership.joined:
            return 0
        room = self._pace.room(self._hand.sync, self._hand.asynchronous)
        return room if not self._most else min(room, self._most - self.tally.total() - len(self._hand))

    def _to_hand_in(self) -> list[Done]:
        """What to hand in: outcomes, and jobs that have waited here for too long."""
        if self._draining:
            self._give_back(self._hand.tickets)
        elif stale := self._hand.stale(self._clock.monotonic() - UNSTARTED):
            self._pace.stall()
            self._give_back(stale)
        return self._hand.finished(2 * BATCH)

    def _give_back(self, tickets: Iterable[Ticket]) -> None:
        self._released += self._hand.give_back(tickets)

    def _hand_over(self, jobs: list[ClaimedJob]) -> None:
        if not jobs:
            return
        sync, loop, back = self._dealer.deal(jobs, self.membership.id, self._clock.monotonic())
        self._give_back(back)
        self._lanes.hand_over(sync, loop)

    def _acknowledge(self, dones: list[Done], lost: set[UUID], settled: Settled) -> None:
        """These outcomes stand in the database now, or have lost their fence: forget them, and say so."""
        for done in dones:
            self._hand.handed_in(done)
        for wait in self._herald.tell(dones, lost, settled):
            self._duties.hurry(wait)

    # ── trouble ───────────────────────────────────────────────────────────────────────────────

    def _recover(self) -> None:
        """After an exchange whose reply was lost: are we still a member, and what do the rows say we hold?"""
        if self._outage.doubtful:
            self._look = self._duties.beat(draining=self._draining) or not self._draining
            self._outage.doubtful = False

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._turn_of.of_pump(), self._line.transaction() as connection:
            yield connection

    def _stumble(self, error: DatabaseError) -> None:
        """The reply was not read: what it did is unknown until we have reconciled."""
        self._outage.stumble(error)
        self.membership.missed()
