"""Enqueue of jobs that take keys: each of them is made, or answered with the job that has its key.

1. A repetition: jobs that are there already, or have ended, took their keys then.
2. Two jobs of a batch that want the same key: the first counts.
3. Look who holds the keys. Most conflicts are settled here, with nothing written.
4. Insert the jobs, then take their keys, in the order of the keys. Job first, then key: a job that is inserted
   here is known to nobody else, so that its keys are its own or another job's, but never lost.
5. Whoever met somebody quicker goes again, with that job for an answer.

What wins is the unique index on the key: the look before only spares work, and on MySQL locks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import Connection, select

from duly.errors import DatabaseBusy, IdTaken, KeyTaken, UniqueConflict
from duly.model.job import NewJob
from duly.model.report import Ended
from duly.model.states import Outcome
from duly.model.unique import Caller, Key, Stored, Until
from duly.store.endings import Endings
from duly.store.keys import Held, Keys
from duly.store.statements import WAITING, in_state

if TYPE_CHECKING:
    from duly.store.jobs import Jobs

ROUNDS = 10
"""How often a key is tried for whose holder changes all the time."""


@dataclass(slots=True)
class KeyedInsert:
    """One enqueue of jobs, of which some take keys."""

    jobs: Jobs
    connection: Connection
    caller: Caller
    answers: dict[UUID, UUID] = field(default_factory=dict)
    """Jobs that were not made, with those that have their keys."""

    @property
    def keys(self) -> Keys:
        """The keys table."""
        return self.jobs.keys

    def run(self, jobs: Sequence[NewJob]) -> dict[UUID, UUID]:
        """Insert *jobs*; which of them were not made, with the job that has their key.

        ``UniqueConflict``, ``KeyTaken`` and ``IdTaken`` leave nothing written.
        """
        with self.connection.begin_nested():
            fresh = self._unknown(jobs) if self.caller.again else list(jobs)
            fresh, twins = self._first_of_each_key(fresh)
            held = self.keys.look(self.connection, [key.digest for job in fresh for key in job.keys])
            made = self._insert([job for job in fresh if not self._answered(job, held)])
            self._take(made, held)
            if self.caller.again:
                self._remove_late(made)
        for twin, first in twins.items():
            self.answers[twin] = self.answers.get(first, first)
        return self.answers

    # ── 1 and 2: what needs no look at the keys ───────────────────────────────────────────────

    def _unknown(self, jobs: Sequence[NewJob]) -> list[NewJob]:
        stored = self.jobs.digests(self.connection, [job.id for job in jobs])
        for job in jobs:
            self.caller.compare(job, stored.get(job.id))
        return [job for job in jobs if job.id not in stored]

    def _first_of_each_key(self, jobs: Sequence[NewJob]) -> tuple[list[NewJob], dict[UUID, UUID]]:
        first: dict[str, NewJob] = {}
        fresh: list[NewJob] = []
        twins: dict[UUID, UUID] = {}
        for job in jobs:
            key = next((key for key in job.keys if key.digest in first), None)
            if key is None:
                first |= {key.digest: job for key in job.keys}
                fresh.append(job)
            else:
                other = first[key.digest]
                self._refuse(job, key, other.id, (other.digest, other.key_id))
                twins[job.id] = other.id
        return fresh, twins

    # ── 3: who holds the keys ─────────────────────────────────────────────────────────────────

    def _answered(self, job: NewJob, held: dict[str, Held]) -> bool:
        """Whether another job has one of its keys, and keeps it."""
        for key in job.keys:
            there = held.get(key.digest)
            if there is None or there.over or self._own(there):
                continue
            if key.on_conflict == "replace" and there.waits:
                continue  # once this job is there
            if self._stands(job, key, there):
                self.answers[job.id] = there.job_id
                return True
            del held[key.digest]
        return False

    def _own(self, held: Held) -> bool:
        """The job whose code enqueues hands its key over: it does not stand in its own way."""
        return held.until is Until.END and held.job_id == self.caller.running

    def _stands(self, job: NewJob, key: Key, held: Held) -> bool:
        """Whether the holder of a key is the answer; an error where that was asked for."""
        if key.until is Until.EXPIRY:
            self._refuse(job, key, held.job_id, self._stored(held.job_id))
            return True
        if self.caller.joined and held.waits and not self._waits_for_us(held):
            return False
        self._refuse(job, key, held.job_id)
        return True

    def _refuse(self, job: NewJob, key: Key, other: UUID, stored: Stored | None = None) -> None:
        if key.until is Until.EXPIRY:
            try:
                self.caller.compare(job, stored)
            except IdTaken:
                raise KeyTaken(
                    f"{job.task}: this idempotency_key= belongs to job {other}, which has another queue, other "
                    "options or arguments; use a new key for another thing"
                ) from None
        elif key.on_conflict == "error":
            raise UniqueConflict(
                f"{job.task}: job {other} has this unique key; on_conflict='existing' would answer with it",
                other,
            )

    def _stored(self, job: UUID) -> Stored:
        found = self.jobs.digests(self.connection, [job], met=True).get(job)
        if found is None:
            raise DatabaseBusy(
                f"job {job}, which has this key, cannot be seen from a transaction as old as this one; repeat it",
                repeat=True,
            )
        return found

    def _waits_for_us(self, held: Held) -> bool:
        """Whether the holder waits, and will until the caller's transaction has ended: it must see what that wrote.

        A job that is being claimed at the moment counts as there, where its key lasts until its end.
        """
        if held.until in {Until.WINDOW, Until.EXPIRY}:
            return True
        jobs = self.jobs.tables.jobs.c
        waiting = select(jobs.id, jobs.state).where(jobs.id == held.job_id, in_state(jobs, *WAITING))
        patient = held.until is Until.CLAIM
        shared = self.jobs.dialect.share_rows(waiting, skip_locked=not patient)
        return self.connection.execute(shared).one_or_none() is not None or not patient

    # ── 4: insert and take ────────────────────────────────────────────────────────────────────

    def _insert(self, jobs: list[NewJob]) -> list[NewJob]:
        """Insert them; of a repetition those alone that no earlier try has inserted meanwhile."""
        store, connection = self.jobs, self.connection
        if len(jobs) == 1 and not self.caller.again:
            store.insert(connection, jobs[0])
        elif jobs and (self.caller.again or not store.insert_many(connection, jobs)):
            made = [job for job in jobs if store.insert_many(connection, [job])]
            landed = [job for job in jobs if job not in made]
            stored = store.digests(connection, [job.id for job in landed], met=True)
            for job in landed:
                self.caller.compare(job, stored.get(job.id))
            return made
        return jobs

    def _take(self, jobs: Sequence[NewJob], held: dict[str, Held]) -> None:
        wanted = {key.digest: (key, job) for job in jobs for key in job.keys}
        if not wanted:
            return
        there = held
        if not wanted.keys() & held.keys():  # nobody has any: all at once
            taken = {digest: (key, job.id) for digest, (key, job) in wanted.items()}
            there = self.keys.take(self.connection, taken)
            wanted = {
                digest: (key, job)
                for digest, (key, job) in wanted.items()
                if digest not in there or there[digest].job_id != job.id
            }
        for digest, (key, job) in sorted(wanted.items(), key=lambda want: want[1][0].place):
            other = None if job.id in self.answers else self._take_one(job, key, there.get(digest))
            if other is not None:
                self.answers[job.id] = other
        self._unmake([job.id for job in jobs if job.id in self.answers])

    def _take_one(self, job: NewJob, key: Key, held: Held | None) -> UUID | None:
        """Take a key; the job that has it and keeps it, None where *job* has it now."""
        for _ in range(ROUNDS):
            if held is not None and held.job_id == job.id:
                return None
            if held is None:
                held = self.keys.take(self.connection, {key.digest: (key, job.id)}).get(key.digest)
            elif held.over or self._own(held):
                if self.keys.move(self.connection, held, key, job.id):
                    return None
                held = None
            elif key.on_conflict == "replace" and self._replace(held, key, job):
                return None
            elif self._stands(job, key, held):
                return held.job_id
            else:
                held = None
        raise DatabaseBusy("the holder of a unique key changed all the time; try again", repeat=True)

    def _replace(self, held: Held, key: Key, job: NewJob) -> bool:
        """End the holder, where it waits and nobody is at it, and give its key to *job*."""
        jobs, dialect = self.jobs.tables.jobs, self.jobs.dialect
        waiting = select(jobs, dialect.clock.label("now")).where(
            jobs.c.id == held.job_id, in_state(jobs.c, *WAITING)
        )
        row = self.connection.execute(dialect.lock_rows(waiting, skip_locked=True)).one_or_none()
        if row is None or not self.keys.move(self.connection, held, key, job.id):
            return False
        endings = Endings(self.jobs.tables, dialect)
        endings.add(row, Ended(row.id, row.claim, Outcome.CANCELLED, f"replaced by {job.id}", counted=False))
        endings.write(self.connection)
        return True

    # ── what was not to be ────────────────────────────────────────────────────────────────────

    def _remove_late(self, jobs: Sequence[NewJob]) -> None:
        """An earlier try landed, and its job ended, between the first look and the insert: it ended then.

        What it holds by time, its idempotency key above all, it keeps.
        """
        ended = list(self.jobs.digests_ended(self.connection, [job.id for job in jobs]))
        if ended:
            self.keys.ended(self.connection, ended)
            self.jobs.dialect.remove_rows(self.connection, self.jobs.tables.jobs, ended)

    def _unmake(self, jobs: Sequence[UUID]) -> None:
        if jobs:
            self.keys.forget(self.connection, jobs)
            self.jobs.dialect.remove_rows(self.connection, self.jobs.tables.jobs, jobs)
