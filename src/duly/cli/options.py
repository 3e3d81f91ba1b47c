"""Options that several commands share, and how commands come by their help."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

FLAG = ""
"""The metavar of an option without a value."""


def add(
    program: typer.Typer, panel: str, command: Callable[..., Any], *examples: str, name: str | None = None
) -> None:
    """Put *command* into *program*: its docstring is its help, with *examples* below."""
    epilog = "\n".join(["Examples:" if examples[1:] else "Example:", *(f"  $ {line}" for line in examples)])
    program.command(name, help=unwrapped(command), epilog=plain(epilog), rich_help_panel=panel)(command)


def unwrapped(described: object) -> str:
    """A docstring whose paragraphs are lines: the terminal turns them where it is wide enough."""
    paragraphs = (inspect.getdoc(described) or "").split("\n\n")
    return plain("\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs))


def plain(text: str) -> str:
    """*text* with brackets that rich does not read as markup."""
    return text.replace("[", r"\[")


def _nearer(context: typer.Context, given: str | None) -> str | None:
    """The app named after the command, else the one named before it."""
    before: str | None = context.find_root().params.get("app")
    return given or before


AppOption = Annotated[
    str | None,
    typer.Option(
        "--app",
        metavar="MODULE:ATTR",
        help=plain(
            "The Duly object to work for. Else DULY_APP, else app under [tool.duly] in pyproject.toml."
        ),
        callback=_nearer,
        show_default=False,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", metavar=FLAG, help="Print JSON, and nothing else, on stdout.")
]
JobArgument = Annotated[str, typer.Argument(metavar="ID", help="The id of a job.", show_default=False)]
