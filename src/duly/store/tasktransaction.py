"""The transaction of a transactional task: what the task writes commits together with its ledger row.

1. BEGIN, and a savepoint of ours under everything the task does.
2. The task works through a session (which joins by savepoints of its own, so its ``commit()`` and
   ``rollback()`` stay inside) or a connection (whose ``commit()`` is refused).
3. Flush. Release our savepoint: it fails, loudly, if anything else has ended the transaction.
4. The fence, which is the first statement that locks the job's row, with the expiry; the ledger row.
5. COMMIT.

From 3 on nothing may reach in: neither a time limit nor a cancellation.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from duly.errors import CommitInTask, DatabaseBusy, DatabaseError, TransactionEnded
from duly.model.job import ClaimedJob

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

    from duly.store.store import Store

ENDED = "something other than Duly has ended the task's transaction (a raw COMMIT or ROLLBACK, or DDL that commits)"


LAST_QUESTION = 1.0
"""Seconds in which the connection of a cancelled attempt may tell whether its transaction is whole."""


class _Steps:
    """What happens on the connection, for sync and async callers alike."""

    def __init__(self, store: Store, worker: str, job: ClaimedJob, *, run_time: float, lease: float) -> None:
        self._store = store
        self._worker = worker
        self._job = job
        self._run_time = run_time
        self._lease = lease
        self._savepoint = f"duly_{secrets.token_hex(6)}"
        self._released = False

    def begin(self, connection: Connection) -> datetime:
        """Step 1; the database's time then, when any wait for a lock or a connection is over."""
        with self._store.guarded():
            self._store.dialect.begin(connection)
            self._store.dialect.limit_task(
                connection, statement=self._run_time, idle=self._run_time + self._lease
            )
            self._store.dialect.set_savepoint(connection, self._savepoint)
            now: datetime = connection.execute(select(self._store.dialect.clock)).scalar_one()
        # On this one object, which lives for one checkout: an event that raises would come too late,
        # when SQLAlchemy has taken the transaction for ended.
        vars(connection).update(commit=_refuse, rollback=_refuse)
        return now

    def record(self, connection: Connection, started_at: datetime, result: bytes | None) -> None:
        """Steps 3 (after the flush) and 4."""
        if self._store.dialect.was_undone(connection):
            raise DatabaseBusy(
                "the database has undone the task's transaction to resolve a deadlock, and the task went on "
                "as if nothing had happened: let its database errors pass",
                repeat=True,
            )
        if not self.whole(connection, "RELEASE SAVEPOINT"):
            raise TransactionEnded(ENDED)
        self._released = True
        with self._store.guarded():
            self._store.dialect.limit_task(connection, statement=self._lease, idle=self._lease)
            self._store.ledger.finish(
                connection, self._worker, self._job, started_at=started_at, result=result
            )

    def commit(self, connection: Connection) -> None:
        """Step 5."""
        with self._store.guarded():
            type(connection).commit(connection)

    def undo(self, connection: Connection) -> bool:
        """Roll everything back; False when something else had ended the transaction before."""
        untouchable = self._released or connection.invalidated or connection.closed
        whole = untouchable or self.whole(connection, "ROLLBACK TO SAVEPOINT")
        with suppress(SQLAlchemyError):
            type(connection).rollback(connection)
        return whole

    def whole(self, connection: Connection, verb: str) -> bool:
        """Whether our savepoint was still there for *verb*."""
        try:
            with self._store.guarded():
                _tell_driver(connection, f"{verb} {self._savepoint}")
        except DBAPIError as error:
            if self._store.dialect.savepoint_is_gone(error):
                return False
            raise
        return True


def _tell_driver(connection: Connection, statement: str) -> None:
    """Past SQLAlchemy: once a savepoint of a session's own has failed it lets no statement through."""
    try:
        cursor = connection.connection.cursor()
        try:
            cursor.execute(statement)
        finally:
            cursor.close()
    except connection.dialect.loaded_dbapi.Error as error:
        raise DBAPIError(statement, None, error) from error


def _keep_to(session: Session, connection: Connection | None) -> None:
    """Whatever routing the application's sessions have (``binds=``, a ``get_bind`` of their own): one connection.

    On this one object: else what is routed elsewhere would commit by itself, before the fence.
    """
    vars(session)["get_bind"] = lambda *_, **__: connection


def _refuse() -> None:
    raise CommitInTask(
        "a transactional task must not commit() or rollback() the connection that Duly gave it: Duly ends that "
        "transaction; use connection.begin_nested() for a part, or ask for a Session"
    )


