"""One run of a task in a throw-away world: undisturbed, killed at a point, frozen there, or delivered twice."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from duly.proof.child import Case
from duly.proof.course import Halt
from duly.proof.home import Home
from duly.proof.kin import Kid, Kin
from duly.proof.outside import Effect
from duly.proof.points import Point, Stop
from duly.proof.world import World

THAW = 0.7
"""Seconds of silence after which the other worker is taken to wait for a lock that the frozen one holds."""

if TYPE_CHECKING:
    from duly.task.task import Task


@dataclass(frozen=True, slots=True)
class Run:
    """What a run showed."""

    points: tuple[Point, ...]
    """Those that the first process came by, in their order."""
    effects: tuple[Effect, ...]
    """Of all its processes, in the order in which they were done."""
    outcome: str | None
    """How the job ended; None when it did not."""
    attempts: int
    """As the ledger counts them."""
    notes: tuple[str, ...]
    """Why this run cannot tell. Empty: it can."""
    cause: str | None = None
    """Why the job ended as it did, where it did not succeed."""


class Runs:
    """Runs one call of one task, again and again, each time in a world of its own.

    Every run is done by children of this process; this one opens no connection. A child enters the world,
    sets all other jobs of it aside, enqueues the call (always with the same id, so that its idempotency key is
    the same in all runs) and works it with a real worker. A child that does nothing for *patience* seconds is
    killed, and the run cannot tell. No child outlives its run.

    Mails go to a stand-in that takes them all. Other hosts than this one are refused, and the run cannot
    tell, unless they are in *reach*.
    """

    def __init__(
        self,
        app: Home,
        task: Task[..., Any],
        arguments: Mapping[str, Any],
        *,
        reach: frozenset[str] = frozenset(),
        patience: float = 20.0,
    ) -> None:
        self._case = Case(app, task, dict(arguments), reach)
        self._patience = patience
        self._course: tuple[Point, ...] = ()

    def clean(self, world: World) -> Run:
        """Undisturbed. To be done first: all others, further clean ones too, are compared with its course."""
        if not self._course:
            self._warm_up(world)
        with self._kin(world) as kin:
            only = kin.bear(enqueues=True, looks=True)
            run = self._seen(kin, only)
        course = self._course = self._course or run.points
        if run.notes or (len(course) == len(run.points) and all(map(Point.same, course, run.points))):
            return run
        return replace(run, notes=("the task takes another course each time: two clean runs differ",))

    def crashed(self, world: World, at: Stop) -> Run:
        """Killed there by SIGKILL; its worker is buried, and another works the job until it has ended."""
        with self._kin(world) as kin:
            victim = kin.bear(enqueues=True, halt=Halt(at, "kill", self._course))
            if not kin.listen(lambda: victim.status is not None) or victim.stopped is None:
                return self._astray(kin, victim, at)
            heir = kin.bear(dead=[victim.grave], looks=True)
            return self._seen(kin, victim, heir)

    def frozen(self, world: World, at: Stop) -> Run:
        """Stopped there by SIGSTOP; its job is given to another, and it wakes up when that one has done it.

        It wakes up earlier when the other waits for it: for a lock, or because the job's row is locked.
        Not for points that are ``held``.
        """
        with self._kin(world) as kin:
            sleeper = kin.bear(enqueues=True, halt=Halt(at, "freeze", self._course))
            if not kin.listen(lambda: sleeper.frozen or sleeper.status is not None) or not sleeper.frozen:
                return self._astray(kin, sleeper, at)
            heir = kin.bear(dead=[sleeper.grave])
            kin.listen(lambda: heir.status is not None, THAW)
            kin.wake(sleeper)
            return self._finished(kin, sleeper, heir)

    def doubled(self, world: World) -> Run:
        """Two deliveries of the job at once."""
        with self._kin(world) as kin:
            first = kin.bear(enqueues=True, gated=True)
            kin.listen(lambda: bool(first.started) or first.status is not None)
            second = kin.bear(dead=[first.grave], gated=True)
            kin.listen(lambda: bool(second.started) or second.status is not None)
            kin.let_through(first, second)
            return self._finished(kin, first, second)

    def _warm_up(self, world: World) -> None:
        """What is opened and compiled here need not be opened and compiled in every child. Nothing is written."""
        with world.visit():
            store = self._case.app.store
            with store.reading() as connection:
                store.rehearsal.clear(connection)
                store.rehearsal.hasten(connection, world.job)
                store.jobs.exchange(connection, "", [], ("",), 1)
                store.ledger.status(connection, world.job)
                connection.rollback()
            store.disconnect()

    # ── what it showed ────────────────────────────────────────────────────────────────────────

    def _kin(self, world: World) -> Kin:
        return Kin(self._case, world, self._patience)

    def _finished(self, kin: Kin, *kids: Kid) -> Run:
        """Both to their end; a third looks whether anything is left to do."""
        kin.listen(lambda: all(kid.status is not None for kid in kids))
        last = kin.bear(dead=[kid.grave for kid in kids], looks=True)
        return self._seen(kin, *kids, last)

    def _seen(self, kin: Kin, *kids: Kid) -> Run:
        """When the last of *kids* has ended."""
        kin.listen(lambda: all(kid.status is not None for kid in kids))
        notes = [note for kid in kids for note in (*kid.notes, *self._silence(kid))]
        outcome, attempts, cause = kids[-1].ended or (None, 0, None)
        if outcome is None and not notes:
            notes.append("the job did not end")
        return Run(
            points=tuple(kids[0].points),
            effects=tuple(effect for kid in kids for effect in kid.effects),
            outcome=outcome,
            attempts=attempts,
            notes=tuple(dict.fromkeys(notes)),
            cause=cause,
        )

    def _silence(self, kid: Kid) -> Sequence[str]:
        if kid.status is None:
            where = f" after point {kid.points[-1].number} ({kid.points[-1].where})" if kid.points else ""
            return [f"a process did nothing for {self._patience:g} s{where}, and was killed"]
        if kid.status != 0 and kid.stopped is None:
            return [f"a process ended by itself ({_how(kid.status)})"]
        return []

    def _astray(self, kin: Kin, kid: Kid, at: Stop) -> Run:
        """It did not come to its point."""
        run = self._seen(kin, kid)
        missed = f"the task takes another course each time: it did not come to point {at.point} again"
        return replace(run, notes=run.notes or (missed,))


def _how(status: int) -> str:
    return (
        f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit status {os.WEXITSTATUS(status)}"
    )
