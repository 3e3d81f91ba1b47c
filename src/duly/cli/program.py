"""``duly``: the commands put together, the options before them, and ``main``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from duly.cli import audit, jobs, ledger, prove, queues, setting_up, work
from duly.cli.exits import DONE, exit_code_of
from duly.cli.options import FLAG, unwrapped

_EPILOG = """\
Exit codes:
  0    done
  1    the answer is no: a job waits too long, is not there, cannot be
       cancelled, retried or resolved; tasks have gaps (audit --strict);
       or a worker was cut off
  2    wrong usage, configuration or database: one line on stderr says more
  3    the prover cannot tell
  70   a fault in Duly or in your modules: a traceback is on stderr
  130  interrupted

Examples:
  $ duly work --app shop.tasks:jobs --processes 2 --queues 'mail,report*'
  $ duly status
  $ duly check --max-age 300
"""

program = typer.Typer(
    name="duly",
    epilog=_EPILOG,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"duly {version('duly')}")
        raise typer.Exit


def before_the_command(
    app: Annotated[
        str | None,
        typer.Option("--app", metavar="MODULE:ATTR", help="The Duly object to work for.", show_default=False),
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar=FLAG, help="Show the version and exit.", callback=_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Run background jobs out of your application's own database, and look after them.

    The app is named by --app module:attribute (before or after the command), else by DULY_APP, else by
    app under [tool.duly] in pyproject.toml. Commands that need no tasks also work without one, on
    DULY_DATABASE_URL. The current directory is on the path.
    """


program.callback(help=unwrapped(before_the_command))(before_the_command)
for room in (work, queues, jobs, ledger, audit, prove, setting_up):
    room.add_to(program)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command (that of ``sys.argv`` where *arguments* is None); its exit code. It says its own errors."""
    import sys

    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        answer = program(given or ["--help"], prog_name="duly", standalone_mode=False)
    except KeyboardInterrupt:
        return exit_code_of(typer.Abort())
    except Exception as error:  # noqa: BLE001 - the last one to see it
        return exit_code_of(error)
    return answer if isinstance(answer, int) else DONE
