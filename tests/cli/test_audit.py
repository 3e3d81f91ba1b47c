"""``duly audit``: what it says of tasks, its exit codes, and that it is remembered."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from duly.clock import DatabaseClock
from duly.model.events import Event, Notice
from duly.proof.source import source_of
from tests.cli.conftest import MakeShop, Shop
from tests.databases import Database

GOOD = '''\
from datetime import timedelta
from uuid import uuid4

from sqlalchemy.orm import Session

from duly import Backoff, Context, Duly, Job, given

jobs = Duly()


@jobs.task(effects="transactional", queue="money", expires_in=timedelta(hours=1), unique=True)
def charge(order_id: int, note: str | None = None, *, session: Session = given) -> None:
    """Charge an order.

    # Not a heading.
    """


@jobs.task(effects="idempotent", max_attempts=3, retry=Backoff.fixed(60), give_up_on=(LookupError,))
async def send_mail(user_id: int, *, ctx: Context = given) -> None:
    """Send a mail, with the key as its Message-ID."""
    name = uuid4()  # duly: reviewed (the name of a part that is replaced)
    print(ctx.idempotency_key, name)


@jobs.task(effects="unrepeatable", isolated=True)
class Launch(Job):
    """Launch it."""

    pad: int
    crew: list[str] = []

    def perform(self) -> None: ...
'''
BAD = """\
from duly import Duly

jobs = Duly()


@jobs.task
def fetch(url: str) -> None: ...


@jobs.task(effects="idempotent")
def mail() -> None:
    'Mail\\x1b[31m it.'
