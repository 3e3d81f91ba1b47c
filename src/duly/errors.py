"""Every error that Duly raises, in one tree.

::

    DulyError
    ├── ConfigurationError          found at import or start; the CLI prints it in one line and exits 2
    │   ├── DeclarationError        a task, job class or option is declared wrongly
    │   ├── SettingsError           a URL, key, number or name in the settings does not hold
    │   └── SchemaError             the tables are missing, or older or newer than this release
    ├── EnqueueError                the caller's mistake; nothing was written
    │   ├── InvalidArguments        arguments do not fit the signature, or would not come back as they went
    │   ├── InvalidOptions          a call's options contradict each other or are out of bounds
    │   ├── WrongDatabase           the session or connection given is not on the queue's database
    │   ├── IdTaken                 the id given already names a job with other content
    │   ├── KeyTaken                the idempotency key given already names a job with other content
    │   └── UniqueConflict          another job has the unique key, and on_conflict="error" was said
    ├── DatabaseError               the database did not do what was asked
    │   ├── DatabaseUnavailable     it cannot be reached, or the connection was lost
    │   └── DatabaseBusy            it is there, but a lock was not granted in time
    ├── JobError                    what a handle says of its job
    │   ├── JobNotFound             no such job (not committed, rolled back, or pruned)
    │   ├── JobNotEnded             no result yet
    │   ├── JoinTimeout             the job did not end in time
    │   ├── JobDidNotSucceed        it ended, but not well: there is no result
    │   ├── ResultNotKept           it succeeded, but keep_result= did not ask for the result
    │   ├── JobNotRetryable         this job cannot be retried by hand
    │   └── JobNotResolvable        this job cannot be resolved, or has been otherwise
    ├── EnvelopeError               an envelope that must not, or cannot, be opened
    │   ├── EnvelopeRejected        edited, copied, or plain where a key is set: it never runs
    │   ├── UnknownKey              sealed with a key that this process does not have
    │   └── ArgumentsMisfit         opened, but the arguments no longer fit the task
    ├── ContextError                what a task asked of its context cannot be done
    │   └── StepRefused             the result of a step cannot be kept, or was edited
    ├── TransactionError            a transactional task's transaction is not what it was
    │   ├── LeaseLost               the job was given to another worker: everything is rolled back
    │   ├── TransactionEnded        something else has committed or ended the task's transaction
    │   └── CommitInTask            the task called commit() or rollback() on the connection it was given
    └── ProofError                  the prover could not do what was asked
        └── CannotTell              it met what it cannot copy, or turn to a copy

    Interruption                    raised *by a task* to say how its attempt ends
    ├── Retry                       try again (uses an attempt)
    ├── Snooze                      put back for later (uses no attempt)
    └── Cancel                      end the job as cancelled

    AttemptStopped                  raised *in a task* by its worker; ``except Exception`` lets it pass
    └── TimeLimit                   its max_run_time is over

The docstring of each says what it means and what to do; messages name the value at fault.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID


class DulyError(Exception):
    """Base of all errors of Duly."""


# ── found at import or start ──────────────────────────────────────────────────────────────────


class ConfigurationError(DulyError):
    """The program is set up wrongly. Mend what the message names; nothing has run yet."""


class DeclarationError(ConfigurationError):
    """A task, job class or option is declared wrongly. Raised at import, where the declaration stands."""


class SettingsError(ConfigurationError):
    """One or more settings do not hold. All faults found are listed, each with its source."""


class SchemaError(ConfigurationError):
    """The tables are missing, or older or newer than this release. Run ``duly migrate``, or upgrade Duly."""


# ── the caller's mistake at enqueue ───────────────────────────────────────────────────────────


class EnqueueError(DulyError):
    """A job was refused at enqueue. Nothing was written."""


class InvalidArguments(EnqueueError):
    """The arguments do not fit the task's signature, or would not come back from the row as they went in."""


class InvalidOptions(EnqueueError):
    """The options of a call contradict each other or are out of bounds."""


class WrongDatabase(EnqueueError):
    """The session or connection given is not on the queue's database, so the job could not commit with it."""


class IdTaken(EnqueueError):
    """The id given already names a job with another task, queue or arguments. Use a new id."""


class KeyTaken(EnqueueError):
    """The ``idempotency_key=`` given already belongs to a job with other arguments. Use one key for one thing."""


class UniqueConflict(EnqueueError):
    """Another job has this unique key, and ``on_conflict="error"`` asks to be told so."""

    def __init__(self, message: str, job: UUID) -> None:
        super().__init__(message)
        self.job = job
        """The id of the job that has it."""


# ── the database ──────────────────────────────────────────────────────────────────────────────


class DatabaseError(DulyError):
    """The database did not do what was asked. The driver's error is the ``__cause__``."""


class DatabaseUnavailable(DatabaseError):
    """The database cannot be reached, or the connection was lost. Nothing is half-written; try again."""


class DatabaseBusy(DatabaseError):
    """A lock was not granted in time, or the database asked to repeat the transaction. Nothing was written."""

    def __init__(self, message: str, *, repeat: bool = False) -> None:
        super().__init__(message)
        self.repeat = repeat
        """The database has undone the transaction, to resolve a deadlock or a conflict: repeat it at once."""


# ── what a handle says of its job ─────────────────────────────────────────────────────────────


class JobError(DulyError):
    """Base of what a handle raises about its job."""


