"""A server as gunicorn makes it with ``--preload``: the app is used, its pool open, before the workers are forked."""

from __future__ import annotations

import os
import sys
import traceback

from sqlalchemy import text
from sqlalchemy.orm import Session

from duly import Duly
from tests.faults.tasks import duties, effect, note_down

CHILDREN = 4


def main() -> int:
    """``prefork TIMES``: parent and children enqueue at the same time, so often each; 0 when nobody failed."""
    times = int(sys.argv[1])
    app = Duly(os.environ["DULY_DATABASE_URL"], include=[duties])
    serve(app, 3)
    children = [fork(app, times) for _ in range(CHILDREN)]
    serve(app, times)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    serve(app, 3)  # the children's end has closed nothing of ours
    app.close()
    return int(any(codes))


def fork(app: Duly, times: int) -> int:
    """A child that serves and leaves."""
    if child := os.fork():
        return child
    code = 1
    try:
        serve(app, times)
        app.close()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def serve(app: Duly, times: int) -> None:
    """Requests: each with a session on the app's engine, and a look at what it has enqueued."""
    for n in range(times):
        with Session(app.store.engine) as session:
            handle = effect.using(session=session).enqueue(n)
            session.execute(text("SELECT 1"))
            session.commit()
        note_down("promised", job=str(handle.id), task="effect")
        handle.refresh()
