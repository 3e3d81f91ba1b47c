"""Trying what a task states: ``duly prove``."""

from __future__ import annotations

import difflib
import json as jsons
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duly.cli import show
from duly.cli.exits import CANNOT_TELL, DONE, NO, Usage
from duly.cli.locate import opened
from duly.cli.options import FLAG, AppOption, JsonOption, add

if TYPE_CHECKING:
    from duly.app import Duly
    from duly.proof.prover import Progress
    from duly.proof.verdict import Verdict
    from duly.task.task import Task

TaskArgument = Annotated[
    str, typer.Argument(metavar="MODULE:TASK", help="The task to try.", show_default=False)
]
ArgsOption = Annotated[
    str, typer.Option("--args", metavar="JSON", help="Its arguments by name, as a JSON object.")
]
FreeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--free",
        metavar="TABLE.COLUMN",
        help="A column that may differ from run to run, as a time or a random number. May be repeated.",
        show_default=False,
    ),
]
ReachOption = Annotated[
    list[str] | None,
    typer.Option(
        "--reach",
        metavar="HOST",
        help="Another host that the task may speak to, for real, with each run. May be repeated.",
        show_default=False,
    ),
]
RecordOption = Annotated[
    bool,
    typer.Option(
        "--record",
        metavar=FLAG,
        help="Keep the verdict for duly audit: one row in the database of the app, and the only one written there.",
    ),
]


def add_to(program: typer.Typer) -> None:
    """Put the command into the program."""
    add(
        program,
        "Tasks",
        prove,
        "duly prove shop.tasks:charge --args '{\"order_id\": 1}'",
        "duly prove shop.tasks:charge --args '{\"order_id\": 1}' --free payments.paid_at --record",
    )


def prove(
    task: TaskArgument,
    args: ArgsOption = "{}",
    free: FreeOption = None,
    reach: ReachOption = None,
    record: RecordOption = False,
    app: AppOption = None,
    json: JsonOption = False,
) -> int:
    """Crash a task at every step, and see whether its effects are the same.

    It is run on copies of all databases that it speaks to: killed before and after each statement, commit
    and outside effect, frozen there, and delivered twice at once. Exits with 0 if it is proved, with 1 if it
    diverges, with 3 if the prover cannot tell. Mails go nowhere; other hosts than this one are refused;
    programs that it starts are run.
    """
    from duly.proof.page import page

    verdict, source = _verdict(task, _arguments(args), free or [], reach or [], app, quiet=json)
    if record and source is not None:
        with opened(app or _module(task)) as found:
            _record(found, verdict, source)
    if json:
        show.as_json(verdict.as_data())
    else:
        typer.echo(page(verdict))
        if not record:
            typer.echo("\nThis verdict was not recorded: with --record duly audit would show it.")
    return {"proved": DONE, "diverges": NO}.get(verdict.word, CANNOT_TELL)


def _verdict(
    reference: str,
    arguments: dict[str, Any],
    free: list[str],
    reach: list[str],
    app: str | None,
    *,
    quiet: bool,
) -> tuple[Verdict, str | None]:
    """The verdict, and the fingerprint of the task's source. The app is imported in the midst of copies."""
    from duly.errors import CannotTell
    from duly.proof.prover import Prover
    from duly.proof.source import source_of
    from duly.proof.verdict import untold
    from duly.proof.world import Worlds

    with _ended_by_term(), Worlds() as worlds:
        try:
            with opened(app or _module(reference), tasks=True) as found:
                task = _task(found, reference)
                given = _fitting(task, arguments)
                with _bar(quiet) as progress:
                    prover = Prover(found, task, given, worlds, free=free, reach=reach, progress=progress)
                    return prover.prove(), source_of(task)
        except CannotTell as error:
            return untold(reference, arguments, worlds.notes or [str(error)]), None
        except Exception:
            if not worlds.notes:
                raise
            return untold(reference, arguments, worlds.notes), None


def _record(app: Duly, verdict: Verdict, source: str) -> None:
    store = app.store
    with store.writing() as connection:
        store.proofs.save(
            connection,
            task=verdict.task,
            source=source,
            verdict=verdict.word.value,
            points=len(verdict.points),
            details=verdict.summary,
        )


@contextmanager
def _ended_by_term() -> Iterator[None]:
    """TERM ends it as Ctrl-C does: the copies are removed."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# ── what was asked for ────────────────────────────────────────────────────────────────────────


def _arguments(text: str) -> dict[str, Any]:
    try:
        found = jsons.loads(text)
    except ValueError as error:
        raise Usage(f"--args is no JSON ({error}): write --args '{{\"order_id\": 1}}'") from None
    if not isinstance(found, dict):
        raise Usage("--args takes a JSON object, the arguments by name: --args '{\"order_id\": 1}'")
    return found


def _module(reference: str) -> str:
    module, colon, name = reference.partition(":")
    if not colon or not name:
        raise Usage(f"{reference!r} is not of the form module:task, such as shop.tasks:charge")
    return module


def _task(app: Duly, reference: str) -> Task[..., Any]:
    """The task that is called so in its module."""
    module = _module(reference)
    name = reference.partition(":")[2]
    tasks = {_called(task): task for task in app.tasks if _declared_in(task) == module}
    if name in tasks:
        return tasks[name]
    near = difflib.get_close_matches(name, tasks, n=1)
    hint = f"; did you mean {module}:{near[0]}?" if near else ""
    raise Usage(f"the app has no task {name!r} declared in {module}{hint} (duly tasks lists them)")


def _called(task: Task[..., Any]) -> str:
    return (task.job_class or task.function).__qualname__


def _declared_in(task: Task[..., Any]) -> str:
    return (task.job_class or task.function).__module__


def _fitting(task: Task[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments as the task takes them, read as from a row; those of a job class are its fields."""
    from duly.errors import ArgumentsMisfit

    given = {"job": arguments} if task.job_class is not None else arguments
    body = jsons.dumps({"v": 1, "a": given, "o": {}}).encode()
    try:
        return task.signature.arguments.load(body)[0]
    except ArgumentsMisfit as error:
        raise Usage(f"--args does not fit: {error}") from None


@contextmanager
def _bar(quiet: bool) -> Iterator[Progress]:
    """A bar on stderr. It has no thread of its own: this process forks."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    bar = Progress(
        *columns,
        console=console,
        auto_refresh=False,
        transient=True,
        disable=quiet or not console.is_terminal,
    )
    with bar:
        row = bar.add_task("", total=None)

        def tell(done: int, all_of_them: int, what: str) -> None:
            bar.update(row, completed=done, total=all_of_them, description=what, refresh=True)

        yield tell
