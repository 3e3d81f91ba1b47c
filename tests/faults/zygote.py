"""Starts processes quickly: it has imported everything once, and forks.

A supervisor takes two seconds to import what it needs, and these tests start fifty. An order is a line of
JSON on stdin; the answer is the process's id. The process leads a session of its own, is a child of the
test's process (which takes in orphans), and does not outlive it.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import select
import signal
import sys
from typing import Any, NoReturn

PRELOADED = (
    "aiosqlite", "alembic", "duly.cli.program", "duly.manage.manage", "duly.store", "duly.worker.supervisor",
    "logging.config", "psycopg", "pymysql", "sqlalchemy.dialects.mysql.pymysql",
    "sqlalchemy.dialects.postgresql.psycopg", "sqlalchemy.dialects.sqlite.aiosqlite",
    "sqlalchemy.ext.asyncio", "tests.faults.tasks", "typer.testing",
)  # fmt: skip
PR_SET_PDEATHSIG = 1


def serve() -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        read, write = os.pipe()
        between = os.fork()
        if between == 0:
            pid = os.fork()
            if pid:
                os.write(write, str(pid).encode())
                os._exit(0)
            os.close(read)
            os.close(write)
            become(order)
        os.waitpid(between, 0)
        print(os.read(read, 20).decode(), flush=True)
        os.close(read)
        os.close(write)


def become(order: dict[str, Any]) -> NoReturn:
    """The process that was ordered."""
    os.setsid()
    while os.getppid() != order["parent"]:
        select.select([], [], [], 0.001)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), 2)
    os.dup2(2, 1)
    os.environ.clear()
    os.environ.update(order["environment"])
    if os.environ.get("NOHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    sys.argv = ["duly", *order["arguments"]]
    module, _, function = order["run"].partition(":")
    code = 70
    try:
        code = getattr(importlib.import_module(module), function)() or 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
