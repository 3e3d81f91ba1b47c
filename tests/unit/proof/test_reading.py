"""Each rule sees what is wrong, and leaves its right twin alone; reviews silence it, with their reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from duly.proof.reading import Reading, read
from tests.unit.proof.conftest import HEAD, Declare

PLAIN, IDEMPOTENT = "@jobs.task", '@jobs.task(effects="idempotent")'
TRANSACTIONAL, UNREPEATABLE = '@jobs.task(effects="transactional")', '@jobs.task(effects="unrepeatable")'
TAKES = {
    PLAIN: "*, ctx: Context = given",
    IDEMPOTENT: "*, ctx: Context = given",
    TRANSACTIONAL: "*, session: Session = given, ctx: Context = given",
    UNREPEATABLE: "*, ctx: Context = given",
}
KEYED = "use(ctx.idempotency_key)"

WRONG = [
    # rule, declaration, line, what of it is named
    ("outside", TRANSACTIONAL, "smtplib.SMTP('mail')", "sends mail (smtplib.SMTP)"),
    ("outside", TRANSACTIONAL, "urllib.request.urlopen('http://bank')", "speaks HTTP"),
    ("outside", TRANSACTIONAL, "socket.create_connection(('bank', 80))", "opens a socket"),
    ("outside", TRANSACTIONAL, "subprocess.run(['pay'])", "starts a process"),
    ("outside", TRANSACTIONAL, "import requests; requests.post('http://bank')", "requests.post"),
    ("outside", TRANSACTIONAL, "from http.client import HTTPConnection as C; C('bank')", "speaks HTTP (C)"),
    ("file", TRANSACTIONAL, "Path('a').write_text('b')", "write_text"),
    ("file", TRANSACTIONAL, "open('a', 'w')", "'w'"),
    ("file", TRANSACTIONAL, "os.remove('a')", "os.remove"),
    ("commit", TRANSACTIONAL, "session.commit()", "session.commit()"),
    ("commit", TRANSACTIONAL, "session.rollback()", "session.rollback()"),
    ("commit", TRANSACTIONAL, "session.execute(text('COMMIT'))", "says COMMIT"),
    ("transaction", TRANSACTIONAL, "engine.begin()", "engine.begin"),
    ("transaction", TRANSACTIONAL, "Sessions()", "Sessions"),
    ("transaction", TRANSACTIONAL, "Session(engine)", "(Session)"),
    ("transaction", TRANSACTIONAL, "import sqlite3; sqlite3.connect('a')", "sqlite3.connect"),
    ("enqueue", TRANSACTIONAL, "other.enqueue(1)", "enqueues a job (other)"),
    ("enqueue", IDEMPOTENT, "other.using(priority=1).delay(1)", "enqueues a job (other)"),
    ("append", IDEMPOTENT, "open('a', 'a')", "mode 'a'"),
    ("append", PLAIN, "Path('a').open(mode='ab')", "mode 'ab'"),
    ("random", IDEMPOTENT, "uuid.uuid4()", "uuid.uuid4"),
    ("random", PLAIN, "random.choice([1])", "random.choice"),
    ("clock", IDEMPOTENT, "datetime.now(UTC)", "datetime.now"),
    ("clock", IDEMPOTENT, "time.time()", "time.time"),
    ("clock", PLAIN, "date.today()", "date.today"),
    ("counter", IDEMPOTENT, "row = Session(engine).get_one(Account, 1); row.cents += 1", "row.cents"),
    ("counter", IDEMPOTENT, "for row in find().all(): row.cents = row.cents - 1", "row.cents"),
    ("counter", PLAIN, "text('UPDATE accounts SET cents = cents + 1')", "column cents"),
    ("counter", PLAIN, "update(Account).values(cents=Account.cents + 1)", "column cents"),
]
RIGHT = [
    (TRANSACTIONAL, "socket.gethostname(); urllib.request.Request('http://bank')"),
    (TRANSACTIONAL, "open('a'); open('a', 'rb'); Path('a').open()"),
    (TRANSACTIONAL, "session.execute(text('INSERT INTO a VALUES (1)')); session.flush()"),
    (TRANSACTIONAL, "session.get_one(Account, 1).cents += 1; uuid.uuid4(); datetime.now(UTC)"),
    (TRANSACTIONAL, "other.using(session=session).enqueue(1)"),
    (TRANSACTIONAL, "ctx.step('tell', lambda: smtplib.SMTP('mail'))"),
    (IDEMPOTENT, "other.using(child='other').enqueue(1)"),
    (IDEMPOTENT, "other(1); list([1]).append(2); time.monotonic()"),
    (IDEMPOTENT, "open('a', 'w'); Session(engine).commit(); smtplib.SMTP('mail')"),
    (IDEMPOTENT, "total = Total(); total.cents += 1"),
    (IDEMPOTENT, "ctx.step('dice', random.random); ctx.step('when', lambda: datetime.now(UTC))"),
    (IDEMPOTENT, "if ctx.once('it'): Session(engine).get_one(Account, 1).cents += 1"),
    (UNREPEATABLE, "smtplib.SMTP('mail'); open('a', 'a'); random.random(); other.enqueue(1)"),
]
OTHERS = """
@jobs.task
def other(number: int) -> None: ...