class JobNotFound(JobError):
    """No such job: its transaction has not committed, was rolled back, or its ledger row was pruned."""


class JobNotEnded(JobError):
    """The job has not ended, so there is no result yet. ``join()`` waits for it."""


class JoinTimeout(JobError, TimeoutError):
    """The job did not end within the time-out given to ``join()`` or ``result()``. It goes on regardless."""


class JobDidNotSucceed(JobError):
    """The job ended with another outcome than ``succeeded``; the message names it and the last error."""


class ResultNotKept(JobError):
    """The job succeeded, but results are kept only where ``keep_result=True`` says so."""


class JobNotRetryable(JobError):
    """A job can be retried by hand when it ended and its envelope was kept; the message says what is missing."""


class JobNotResolvable(JobError):
    """Only a job that ended ``uncertain`` can be resolved, and once; the message says what stands in the way."""


# ── envelopes ─────────────────────────────────────────────────────────────────────────────────


class EnvelopeError(DulyError):
    """An envelope that must not, or cannot, be opened."""


class EnvelopeRejected(EnvelopeError):
    """The envelope or a bound column was edited or copied, or it is plain where keys are set. It never runs."""


class UnknownKey(EnvelopeError):
    """Sealed with a key that this process does not have. Add the key to ``DULY_KEYS``; the job waits."""


class ArgumentsMisfit(EnvelopeError):
    """The arguments no longer fit the task's signature. Deploy code that accepts them; the job waits."""


# ── what a task asks of its context ───────────────────────────────────────────────────────────


class ContextError(DulyError):
    """What a task asked of its ``ctx`` cannot be done here. The message says what to write instead."""


class StepRefused(ContextError):
    """The result of a step cannot be kept, or what was kept does not open. The job ends ``failed`` at once.

    Were it tried again the step would be done again. Return what its annotation says, and no more than is needed.
    """


# ── transactional tasks ───────────────────────────────────────────────────────────────────────


class TransactionError(DulyError):
    """The transaction of a transactional task is not what it was."""


class LeaseLost(TransactionError):
    """The job now belongs to another worker, or has expired: what this attempt wrote is rolled back."""


class TransactionEnded(TransactionError):
    """Something other than Duly ended the task's transaction (a raw COMMIT, a DDL statement that commits).

    What it wrote before may stand, so the job is not retried: it ends ``uncertain`` and waits for a person.
    """


class CommitInTask(TransactionError):
    """``commit()`` or ``rollback()`` on the connection that Duly gave to the task: Duly ends that transaction.

    Use ``connection.begin_nested()`` for a part that may be rolled back, or ask for a ``Session``.
    """


# ── the prover ────────────────────────────────────────────────────────────────────────────────


class ProofError(DulyError):
    """The prover could not do what was asked."""


class CannotTell(ProofError):
    """The prover met a database that it cannot copy, or a connection that it cannot turn to a copy.

    The message names it, and the line. The real database was not touched.
    """


# ── raised by a task ──────────────────────────────────────────────────────────────────────────


class Interruption(Exception):
    """Base of what a task raises to say how its attempt ends. Not an error of Duly's."""


class _Later(Interruption):
    def __init__(
        self,
        reason: str = "",
        *,
        after: timedelta | float | None = None,
        at: datetime | None = None,
    ) -> None:
        if after is not None and at is not None:
            raise TypeError(f"{type(self).__name__} takes after= or at=, not both")
        if at is not None and (not isinstance(at, datetime) or at.utcoffset() is None):
            raise TypeError(f"{type(self).__name__}(at=…) takes a datetime with a time zone, not {at!r}")
        if after is not None and (isinstance(after, bool) or not isinstance(after, int | float | timedelta)):
            raise TypeError(f"{type(self).__name__}(after=…) takes a timedelta or seconds, not {after!r}")
        super().__init__(reason)
        self.reason = reason
        self.after = timedelta(seconds=after) if isinstance(after, int | float) else after
        self.at = at


class Retry(_Later):
    """Raised by a task: end this attempt and try again, after the time given or by the retry rule.

    ``after`` is a timedelta or seconds, ``at`` an aware datetime. Uses an attempt; when none is
    left the job ends ``failed``.
    """


class Snooze(_Later):
    """Raised by a task: put the job back for later without using an attempt.

    ``after`` is a timedelta or seconds (default 60 s), ``at`` an aware datetime. The job's
    ``expires_at`` stands: what is snoozed past it ends ``expired``.
    """


class Cancel(Interruption):
    """Raised by a task: end the job as ``cancelled``. No retry, no failure."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


# ── raised in a task ──────────────────────────────────────────────────────────────────────────


class AttemptStopped(BaseException):
    """Raised *in* a running sync task by its worker: the job was cancelled, or is no longer this worker's.

    Not an ``Exception``, so that a loop with ``except Exception`` does not go on regardless. Catch it to
    tidy up, for some seconds at most, and raise it again; a task that returns instead has succeeded.
    """

    def __init__(self, reason: str = "the attempt was stopped") -> None:
        super().__init__(reason)
        self.reason = reason


class TimeLimit(AttemptStopped):
    """Raised *in* a running task when its ``max_run_time`` is over. The attempt has failed, and is counted.

    An async task is cancelled instead, at its next ``await``.
    """

    def __init__(self, reason: str = "the attempt is over its max_run_time") -> None:
        super().__init__(reason)
