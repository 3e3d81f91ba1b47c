"""``duly work`` and ``duly workoff``: see that everything is in place, then hand over to the supervisor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from duly.cli.locate import opened
from duly.cli.options import FLAG, AppOption, add
from duly.model.events import Notice
from duly.observe import logs

if TYPE_CHECKING:
    from duly.app import Duly
    from duly.worker.queues import Selection

_PLAIN = "DULY_KEYS is not set, so envelopes are plain; `duly keys new` makes a key"

ProcessesOption = Annotated[
    int | None,
    typer.Option(metavar="N", help="Worker processes. Else DULY_PROCESSES, else 1.", show_default=False),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Sync jobs at a time in each process. Else DULY_THREADS, else 5.",
        show_default=False,
    ),
]
QueuesOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="A,B*",
        help="Queues to serve: names and patterns, separated by commas. Else all.",
        show_default=False,
    ),
]
GraceOption = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="How long running jobs may go on after the first Ctrl-C or TERM. Else DULY_GRACE, else 25.",
        show_default=False,
    ),
]
LogFormatOption = Annotated[logs.LogFormat, typer.Option(help="How to write the log on stderr.")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", metavar=FLAG, help="Log successes too, and your modules' info.")
]


def add_to(program: typer.Typer) -> None:
    """Put the commands into the program."""
    add(
        program, "Workers", work,
        "duly work --app shop.tasks:jobs",
        "duly work --processes 4 --threads 10 --queues 'mail,report*'",
        "duly work --log-format json --verbose",
    )  # fmt: skip
    add(program, "Workers", workoff, "duly workoff", "duly workoff --queues mail")


def work(
    app: AppOption = None,
    processes: ProcessesOption = None,
    threads: ThreadsOption = None,
    queues: QueuesOption = None,
    grace: GraceOption = None,
    log_format: LogFormatOption = "text",
    verbose: VerboseOption = False,
) -> int:
    """Run jobs until told to stop.

    A supervisor starts the worker processes, replaces those that die, and offers their jobs again. The
    first Ctrl-C or TERM lets running jobs end within the grace and gives back the others; the second
    stops at once.
    """
    how = Manner(processes, threads, grace, log_format, verbose)
    return _supervise(app, queues, how, until_empty=False)


def workoff(
    app: AppOption = None,
    processes: ProcessesOption = None,
    threads: ThreadsOption = None,
    queues: QueuesOption = None,
    grace: GraceOption = None,
    log_format: LogFormatOption = "text",
    verbose: VerboseOption = False,
) -> int:
    """Run jobs until none is left that could run now, then exit.

    Jobs whose time has not come stay where they are, and so do those that wait for their next attempt.
    """
    how = Manner(processes, threads, grace, log_format, verbose)
    return _supervise(app, queues, how, until_empty=True)


@dataclass(frozen=True, slots=True)
class Manner:
    """How workers shall be run; None where the settings say it."""

    processes: int | None
    threads: int | None
    grace: float | None
    log_format: logs.LogFormat
    verbose: bool

    def check(self) -> None:
        """``SettingsError`` for a number that is out of bounds."""
        from duly.settings import Settings

        Settings.read(processes=self.processes, threads=self.threads, grace=self.grace)


def _supervise(reference: str | None, queues: list[str] | None, how: Manner, *, until_empty: bool) -> int:
    """1. Whatever can be seen to be wrong is said now, in one line. 2. From then on, events are logged."""
    how.check()
    with opened(reference, tasks=True) as app:
        selection = _selected(app, queues)
        app.check_ready()
        logs.setup(how.log_format, verbose=how.verbose)
        logs.subscribe(app.emitter, successes=how.verbose)
        if app.sealer.key_id is None:
            app.emitter.emit(Notice(_PLAIN, "info"))
        return app.supervise(
            queues=selection.patterns,
            processes=how.processes,
            threads=how.threads,
            grace=how.grace,
            until_empty=until_empty,
        )


def _selected(app: Duly, queues: list[str] | None) -> Selection:
    from duly.worker.queues import EVERYTHING, Selection

    given = [name.strip() for part in queues or () for name in part.split(",")]
    selection = Selection(given or EVERYTHING)
    selection.check_known(_known_queues(app))
    return selection


def _known_queues(app: Duly) -> set[str]:
    from duly.model.options import DEFAULTS

    named = {
        *app.queues,
        app.app_options.over(DEFAULTS).queue,
        *(app.options_of(task, None).queue for task in app.tasks),
    }
    return {name for name in named if name is not None}
