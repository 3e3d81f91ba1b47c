"""How a command ends: its exit codes, and the one line on stderr that says what to do.

==== ========================================================================================
code meaning
==== ========================================================================================
0    done
1    the answer is no: waited too long, no such job, tasks with gaps, or workers were cut off
2    wrong usage, configuration or database; one line on stderr says the remedy
3    the prover cannot tell
70   a fault in Duly or in the application's modules; a traceback is on stderr
130  interrupted by Ctrl-C
==== ========================================================================================
"""

from __future__ import annotations

import traceback
from typing import Final

import typer

from duly.errors import ConfigurationError, DatabaseError, DulyError
from duly.observe.text import one_line

DONE: Final = 0
NO: Final = 1
WRONG: Final = 2
CANNOT_TELL: Final = 3
FAULT: Final = 70
INTERRUPTED: Final = 130


class Usage(typer.TyperException):
    """The command line asks for something that cannot be; the message says what to write."""

    exit_code = WRONG


class Refused(Exception):
    """The command ends with *no*: the message says why, where stdout has not."""


def complain(text: str) -> None:
    """One line on stderr."""
    typer.echo(f"duly: {' '.join(one_line(line.strip()) for line in text.splitlines())}", err=True)


def exit_code_of(error: Exception) -> int:
    """Say on stderr what *error* means to whoever typed the command; the exit code that belongs to it."""
    match error:
        case typer.TyperException():
            complain(error.format_message() + _where_help_is(error))
            return WRONG
        case ConfigurationError() | DatabaseError():
            complain(str(error))
            return WRONG
        case Refused() | DulyError():
            complain(str(error))
            return NO
        case typer.Abort():
            complain("interrupted")
            return INTERRUPTED
    traceback.print_exception(error)
    return FAULT


def _where_help_is(error: typer.TyperException) -> str:
    context: typer.Context | None = getattr(error, "ctx", None)
    return "" if context is None else f" (see: {context.command_path} --help)"
