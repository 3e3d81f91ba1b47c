"""What a child of the prover does: it enters a world, and works one job there until it has ended.

1. The kernel kills it when the prover is gone; what it prints goes nowhere.
2. Into the world: from here every connection goes there.
3. Enqueue the call on a cleared stage, or bury the workers that are dead and offer their job again.
4. Work the job, one attempt after the other, by a real worker that is watched.
5. Say how it ended, and which jobs it left behind.

All that it sees is said at once and unbuffered, so that it is out before the child kills itself.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID

from duly.clock import Clock
from duly.errors import DulyError
from duly.model.options import Options
from duly.proof.course import Course, Halt
from duly.proof.hook import Hook
from duly.proof.lines import Lines
from duly.proof.sockets import Sockets
from duly.proof.threads import inherit_context
from duly.proof.watched import watched_by
from duly.proof.world import World
from duly.store.watching import watch
from duly.task.call import Call
from duly.worker.graves import Graves
from duly.worker.nursery import die_with_parent
from duly.worker.pump import Pump
from duly.worker.queues import Selection

if TYPE_CHECKING:
    from duly.proof.home import Home
    from duly.task.task import Task
    from duly.worker.ticket import Ticket

MOST_ATTEMPTS = 30
"""A job that has not ended after so many attempts and snoozes in one child is taken not to end."""


@dataclass(frozen=True, slots=True)
class Case:
    """What all runs have in common."""

    app: Home
    task: Task[..., Any]
    arguments: Mapping[str, Any]
    """By name, as ``Signature.bind`` gives them: of a job class, the object as ``job``."""
    reach: frozenset[str]


@dataclass(frozen=True, slots=True)
class Part:
    """What one child is to do in a run."""

    enqueues: bool = False
    """Whether it is the first, which clears the stage and enqueues."""
    dead: list[tuple[list[str], dict[UUID, int]]] = field(default_factory=list)
    """Workers to bury first: their ids, and the jobs that they had started, with their claims."""
    halt: Halt | None = None
    """Where it stops itself."""
    gate: int | None = None
    """A pipe from which it reads one byte before its first attempt begins."""
    looks: bool = False
    """Whether it is the last, and tells of the jobs that were left behind."""


def be_child(case: Case, part: Part, world: World, pipe: int, parent: int) -> NoReturn:
    """Right after the fork; never returns."""
    code = 1
    try:
        _settle(parent)
        Child(case, part, world, pipe).live()
        code = 0
    finally:
        os._exit(code)  # not sys.exit: the parent's exit handlers and threads are not ours


def _settle(parent: int) -> None:
    gc.freeze()  # looking through what is the parent's would copy each page of it
    die_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.alarm(0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for handle in range(3):
        os.dup2(nowhere, handle)
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - as long as the process


class Child:
    """One of them."""

    def __init__(self, case: Case, part: Part, world: World, pipe: int) -> None:
        self._case = case
        self._part = part
        self._world = world
        self._pipe = pipe
        self._gate = part.gate
        self._speaking = threading.Lock()

    def live(self) -> None:
        """From the world's door to the last word."""
        app, job = self._case.app, self._world.job
        try:
            self._world.enter()
            app.store.disconnect()
            app.store.open()
            watched = self._watch()
            if self._part.enqueues:
                self._enqueue(job)
            self._bury()
            self._work(job, watched)
            self._tell(job)
        except DulyError as error:
            self.say(note=f"the job cannot be run: {type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - the prover is told, whatever it is
            self.say(note=f"the run broke off: {type(error).__name__}: {error}")

    def say(self, **words: Any) -> None:
        """To the prover, now."""
        line = json.dumps(words).encode() + b"\n"
        with self._speaking:
            while line:
                line = line[os.write(self._pipe, line) :]

    # ── before ────────────────────────────────────────────────────────────────────────────────

    def _watch(self) -> Any:
        """Put up all that watches, for as long as this process lives; the executor that it works with."""
        case, job = self._case, self._world.job
        store = case.app.store
        file = getattr(case.task.function, "__code__", None)
        lines = Lines(file.co_filename if file else None, case.task.where)
        keys = (str(job).encode(), job.hex.encode())
        course = Course(self.say, lines, step_table=store.tables.steps.name, halt=self._part.halt)
        watch(course)
        Sockets(course, lines, keys, case.reach).watch()
        Hook(course, lines, keys, self._world.folder.parent).watch()
        inherit_context(course)
        return watched_by(course, job, self._starts)

    def _enqueue(self, job: UUID) -> None:
        case, store = self._case, self._case.app.store
        with store.writing() as connection:
            store.rehearsal.clear(connection)
        handle = Call(case.task, dict(case.arguments), Options(id=job)).enqueue()
        if handle.id != job:
            self.say(note=f"the call was not enqueued: a unique key of its was taken, by job {handle.id}")

    def _bury(self) -> None:
        graves = Graves(self._case.app, Clock())
        for workers, started in self._part.dead:
            graves.dig(workers, started, None)
        graves.look(last=True)

    # ── the job ───────────────────────────────────────────────────────────────────────────────

    def _work(self, job: UUID, executor: Any) -> None:
        """Until it has ended, or is in other hands."""
        app = self._case.app
        for _ in range(MOST_ATTEMPTS):
            with app.store.writing() as connection:
                queue = app.store.rehearsal.hasten(connection, job)
            if queue is None:
                return
            pump = Pump(
                app, Selection([queue]), threads=1, coroutines=1, until_empty=True, most=1, executor=executor
            )
            pump.run(lambda worker: self.say(worker=worker))
        self.say(note=f"the job has not ended after {MOST_ATTEMPTS} attempts and snoozes")

    def _starts(self, ticket: Ticket) -> None:
        """An attempt is about to begin."""
        self.say(claim=[str(ticket.job.id), ticket.job.claim])
        if self._gate is not None:
            os.read(self._gate, 1)
            self._gate = None

    def _tell(self, job: UUID) -> None:
        store = self._case.app.store
        with store.reading() as connection:
            status = store.ledger.status(connection, job)
            others = store.rehearsal.others(connection, job) if self._part.looks else ()
        for other in others:
            self.say(effect=["job", other.task, bytes(other.digest).hex(), False, ""])
        if status is not None and status.outcome is not None:
            self.say(ended=[status.outcome.value, status.attempts, status.cause])
