"""What looks wrong in a task's code, rule by rule: each is a function of one syntax node.

A rule sees what stands there, not what happens: it may be mistaken, and then a comment
``# duly: reviewed (why)`` says so. Where a rule applies is the business of ``reading.py``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import cast

from duly.proof.code import dotted
from duly.proof.look import Look, under
from duly.task.job_class import Job
from duly.task.task import Task
from duly.task.tasks import Tasks

Seen = tuple[str, str, str] | None
"""What the code does, why that is wrong, and what to do about it; None where it does nothing of the kind."""

_MAIL = ("smtplib", "aiosmtplib", "django.core.mail", "flask_mail", "fastapi_mail", "sendgrid", "yagmail")
_HTTP = ("requests", "httpx", "aiohttp", "urllib.request", "urllib3", "http.client")
_SOCKETS = (
    "socket",
    "asyncio.open_connection",
    "ftplib",
    "imaplib",
    "poplib",
    "paramiko",
    "xmlrpc.client",
    "websockets",
    "grpc",
)
_SERVICES = ("boto3", "botocore", "stripe", "twilio", "slack_sdk", "redis", "pika", "kafka", "google.cloud")
_PROCESSES = (
    "subprocess",
    "os.system",
    "os.popen",
    "os.posix_spawn",
    "os.fork",
    "asyncio.create_subprocess_exec",
    "asyncio.create_subprocess_shell",
)
_OUTSIDE = {
    **dict.fromkeys(_MAIL, "sends mail"),
    **dict.fromkeys(_HTTP, "speaks HTTP"),
    **dict.fromkeys(_SOCKETS, "opens a socket"),
    **dict.fromkeys(_SERVICES, "calls a service"),
    **dict.fromkeys(_PROCESSES, "starts a process"),
}
_HARMLESS = re.compile(r"(Error|Exception|Request|Timeout|Limits|gethostname|getfqdn)$")
_FILES = ("shutil", "os.remove", "os.rename", "os.replace", "os.unlink", "os.mkdir", "os.makedirs")
_WRITING = ("write_text", "write_bytes")
_RANDOM = ("random", "secrets", "os.urandom", "uuid.uuid1", "uuid.uuid4", "uuid.uuid7", "numpy.random")
_CLOCK = (
    "time.time",
    "time.time_ns",
    "datetime.datetime.now",
    "datetime.datetime.utcnow",
    "datetime.datetime.today",
    "datetime.date.today",
    "django.utils.timezone.now",
)
_DRIVERS = ("sqlite3.connect", "psycopg.connect", "psycopg2.connect", "pymysql.connect", "asyncpg.connect")
_SESSIONS = ("sqlalchemy.orm.Session", "sqlalchemy.ext.asyncio.AsyncSession", "sqlalchemy.create_engine")
_ENGINES = re.compile(r"^sqlalchemy\..*\b(Engine|AsyncEngine)\.(begin|connect|raw_connection)$")
_FACTORIES = re.compile(r"^sqlalchemy\..*\b(sessionmaker|scoped_session|async_sessionmaker)(\.begin)?$")
_ENDS = re.compile(r"^\s*(commit|rollback)\s*(work|transaction)?\s*;?\s*$", re.IGNORECASE)
_RUNS_SQL = {"text", "execute", "exec_driver_sql"}
_ADDS = re.compile(r"\bset\s+(?:\w+\s*=[^=]*,\s*)?(\w+)\s*=\s*\1\s*[-+]", re.IGNORECASE)
_MODE = re.compile(r"^[rwxabt+]{1,3}$")
_ENQUEUING = {"enqueue", "aenqueue", "delay", "adelay", "enqueue_many", "aenqueue_many"}
_ONCE_FOR_ALL = {"child", "unique", "idempotency_key", "id", "session", "connection"}
_READ_FROM_DATABASE = {
    "get",
    "get_one",
    "scalar",
    "scalar_one",
    "scalars",
    "one",
    "one_or_none",
    "first",
    "all",
    "select_for_update",
}


Rule = Callable[[Look], Seen]


def leaves_the_transaction(look: Look) -> Seen:
    """Mail, HTTP, sockets, services, processes: within a transaction."""
    doing = _outside(look)
    if not doing:
        return None
    return (
        f"{doing} within the transaction",
        "rolled back, it has happened all the same",
        "do it in an idempotent task of its own, enqueued with session=, which runs after the COMMIT",
    )


def repeats_itself_outside(look: Look) -> Seen:
    """The same in an idempotent task that does not use its key."""
    doing = _outside(look)
    if not doing:
        return None
    return (
        f"{doing} without the idempotency key",
        "who gets it twice cannot tell",
        "hand ctx.idempotency_key to the receiver: as a header, as Message-ID, as a name",
    )


def writes_a_file(look: Look) -> Seen:
    """A file that is written, moved or removed."""
    mode = _mode(look)
    if under(look.path, _FILES):
        doing = look.said
    elif mode and set(mode) & set("wxa+"):
        doing = f"open(…, {mode!r})"
    elif look.method in _WRITING:
        doing = f"{look.method}()"
    else:
        return None
    return (
        f"writes a file ({doing}) within the transaction",
        "rolled back, it has happened all the same",
        "do it in an idempotent task of its own, enqueued with session=, or keep the bytes in the database",
    )


def appends_to_a_file(look: Look) -> Seen:
    """A file opened for appending."""
    mode = _mode(look)
    if mode is None or "a" not in mode:
        return None
    return (
        f"appends to a file (mode {mode!r})",
        "a second attempt appends again",
        "write the whole file under a name made of ctx.idempotency_key, and os.replace() it into place",
    )


def ends_a_transaction(look: Look) -> Seen:
    """A commit or rollback within a transactional task."""
    if not isinstance(look.node, ast.Call):
        return None
    first = look.node.args[0] if look.node.args else None
    if isinstance(first, ast.Constant) and look.method in _RUNS_SQL and _ENDS.match(str(first.value)):
        return (
            f"says {str(first.value).strip().upper()} by itself",
            "that ends the transaction which the job's outcome belongs to",
            "leave the COMMIT to Duly; what must stand before it belongs into a task of its own",
        )
    if look.method not in {"commit", "rollback"} or first:
        return None
    if look.owner in look.injected:
        return (
            f"calls {look.owner}.{look.method}()",
            "that ends a savepoint, and not the transaction",
            "leave it out: Duly commits what the task wrote together with the job's outcome",
        )
    return (
        f"calls {look.method}() on a transaction of its own",
        "that stands, though the job may be rolled back",
        "write through the session or connection that Duly gives",
    )


def opens_a_transaction(look: Look) -> Seen:
    """A second session, connection or engine within a transactional task."""
    path = look.path
    if not (under(path, _SESSIONS + _DRIVERS) or _ENGINES.match(path) or _FACTORIES.match(path)):
        return None
    return (
        f"opens a transaction of its own ({look.said})",
        "what is written there does not commit with the job",
        "write through the session or connection that Duly gives",
    )


def rolls_dice(look: Look) -> Seen:
    """Random values."""
    if not under(look.path, _RANDOM):
        return None
    return (
        f"makes a random value ({look.said})",
        "each attempt makes another",
        "make it where the job is enqueued and pass it on, or derive it from ctx.idempotency_key (uuid.uuid5)",
    )


def reads_the_clock(look: Look) -> Seen:
    """The time of day."""
    if look.path not in _CLOCK:
        return None
    return (
        f"reads the clock ({look.said})",
        "each attempt reads another time",
        "take ctx.enqueued_at, which is the same in all attempts, or pass the time as an argument",
    )


def adds_up(look: Look) -> Seen:
    """A column that is added to: ``row.n += 1``, ``UPDATE … SET n = n + 1``, ``values(n=Row.n + 1)``."""
    what = _added(look)
    if what is None:
        return None
    return (
        f"adds to {what}",
        "a second attempt adds again",
        "count in a transactional task, or guard it with ctx.once()",
    )


def enqueues(look: Look) -> Seen:
    """A job that is enqueued by a job, and would be by the next attempt too."""
    if look.method not in _ENQUEUING:
        return None
    source, said = _chain(look.node)
    thing = look.code.thing(dotted(source) or "")
    declared = isinstance(thing, Task | Tasks) or (isinstance(thing, type) and issubclass(thing, Job))
    if not declared or said & _ONCE_FOR_ALL:
        return None
    return (
        f"enqueues a job ({dotted(source)}) in a transaction of its own",
        "a second attempt enqueues another",
        "using(session=…) lets it commit with the task; using(child='…') makes it once for all attempts",
    )


def _chain(node: ast.AST) -> tuple[ast.expr, set[str]]:
    """What the first of chained calls is made on, and the options that all of them give."""
    said: set[str] = set()
    while isinstance(node, ast.Call):
        said |= {keyword.arg for keyword in node.keywords if keyword.arg}
        node = node.func.value if isinstance(node.func, ast.Attribute) else node.func
    return cast("ast.expr", node), said


def _added(look: Look) -> str | None:
    match look.node:
        case ast.AugAssign(target=ast.Attribute() as target, op=ast.Add() | ast.Sub()):
            return dotted(target) if _is_row(look, target) else None
        case ast.Assign(
            targets=[ast.Attribute() as target], value=ast.BinOp(left=left, op=ast.Add() | ast.Sub())
        ):
            same = dotted(left) is not None and dotted(left) == dotted(target)
            return dotted(target) if same and _is_row(look, target) else None
        case ast.Constant(value=str(said)) if found := _ADDS.search(said):
            return f"column {found[1]}"
        case ast.keyword(arg=str(name), value=ast.BinOp(left=ast.Attribute(attr=attribute))) if (
            name == attribute
        ):
            return f"column {name}"
    return None


def _is_row(look: Look, target: ast.Attribute) -> bool:
    """Whether the object was read from a database in this function, as far as one can see."""
    name = (dotted(target) or "").partition(".")[0]
    for node in ast.walk(look.code.node):
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=found)], value=source)
                | ast.For(target=ast.Name(id=found), iter=source)
            ) if found == name:
                if any(
                    Look(look.code, n, look.injected).method in _READ_FROM_DATABASE for n in ast.walk(source)
                ):
                    return True
    return False


def _outside(look: Look) -> str:
    """What of it leaves the process; empty where nothing does."""
    prefix = next((prefix for prefix in _OUTSIDE if under(look.path, (prefix,))), None)
    if prefix is None or _HARMLESS.search(look.path):
        return ""
    return f"{_OUTSIDE[prefix]} ({look.said})"


def _mode(look: Look) -> str | None:
    """The mode in which a file is opened, where it is written there; None where no file is opened."""
    if look.method != "open" or not isinstance(look.node, ast.Call):
        return None
    given = look.node.args[1:2] if look.path == "open" else look.node.args[:2]
    modes = [*(k.value for k in look.node.keywords if k.arg == "mode"), *given]
    said = (mode.value for mode in modes if isinstance(mode, ast.Constant) and isinstance(mode.value, str))
    return next((mode for mode in said if _MODE.match(mode)), None)