"""
REFERENCE = ("--app", "shop.tasks:jobs")


@pytest.fixture
def good(make_shop: MakeShop, sqlite_database: Database) -> Iterator[Shop]:
    yield from opened(make_shop(sqlite_database), GOOD)


@pytest.fixture
def bad(make_shop: MakeShop, sqlite_database: Database) -> Iterator[Shop]:
    yield from opened(make_shop(sqlite_database), BAD)


def opened(shop: Shop, tasks: str) -> Iterator[Shop]:
    shop.write("shop/tasks.py", tasks)
    yield shop
    shop.close()


# ── for people ────────────────────────────────────────────────────────────────────────────────


def test_a_table_shows_each_task_below_its_module(good: Shop) -> None:
    answer = good.duly("audit", *REFERENCE)
    assert (answer.code, answer.err) == (0, "")
    assert [re.sub(r" +", " ", line) for line in answer.out.splitlines()[2:6]] == [
        "shop.tasks ",
        " Launch unrepeatable - 90d 25 4h - 0",
        " charge transactional unique 1h 25 4h - 0",
        " send_mail idempotent key 90d 3 4h - 0",
    ]
    assert "3 tasks, 0 gaps, 1 reviewed finding. Never audited before." in answer.out


def test_what_was_reviewed_is_shown_with_its_reason(good: Shop) -> None:
    out = good.duly("audit", *REFERENCE).out
    assert re.search(
        r"^shop/tasks.py:22 +makes a random value \(uuid4\): each attempt makes another", out, re.MULTILINE
    )
    assert "reviewed: the name of a part that is replaced" in out


def test_gaps_are_named_with_place_and_remedy(bad: Shop) -> None:
    out = bad.duly("audit", *REFERENCE).out
    for place, gap, remedy in (
        (6, "does not state its effects", 'state effects="transactional", "idempotent" or'),
        (6, "has no docstring", "say in one what"),
        (10, "says that it is idempotent, and uses neither", "hand ctx.idempotency_key to the receiver"),
    ):
        assert re.search(rf"^shop/tasks.py:{place} +{gap}.*\n +→ {remedy}", out, re.MULTILINE)
    assert "2 tasks, 3 gaps, 0 reviewed findings." in out
    assert "\x1b" not in out


def test_it_fits_into_eighty_columns(bad: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    out = re.sub(r"\x1b\[[\d;]*m", "", bad.duly("audit", *REFERENCE).out)
    assert max(map(len, out.splitlines())) == 80


def test_an_app_without_tasks_says_so(make_shop: MakeShop, sqlite_database: Database) -> None:
    for shop in opened(make_shop(sqlite_database), "from duly import Duly\njobs = Duly()\n"):
        assert "This app has no tasks" in shop.duly("audit", *REFERENCE).out


# ── for continuous integration ────────────────────────────────────────────────────────────────


def test_strict_prints_a_line_for_each_gap_and_exits_with_1(bad: Shop) -> None:
    answer = bad.duly("audit", *REFERENCE, "--strict")
    *gaps, summary = answer.out.splitlines()
    assert answer.code == 1
    assert [re.match(r"shop/tasks.py:(\d+): shop.tasks.\w+ .+\. Remedy: .+", gap)[1] for gap in gaps] == [  # type: ignore[index]
        "6",
        "6",
        "10",
    ]
    assert summary.startswith("2 tasks, 3 gaps")


def test_strict_is_content_without_gaps(good: Shop) -> None:
    answer = good.duly("audit", *REFERENCE, "--strict")
    assert (answer.code, len(answer.out.splitlines())) == (0, 1)


def test_strict_decides_the_exit_code_of_the_other_forms(bad: Shop) -> None:
    assert bad.duly("audit", *REFERENCE, "--strict", "--json").code == 1
    assert bad.duly("audit", *REFERENCE, "--strict", "--markdown").code == 1
    assert bad.duly("audit", *REFERENCE, "--markdown").code == 0


def test_json_and_markdown_are_not_one(good: Shop) -> None:
    answer = good.duly("audit", *REFERENCE, "--json", "--markdown")
    assert (answer.code, answer.err) == (2, "duly: give --json or --markdown, not both\n")


TASK_KEYS = """\
name where kind docstring effects idempotency_key guards queue priority expires_at expires_in_seconds max_attempts
retry retry_on give_up_on max_run_time_seconds isolated arguments given sensitivity policy proof gaps reviewed"""


def test_json_has_its_documented_keys(good: Shop) -> None:
    told = good.duly("audit", *REFERENCE, "--json").json
    assert list(told) == ["tasks", "gaps", "reviewed", "last_audit", "overdue", "recorded"]
    assert (told["gaps"], told["reviewed"], told["last_audit"], told["overdue"]) == (0, 1, None, False)
    assert told["recorded"] is True
    launch, charge, mail = told["tasks"]
    assert all(list(task) == TASK_KEYS.split() for task in told["tasks"])
    assert (charge["where"], charge["expires_in_seconds"]) == ("shop/tasks.py:11", 3600)
    assert charge["arguments"] == {"order_id": "int", "note": "str | None = …"}
    assert charge["guards"] == ["transaction", "unique"]
    assert (mail["idempotency_key"], mail["kind"], mail["give_up_on"]) == ("used", "async", ["LookupError"])
    assert (launch["arguments"], launch["isolated"]) == ({"pad": "int", "crew": "list[str] = …"}, True)
    assert {task["policy"] for task in told["tasks"]} == {"anyone"}
    again = good.duly("audit", *REFERENCE, "--json").json["last_audit"]
    assert (again["tasks"], again["gaps"]) == (3, 0)


# ── as documentation ──────────────────────────────────────────────────────────────────────────


def test_markdown_has_a_section_for_each_task(good: Shop) -> None:
    out = good.duly("audit", *REFERENCE, "--markdown").out
    assert re.findall(r"^#+ .+", out, re.MULTILINE) == [
        "# Tasks",
        "## shop.tasks.Launch",
        "## shop.tasks.charge",
        "## shop.tasks.send_mail",
    ]
    charge = out.split("## ")[2]
    for line in (
        "Charge an order.",
        r"\# Not a heading.",
        "| Declared in | `shop/tasks.py`, sync |",
        "| Effects | transactional: exactly once, its writes commit with its outcome |",
        "| Idempotency key | – |",
        "| Guards | transaction, unique |",
        "| Queue | `money`, priority 0 |",
        "| Expires | 1 hour after `run_at` |",
        "| Retries | at most 25 attempts, after `n**4 + 5` seconds |",
        "| Run-time limit | 4 hours |",
        r"| Arguments | `order_id: int`, `note: str \| None = …` |",
        "| Given by Duly | `session: Session` |",
        "| Sensitivity | plain |",
        "| Policy | anyone |",
        "| Proof | – |",
    ):
        assert line in charge.splitlines()
    assert "| Gives up on | `LookupError` |" in out
    assert "It is right here: the name of a part that is replaced." in out


def test_markdown_says_the_same_when_nothing_has_changed(bad: Shop) -> None:
    first, second = (bad.duly("audit", *REFERENCE, "--markdown").out for _ in range(2))
    assert first == second
    assert "- `shop/tasks.py:6` does not state its effects. Remedy: state" in first


# ── proofs ────────────────────────────────────────────────────────────────────────────────────


def prove(shop: Shop, verdict: str, *, source: str | None = None) -> None:
    """Save a verdict on ``charge``, as it is."""
    jobs = shop.tasks().jobs
    task = jobs.find("shop.tasks.charge")
    with jobs.store.writing() as connection:
        jobs.store.proofs.save(
            connection, task=task.name, source=source or source_of(task), verdict=verdict, points=9
        )


@pytest.mark.parametrize(
    ("verdict", "source", "gap", "demanded"),
    [
        ("proved", None, None, None),
        ("proved", "0" * 64, None, "has changed since its last proof"),
        ("diverges", None, "the prover saw it diverge", "the prover saw it diverge"),
        ("diverges", "0" * 64, None, "has changed since its last proof"),
        ("cannot tell", None, None, "the prover says 'cannot tell'"),
    ],
)
def test_proofs_count_when_they_are_asked_for(
    good: Shop, verdict: str, source: str | None, gap: str | None, demanded: str | None
) -> None:
    prove(good, verdict, source=source)
    for options, said in (((), gap), (("--proofs",), demanded)):
        [charge] = [
            task
            for task in good.duly("audit", *REFERENCE, "--json", *options).json["tasks"]
            if task["name"] == "shop.tasks.charge"
        ]
        proof = charge["proof"]
        assert (proof["verdict"], proof["stale"], proof["points"]) == (verdict, source is not None, 9)
        assert [said is not None and said in each["what"] for each in charge["gaps"]] == [True] * bool(said)


def test_proofs_are_shown(good: Shop) -> None:
    prove(good, "diverges")
    prove(good, "proved", source="0" * 64)
    assert re.search(r"^  charge .* proved, stale ", good.duly("audit", *REFERENCE).out, re.MULTILINE)
    assert "| Proof | proved, stale: 9 crash points, " in good.duly("audit", *REFERENCE, "--markdown").out


def test_with_proofs_a_task_without_one_has_a_gap(good: Shop) -> None:
    out = good.duly("audit", *REFERENCE, "--strict", "--proofs").out
    assert "shop.tasks.charge has no proof. Remedy: run `duly prove shop.tasks:charge --record`" in out


# ── recorded ──────────────────────────────────────────────────────────────────────────────────


def test_an_audit_is_recorded_and_the_next_one_says_so(migrated: Shop) -> None:
    assert "Never audited before." in migrated.duly("audit").out
    [(actor, tasks, gaps)] = migrated.database.rows("SELECT actor, tasks, gaps FROM duly_audits")
    assert (tasks, gaps) == (4, 7)
    out = migrated.duly("audit").out
    assert re.search(rf"Last audited \S+ ago by {re.escape(actor)}: 7 gaps\.", out)


def test_without_its_database_it_audits_all_the_same(good: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DULY_DATABASE_URL", f"sqlite:///{good.folder}/missing/jobs.db")
    answer = good.duly("audit", *REFERENCE, "--strict", "--json")
    assert (answer.code, answer.json["recorded"], answer.json["gaps"]) == (0, False, 0)
    assert answer.err.startswith("duly: this audit was not recorded, and no proofs are known: ")


LATER = timedelta(days=31)


@pytest.fixture
def a_month_later(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the database's clock, as this process reads it, be a month ahead from now on."""
    honest = DatabaseClock.now
    return lambda: monkeypatch.setattr(DatabaseClock, "now", lambda clock: honest(clock) + LATER)


def test_an_audit_long_ago_is_warned_about(good: Shop, a_month_later: Callable[[], None]) -> None:
    good.duly("audit", *REFERENCE)
    assert good.duly("audit", *REFERENCE, "--json").json["overdue"] is False
    a_month_later()
    assert (
        "The tasks were last audited 31 days ago, and audit_every is 30" in good.duly("audit", *REFERENCE).out
    )


def test_workers_warn_of_it_when_they_start(good: Shop, a_month_later: Callable[[], None]) -> None:
    jobs, events = good.tasks().jobs, list[Event]()
    jobs.emitter.subscribe(events.append)

    def warnings() -> list[str]:
        events.clear()
        assert jobs.supervise(until_empty=True) == 0
        return [event.text for event in events if isinstance(event, Notice) and event.level == "warning"]

    assert warnings() == []  # never audited is no reason to warn
    good.duly("audit", *REFERENCE)
    a_month_later()
    assert warnings() == ["the tasks were last audited 31 days ago, and audit_every is 30: run `duly audit`"]
