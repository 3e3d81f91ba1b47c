"""The ground of a fault test: a database, an app to enqueue with, terminals with ``duly work``, and the books."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pymysql
from sqlalchemy.orm import Session

from duly import Duly
from duly.task.call import Call
from tests import mysql
from tests.databases import OTHERS, Database, connect
from tests.faults import checker
from tests.faults.checker import Books
from tests.faults.launches import launches
from tests.faults.tasks import EFFECTS, aduties, aeffect, duties, effect
from tests.faults.terminal import PATIENCE, Terminal, Zygote, environment_of, until
from tests.faults.unruly import unruly

LONG = os.environ.get("DULY_TEST_FAULTS") == "long"
"""Whether the long form was asked for (``DULY_TEST_FAULTS=long``): more jobs, more kills, more seconds."""


class Ground:
    """One test's. ``close`` leaves nothing behind."""

    def __init__(self, database: Database, folder: Path, zygote: Zygote) -> None:
        self.database = database
        self.journal = folder / "journal"
        self.gates = folder / "gates"
        self.gates.mkdir()
        self.promised: dict[str, bool] = {}
        self.undone: set[str] = set()
        self.unrepeatable: set[str] = set()
        self._folder = folder
        self._zygote = zygote
        self._terminals: list[Terminal] = []
        self._bystanders: set[int] = set()
        self.aeffect: Any = effect if database.name == "mysql" else aeffect
        """The async one, where there is an async engine."""
        if database.name != "sqlite":
            self._bystanders = set(self.sessions())
        self.app = Duly(database.url, include=[duties, aduties, launches, unruly])
        self.app.migrate()
        assert self.app.store.installation  # opened: so close() closes what migrate() has opened
        database.rows(EFFECTS)

    def close(self) -> None:
        """Kill what runs, close what is open."""
        for terminal in self._terminals:
            terminal.end()
        self.app.close()

    def reopen(self, **options: Any) -> None:
        """The app anew, with other options."""
        self.app.close()
        self.app = Duly(self.database.url, include=[duties, aduties, launches, unruly], **options)

    # ── processes ─────────────────────────────────────────────────────────────────────────────

    def terminal(
        self,
        *options: str,
        command: str = "work",
        processes: int = 1,
        threads: int = 2,
        lease: float = 15.0,
        plain: bool = False,
        variables: dict[str, str] | None = None,
        **settings: Any,
    ) -> Terminal:
        """``duly work``; *settings* as in the environment, without ``DULY_``, *variables* as they are.

        *plain*: without ``--processes``, for pools.
        """
        given = {
            "DULY_DATABASE_URL": self.database.url,
            "DULY_LEASE": lease,
            "DULY_POLL": 0.05,
            "DULY_GRACE": 2 * PATIENCE,  # whoever waits for its end when nothing runs is found out
            "DULY_COROUTINES": 10,
            "DULY_TEST_JOURNAL": self.journal,
            "DULY_TEST_GATES": self.gates,
            **{f"DULY_{name.upper()}": value for name, value in settings.items()},
            **(variables or {}),
        }
        arguments = [
            command, "--app", "tests.faults.app:jobs", "--log-format", "json", "--threads", str(threads),
            *([] if plain else ["--processes", str(processes)]), *options,
        ]  # fmt: skip
        return self._start("duly.cli:main", arguments, given)

    def run(self, function: str, *arguments: str, **settings: Any) -> Terminal:
        """A process of the application's, that runs ``module:function``."""
        given = {
            "DULY_DATABASE_URL": self.database.url,
            "DULY_TEST_JOURNAL": self.journal,
            "DULY_TEST_GATES": self.gates,
            **settings,
        }
        return self._start(function, arguments, given)

    def _start(self, function: str, arguments: Iterable[str], given: dict[str, Any]) -> Terminal:
        settings = {name: str(value) for name, value in given.items()}
        log = self._folder / f"terminal-{len(self._terminals) + 1}"
        terminal = Terminal(self._zygote, log, environment_of() | settings, list(arguments), function)
        self._terminals.append(terminal)
        return terminal

    def open(self, gate: str) -> None:
        """Let the tasks pass that wait at this gate."""
        (self.gates / gate).touch()

    # ── enqueueing ────────────────────────────────────────────────────────────────────────────

    def enqueue(self, *calls: Call[Any]) -> list[str]:
        """All in one transaction of Duly's own; noted as promised."""
        handles = self.app.enqueue_many(calls)
        jobs = [str(handle.id) for handle in handles]
        self.promise(jobs, calls)
        return jobs

    def promise(self, jobs: Iterable[str], calls: Iterable[Call[Any]]) -> None:
        """These enqueues are committed."""
        for job, call in zip(jobs, calls, strict=True):
            self.promised[job] = call.task.effects == "transactional"
            if call.task.effects == "unrepeatable":
                self.unrepeatable.add(job)

    def roll_back(self, *calls: Call[Any]) -> None:
        """Enqueue in a transaction of the application's, which is then rolled back."""
        with Session(self.app.store.engine) as session:
            handles = self.app.enqueue_many(calls, session=session)
            session.rollback()
        self.undone |= {str(handle.id) for handle in handles}

    # ── the books ─────────────────────────────────────────────────────────────────────────────

    def lines(self, event: str, **facts: Any) -> list[dict[str, Any]]:
        """Lines of the journal."""
        every = checker.lines(self.journal)
        return [line for line in every if line["event"] == event and facts.items() <= line.items()]

    def starts(self, job: str) -> list[dict[str, Any]]:
        """The starts of one job, in the order in which they happened."""
        return self.lines("start", job=job)

    def started(self, job: str, times: int = 1) -> dict[str, Any]:
        """Wait until the job has started so often; its last start."""
        return until(
            lambda: len(self.starts(job)) >= times and self.starts(job)[-1], f"start {times} of {job}"
        )

    def row(self, job: str, *columns: str) -> tuple[Any, ...] | None:
        """Columns of an unfinished job."""
        return self._one(f"SELECT {', '.join(columns)} FROM duly_jobs WHERE id = '{job}'")

    def entry(self, job: str, *columns: str) -> tuple[Any, ...] | None:
        """Columns of a job's ledger row."""
        return self._one(f"SELECT {', '.join(columns)} FROM duly_executions WHERE job_id = '{job}'")

    def outcome(self, job: str) -> str:
        """Wait for it."""
        return str(until(lambda: self.entry(job, "outcome"), f"an outcome of {job}")[0])

    def _one(self, sql: str) -> tuple[Any, ...] | None:
        rows = self.database.rows(sql)
        return rows[0] if rows else None

    def unfinished(self) -> int:
        """How many jobs there are that have not ended."""
        return int(self.database.rows("SELECT count(*) FROM duly_jobs")[0][0])

    def all_done(self) -> None:
        """Wait until every job has ended, however many there are, as long as some do."""
        left = -1

        def fewer() -> bool:
            nonlocal left
            with contextlib.suppress(
                psycopg.OperationalError, pymysql.OperationalError
            ):  # a database may be away, in these tests
                before, left = left, self.unfinished()
                return left == 0 or 0 <= left < before
            return False

        while left:
            until(fewer, lambda: f"the end of all jobs; {left} are left: {self._left()}")

    def _left(self) -> list[tuple[Any, ...]]:
        return self.database.rows("SELECT task, state, worker, count(*) FROM duly_jobs GROUP BY 1, 2, 3")

    def books(self) -> Books:
        """What was promised, what ran, and what the database says."""
        books = checker.read(self.database, self.journal)
        books.promised, books.undone = dict(self.promised), set(self.undone)
        books.unrepeatable = set(self.unrepeatable)
        return books

    def check(self, *, calm: bool = False, finished: bool = True) -> Books:
        """The ledger checker: nothing lost, nothing doubled, nothing at the wrong time."""
        books = self.books()
        complaints = books.complaints(calm=calm, finished=finished)
        assert not complaints, f"{len(complaints)} complaints:\n" + "\n".join(complaints[:20])
        return books

    # ── the database from behind ──────────────────────────────────────────────────────────────

    def sessions(self) -> list[int]:
        """The server's sessions in this database, without those that were there before."""
        asked = f"SELECT id {mysql.OTHERS}" if self.database.name == "mysql" else f"SELECT pid {OTHERS}"
        return [row[0] for row in self.database.rows(asked) if row[0] not in self._bystanders]

    def cut(self, session: int) -> None:
        """Cut a session off; it may be gone meanwhile."""
        by = "KILL {}" if self.database.name == "mysql" else "SELECT pg_terminate_backend({})"
        with contextlib.suppress(pymysql.Error):
            self.database.rows(by.format(session))

    @contextlib.contextmanager
    def frozen(self, sql: str) -> Iterator[list[tuple[Any, ...]]]:
        """A transaction of somebody's, that has run *sql* and then does nothing more."""
        if self.database.name == "mysql":
            with mysql.connect(self.database.url) as session, session.cursor() as cursor:
                cursor.execute(
                    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"
                )  # else it locks what it reads
                cursor.execute("START TRANSACTION")
                cursor.execute(sql)
                yield list(cursor.fetchall())
                session.rollback()
            return
        with connect(self.database.url) as server, server.transaction():
            yield server.execute(sql).fetchall()  # type: ignore[arg-type]


def figures(record_property: Callable[[str, object], None], **found: object) -> None:
    """Numbers worth knowing: shown by ``pytest -rP``, kept in a JUnit report."""
    for name, number in found.items():
        record_property(name, number)
    print("FIGURES", {name: round(n, 3) if isinstance(n, float) else n for name, n in found.items()})