def use(thing: object) -> None: ...


class Total:
    cents = 0


"""


def task(declaration: str, *lines: str, above: str = "", below: str = "") -> str:
    body = "\n".join(f"    {line}" for line in lines)
    return f'{OTHERS}{above}{declaration}\ndef pay({TAKES[declaration]}) -> None:\n    """Pay."""\n{body}\n{below}'


def rules(reading: Reading) -> list[str]:
    return [finding.rule for finding in reading.findings if not finding.reviewed]


@pytest.mark.parametrize(("rule", "declaration", "line", "named"), WRONG)
def test_what_is_wrong_is_found(declare: Declare, rule: str, declaration: str, line: str, named: str) -> None:
    keyed = [KEYED] if declaration == IDEMPOTENT else []
    declared = declare(task(declaration, *keyed, line, below="\ndef find() -> object: ..."))
    [finding] = read(declared).findings
    assert finding.rule == rule
    assert named in finding.what
    file, _, number = finding.where.rpartition(":")
    assert line.split(";", maxsplit=1)[0] in Path(file).read_text().splitlines()[int(number) - 1]
    assert finding.remedy


@pytest.mark.parametrize(("declaration", "line"), RIGHT)
def test_what_is_right_is_left_alone(declare: Declare, declaration: str, line: str) -> None:
    assert rules(read(declare(task(declaration, KEYED, line)))) == []


def test_random_values_of_a_decorator_are_nobodys(declare: Declare) -> None:
    declaration = '@jobs.task(effects="idempotent", run_at=datetime.now(UTC))'
    TAKES[declaration] = TAKES[IDEMPOTENT]
    assert rules(read(declare(task(declaration, KEYED)))) == []


# ── key and guards ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("line", "key", "guards"),
    [
        ("use(ctx.idempotency_key)", "used", ()),
        ("use(str(ctx.origin))", "used", ()),
        ("print(ctx)", "handed on", ()),
        ("deliver(ctx)", "used", ()),
        ("ctx.once('a')", None, ("once",)),
        ("ctx.step('a', use, 1)", None, ("step",)),
        ("other.using(child='a').enqueue(1)", None, ("child",)),
        ("os.replace('a.new', 'a')", None, ("whole file",)),
        ("Path('a.new').replace('a')", None, ("whole file",)),
        ("insert().on_conflict_do_nothing()", None, ("constraint",)),
        ("text('INSERT INTO a VALUES (1) ON CONFLICT DO NOTHING')", None, ("constraint",)),
        ("select().with_for_update()", None, ("row lock",)),
        ("use(Seat)", None, ("version",)),
    ],
)
def test_keys_and_guards_are_recognized(
    declare: Declare, line: str, key: str | None, guards: tuple[str, ...]
) -> None:
    below = """
def insert() -> object: ...
def select() -> object: ...

def deliver(c: Context) -> None:
    use(c.idempotency_key)

class Seat(Base):
    __tablename__ = "seats"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version}