class TaskTransaction:
    """The sync form. ``start``, then ``connection`` and ``session`` for the task, then ``finish`` or ``abandon``."""

    def __init__(
        self,
        store: Store,
        worker: str,
        job: ClaimedJob,
        *,
        run_time: float,
        lease: float,
        session: Callable[..., Session] | None,
    ) -> None:
        self._store = store
        self._steps = _Steps(store, worker, job, run_time=run_time, lease=lease)
        self._factory = session or Session
        self._session: Session | None = None
        self._connection: Connection | None = None

    def start(self) -> datetime:
        """Begin; the database's time. ``DatabaseBusy`` or ``DatabaseUnavailable`` mean that nothing has happened."""
        with self._store.guarded():
            connection = self._store.engine.connect()
        try:
            now = self._steps.begin(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return now

    @property
    def connection(self) -> Connection:
        """For a task that asks for a ``Connection``."""
        assert self._connection is not None  # noqa: S101 - started
        return self._connection

    def session(self) -> Session:
        """For a task that asks for a ``Session``."""
        if self._session is None:
            self._session = self._factory(bind=self.connection, join_transaction_mode="create_savepoint")
            _keep_to(self._session, self.connection)
        return self._session

    def finish(self, started_at: datetime, result: bytes | None) -> None:
        """Flush, release, fence, ledger, COMMIT. An exception means that ``abandon`` must follow."""
        if self._session is not None:
            self._session.commit()
        self._steps.record(self.connection, started_at, result)
        self._steps.commit(self.connection)
        self._close()

    def abandon(self) -> bool:
        """Roll back; False when something else had ended the transaction, so that its writes may stand."""
        whole = True
        if self._connection is not None:
            try:
                whole = self._steps.undo(self.connection)
            finally:
                self._close()
        return whole

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        session, self._session = self._session, None
        for part in (session, connection):
            if part is not None:
                with suppress(SQLAlchemyError):
                    part.close()


class AsyncTaskTransaction:
    """The async form, on the async engine."""

    def __init__(
        self,
        store: Store,
        worker: str,
        job: ClaimedJob,
        *,
        run_time: float,
        lease: float,
        session: Callable[..., AsyncSession] | None,
    ) -> None:
        self._store = store
        self._steps = _Steps(store, worker, job, run_time=run_time, lease=lease)
        self._factory = session
        self._session: AsyncSession | None = None
        self._connection: AsyncConnection | None = None

    async def start(self) -> datetime:
        """As the sync form."""
        assert self._store.async_engine is not None  # noqa: S101 - seen to at start
        with self._store.guarded():
            connection = await self._store.async_engine.connect()
        try:
            await self._store.get_to_know(connection)
            now = await connection.run_sync(self._steps.begin)
        except BaseException:
            await connection.close()
            raise
        self._connection = connection
        return now

    @property
    def connection(self) -> AsyncConnection:
        """For a task that asks for an ``AsyncConnection``."""
        assert self._connection is not None  # noqa: S101 - started
        return self._connection

    def session(self) -> AsyncSession:
        """For a task that asks for an ``AsyncSession``."""
        if self._session is None:
            factory = self._factory or async_session_class()
            self._session = factory(bind=self.connection, join_transaction_mode="create_savepoint")
            _keep_to(self._session.sync_session, self.connection.sync_connection)
        return self._session

    async def finish(self, started_at: datetime, result: bytes | None) -> None:
        """As the sync form. A cancellation that comes while it runs waits until it is over."""
        ending = asyncio.ensure_future(self._finish(started_at, result))
        while not ending.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([ending])
        ending.result()

    async def _finish(self, started_at: datetime, result: bytes | None) -> None:
        if self._session is not None:
            await self._session.commit()
        await self.connection.run_sync(self._steps.record, started_at, result)
        await self.connection.run_sync(self._steps.commit)
        await self._close()

    async def abandon(self, *, discard: bool = False) -> bool:
        """Roll back, or *discard* the connection of a cancelled attempt, which rolls back too."""
        whole = True
        if self._connection is not None:
            try:
                if discard:
                    whole = await self._discard()
                else:
                    whole = await self.connection.run_sync(self._steps.undo)
            finally:
                await self._close()
        return whole

    async def _discard(self) -> bool:
        """Ask first whether the transaction is still whole, but not for long: a statement may be under way."""
        try:
            async with asyncio.timeout(LAST_QUESTION):
                return await self.connection.run_sync(self._steps.undo)
        except (TimeoutError, SQLAlchemyError, DatabaseError):
            return True
        finally:
            await self.connection.invalidate()

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        session, self._session = self._session, None
        for part in (session, connection):
            if part is not None:
                with suppress(SQLAlchemyError):
                    await part.close()


def async_session_class() -> type[AsyncSession]:
    """SQLAlchemy's own. Its async part needs greenlet, which only async applications have."""
    from sqlalchemy.ext.asyncio import AsyncSession

    return AsyncSession
