"""``duly work`` and ``duly workoff``: see that everything is in place, then hand over to the supervisor."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duly.cli.exits import Usage
from duly.cli.locate import opened
from duly.cli.options import FLAG, AppOption, add
from duly.observe import logs

if TYPE_CHECKING:
    from duly.app import Duly
    from duly.worker.assignment import Pool

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
PoolOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="A,B*:N",
        help="N processes for these queues, beside other pools. Instead of --queues and --processes.",
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
MaxJobsOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Replace a worker process after N jobs. Else DULY_MAX_JOBS, else never.",
        show_default=False,
    ),
]
MaxMemoryOption = Annotated[
    int | None,
    typer.Option(
        metavar="MIB",
        help="Replace a worker process that has more in memory. Else DULY_MAX_MEMORY, else never.",
        show_default=False,
    ),
]
LogFormatOption = Annotated[logs.LogFormat, typer.Option(help="How to write the log on stderr.")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", metavar=FLAG, help="Log successes too, and your modules' info.")
]
ReloadOption = Annotated[
    bool,
    typer.Option(
        "--reload",
        metavar=FLAG,
        help="Start again when a .py file below the current directory changes. For development.",
    ),
]


def add_to(program: typer.Typer) -> None:
    """Put the commands into the program."""
    add(
        program, "Workers", work,
        "duly work --app shop.tasks:jobs",
        "duly work --processes 4 --threads 10 --queues 'mail,report*'",
        "duly work --pool mail,reports:2 --pool '*:1' --max-jobs 10000",
        "duly work --reload",
    )  # fmt: skip
    add(program, "Workers", workoff, "duly workoff", "duly workoff --queues mail")


def work(  # noqa: PLR0917 - the options of the command
    app: AppOption = None,
    processes: ProcessesOption = None,
    threads: ThreadsOption = None,
    queues: QueuesOption = None,
    pool: PoolOption = None,
    grace: GraceOption = None,
    max_jobs: MaxJobsOption = None,
    max_memory: MaxMemoryOption = None,
    log_format: LogFormatOption = "text",
    verbose: VerboseOption = False,
    reload: ReloadOption = False,
) -> int:
    """Run jobs until told to stop.

    A supervisor starts the worker processes, replaces those that die, and offers their jobs again. The
    first Ctrl-C or TERM lets running jobs end within the grace and gives back the others; the second
    stops at once.
    """
    if reload:
        from duly.cli.reload import work_again_and_again

        return work_again_and_again()
    asked = {
        "processes": processes, "threads": threads, "grace": grace, "max_jobs": max_jobs, "max_memory": max_memory
    }  # fmt: skip
    return _supervise(app, queues, pool, asked, log_format, verbose=verbose, until_empty=False)


def _with_options_of_work(command: Callable[..., int]) -> Callable[..., int]:
    """Typer reads options from a signature: this gives *command* that of ``work``, without ``--reload``."""
    signature = inspect.signature(work)
    shared = [parameter for parameter in signature.parameters.values() if parameter.name != "reload"]
    command.__signature__ = signature.replace(parameters=shared)  # type: ignore[attr-defined]
    command.__annotations__ = {name: kind for name, kind in work.__annotations__.items() if name != "reload"}
    return command


@_with_options_of_work
def workoff(
    app: str | None,
    queues: list[str] | None,
    pool: list[str] | None,
    log_format: logs.LogFormat,
    verbose: bool,
    **asked: Any,
) -> int:
    """Run jobs until none is left that could run now, then exit.

    Jobs whose time has not come stay where they are, and so do those that wait for their next attempt.
    """
    return _supervise(app, queues, pool, asked, log_format, verbose=verbose, until_empty=True)


def _supervise(
    reference: str | None,
    queues: list[str] | None,
    pool: list[str] | None,
    asked: dict[str, Any],
    log_format: logs.LogFormat,
    *,
    verbose: bool,
    until_empty: bool,
) -> int:
    """1. Whatever can be seen to be wrong is said now, in one line. 2. From then on, events are logged."""
    from duly.settings import Settings
    from duly.worker.signals import be_deaf
    from duly.worker.title import set_title

    settings = Settings.read(**asked)
    pools = _pools(queues, pool, asked, settings.processes)
    with opened(reference, tasks=True) as app:
        _check_queues(app, pools)
        set_title(f"supervisor {reference or settings.app}")
        logs.setup(log_format, verbose=verbose)
        logs.subscribe(app.emitter, successes=verbose)
        try:
            how: dict[str, Any] = asked | {"processes": None}
            return app.supervise(pools=pools, until_empty=until_empty, **how)
        finally:
            be_deaf()  # whoever has asked to stop for the third time shall not see us stumble on the way out


def _pools(
    queues: list[str] | None, pool: list[str] | None, asked: dict[str, Any], processes: int
) -> Sequence[Pool]:
    from duly.worker.assignment import Pool
    from duly.worker.queues import EVERYTHING

    if pool and (queues or asked["processes"] is not None):
        raise Usage(
            "--pool says which queues and how many processes: leave --queues and --processes out, "
            "or write --pool mail,reports:2"
        )
    if pool:
        return [Pool.parse(text) for text in pool]
    names = [name.strip() for part in queues or () for name in part.split(",")]
    return [Pool(tuple(names) or EVERYTHING, processes)]


def _check_queues(app: Duly, pools: Sequence[Pool]) -> None:
    from duly.worker.queues import Selection

    known = _known_queues(app)
    for pool in pools:
        Selection(pool.queues).check_known(known)


def _known_queues(app: Duly) -> set[str]:
    from duly.model.options import DEFAULTS

    named = {
        *app.queues,
        app.app_options.over(DEFAULTS).queue,
        *(app.options_of(task, None).queue for task in app.tasks),
    }
    return {name for name in named if name is not None}