"""
    reading = read(declare(task(IDEMPOTENT, line, below=below)))
    assert (reading.key, reading.guards) == (key, guards)
    assert rules(reading) == []


def test_a_caught_integrity_error_is_a_guard(declare: Declare) -> None:
    lines = ["try: use(1)", "except (ValueError, IntegrityError): pass"]
    assert read(declare(task(IDEMPOTENT, *lines))).guards == ("constraint",)


def test_effects_that_guard_by_themselves_are_named(declare: Declare) -> None:
    assert read(declare(task(TRANSACTIONAL, "pass"))).guards == ("transaction",)
    assert read(declare(task(UNREPEATABLE, "pass"))).guards == ("mark",)


def test_idempotent_with_neither_key_nor_guard(declare: Declare) -> None:
    [finding] = read(declared := declare(task(IDEMPOTENT, "use('a'.replace('a', 'b'))"))).findings
    assert (finding.rule, finding.where) == ("key", declared.where)
    assert "neither the idempotency key nor a guard" in finding.what


def test_what_leaves_the_process_without_the_key_is_found_where_it_stands(declare: Declare) -> None:
    below = "\ndef tell() -> None:\n    smtplib.SMTP('mail')  # here\n"
    [finding] = read(declare(task(IDEMPOTENT, "ctx.step('tell', tell)", below=below))).findings
    assert (
        finding.what
        == "sends mail (smtplib.SMTP) without the idempotency key in tell(): who gets it twice cannot tell"
    )
    file, _, number = finding.where.rpartition(":")
    assert Path(file).read_text().splitlines()[int(number) - 1].endswith("# here")


def test_transactional_without_a_session_is_found(declare: Declare) -> None:
    [finding] = read(declare(f'{TRANSACTIONAL}\ndef pay() -> None: """Pay."""\n')).findings
    assert finding.rule == "session"


# ── how far it reads ──────────────────────────────────────────────────────────────────────────


def test_functions_of_the_package_are_read_one_level_deep(declare: Declare) -> None:
    mail = "import smtplib\n\ndef send() -> None:\n    smtplib.SMTP('mail')\n\ndef twice() -> None:\n    send()\n"
    head = HEAD + "from . import mail\nfrom .mail import send\n"
    for line, found in (("mail.send()", ["outside"]), ("send()", ["outside"]), ("mail.twice()", [])):
        assert rules(read(declare(task(TRANSACTIONAL, line), head=head, mail=mail))) == found


def test_a_client_that_the_module_holds_is_recognized(declare: Declare) -> None:
    body = task(TRANSACTIONAL, "client.sendmail('a', 'b', 'c')", below="\nclient = smtplib.SMTP()\n")
    [finding] = read(declare(body)).findings
    assert finding.what.startswith("sends mail (client.sendmail)")


def test_job_classes_are_read_with_their_methods(declare: Declare) -> None:
    body = f"""{TRANSACTIONAL}
class Pay(Job):
    cents: int

    def perform(self, *, session: Session = given) -> None:
        self._tell()

    def _tell(self) -> None:
        smtplib.SMTP("mail")
"""
    assert rules(read(declare(body))) == ["outside"]


def test_source_that_cannot_be_read_is_a_finding(declare: Declare) -> None:
    declared = declare("exec('''\n@jobs.task\ndef pay() -> None: ...\n''')")
    assert rules(read(declared)) == ["unread"]


# ── reviews ───────────────────────────────────────────────────────────────────────────────────

LINE = "uuid.uuid4()"


@pytest.mark.parametrize(
    "body",
    [
        task(IDEMPOTENT, KEYED, f"{LINE}  # duly: reviewed (its name (for now))"),
        task(IDEMPOTENT, KEYED, "# duly: reviewed (its name (for now))", "# and more", LINE),
        task(IDEMPOTENT, KEYED, "uuid.uuid4(", ")  # duly: reviewed (its name (for now))"),
        task(IDEMPOTENT, KEYED, LINE, above="# duly: reviewed (its name (for now))\n"),
        task(IDEMPOTENT, KEYED, LINE).replace(
            IDEMPOTENT, f"{IDEMPOTENT}  # duly: reviewed (its name (for now))"
        ),
    ],
)
def test_a_review_silences_and_is_kept(declare: Declare, body: str) -> None:
    [finding] = read(declare(body)).findings
    assert finding.reviewed == "its name (for now)"


@pytest.mark.parametrize(
    "body",
    [
        task(IDEMPOTENT, KEYED, "use(1)  # duly: reviewed (another line)", LINE),
        task(IDEMPOTENT, KEYED, LINE, "# duly: reviewed (below)"),
        task(IDEMPOTENT, KEYED, LINE, above="# duly: reviewed (another def)\n\n"),
        task(IDEMPOTENT, KEYED, f"{LINE}  # reviewed (by somebody)"),
    ],
)
def test_a_review_of_something_else_silences_nothing(declare: Declare, body: str) -> None:
    assert rules(read(declare(body))) == ["random"]


def test_a_review_without_a_reason_counts_as_none_and_is_told(declare: Declare) -> None:
    [finding] = read(declare(task(IDEMPOTENT, KEYED, f"{LINE}  # duly: reviewed"))).findings
    assert finding.reviewed is None
    assert "gives no reason" in finding.remedy


def test_a_review_above_the_task_covers_what_it_calls(declare: Declare) -> None:
    below = "\ndef name() -> None:\n    uuid.uuid4()\n"
    body = task(IDEMPOTENT, KEYED, "name()", above="# duly: reviewed (a name)\n", below=below)
    [finding] = read(declare(body)).findings
    assert finding.reviewed == "a name"


def test_a_review_silences_what_is_missing_too(declare: Declare) -> None:
    [finding] = read(
        declare(task(IDEMPOTENT, "use(1)", above="# duly: reviewed (the same picture)\n"))
    ).findings
    assert (finding.rule, finding.reviewed) == ("key", "the same picture")
