"""Finding the app that a command works for: ``--app``, ``DULY_APP``, ``[tool.duly] app``, or the settings alone."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from duly.errors import ConfigurationError

if TYPE_CHECKING:
    from duly.app import Duly

_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*(\.[^\W\d]\w*)*)?\Z")
_WHERE = (
    "give --app module:attribute, set DULY_APP, or write app = 'module:attribute' "
    "under [tool.duly] in pyproject.toml"
)


@contextmanager
def opened(reference: str | None, *, tasks: bool = False, fresh: bool = False) -> Iterator[Duly]:
    """The app, loaded, for the length of a command; its connections are given back at the end.

    Without a *reference* the settings say which app; where they do not either, an app without tasks
    works on the database that they name. *tasks*: the command cannot do without the tasks. *fresh*:
    it may make a database that nobody named.
    """
    from duly.settings import Settings

    settings = Settings.read()
    reference = reference or settings.app
    if reference is None and tasks:
        raise ConfigurationError(f"which app? {_WHERE}")
    if reference is None and not fresh and _nobody_made(settings.database_url):
        raise ConfigurationError(f"which database? set DULY_DATABASE_URL, or {_WHERE}")
    app = _without_tasks() if reference is None else find(reference)
    app.load()
    try:
        yield app
    finally:
        app.close()


def find(reference: str) -> Duly:
    """The ``Duly`` that ``module:attribute`` names, or the only one in ``module``; one-line errors with a hint."""
    if not _REFERENCE.match(reference):
        raise ConfigurationError(
            f"app {reference!r} is not of the form module:attribute{_as_module(reference)}"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    name, _, attribute = reference.partition(":")
    module = _imported(name)
    return _attribute(module, attribute) if attribute else _the_only_one(module)


def _without_tasks() -> Duly:
    from duly.app import Duly

    return Duly()


def _nobody_made(database_url: str) -> bool:
    """The default database, which is made with its first use: not by a command that only came to look."""
    from duly.settings import Settings

    default = Settings.__dataclass_fields__["database_url"].default
    return database_url == default and not Path(database_url.removeprefix("sqlite:///")).exists()


def _as_module(reference: str) -> str:
    """A path to a file, said as a module."""
    path, colon, attribute = reference.partition(":")
    if not path.endswith(".py") and "/" not in path:
        return ", such as shop.tasks:jobs"
    name = ".".join(part for part in Path(path.removesuffix(".py")).parts if part not in {".", "/"})
    return f": write {name}{colon}{attribute}"


# ── modules ───────────────────────────────────────────────────────────────────────────────────


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            raise ConfigurationError(_no_module(name, missing)) from None
        raise ConfigurationError(
            f"app {name}: {_last_place(error)} imports {missing!r}, which is not installed here; "
            "run duly in the environment of your application"
        ) from error


def _no_module(name: str, missing: str) -> str:
    parent, _, last = missing.rpartition(".")
    places = None if parent else [str(Path.cwd())]
    if parent:
        places = list(getattr(sys.modules.get(parent), "__path__", []))
        if not places:
            return f"app {name}: {parent!r} is a module, not a package: write {parent}:{last}"
    near = difflib.get_close_matches(last, [found.name for found in pkgutil.iter_modules(places)], n=1)
    whole = ".".join(filter(None, [parent, *near]))
    tail = f"; did you mean {whole!r}?" if near else f", in {Path.cwd()} or elsewhere on the path"
    return f"app {name}: there is no module {missing!r}{tail}"


def _last_place(error: BaseException) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    return f"{frames[-1].filename}:{frames[-1].lineno}"


# ── attributes ────────────────────────────────────────────────────────────────────────────────


def _apps_in(module: ModuleType) -> dict[str, Duly]:
    """The apps in a module by name, each once."""
    from duly.app import Duly

    found: dict[str, Duly] = {}
    for name, thing in vars(module).items():
        if isinstance(thing, Duly) and all(thing is not other for other in found.values()):
            found[name] = thing
    return found


def _the_only_one(module: ModuleType) -> Duly:
    apps = _apps_in(module)
    match list(apps.values()):
        case [app]:
            return app
        case []:
            raise ConfigurationError(
                f"app {module.__name__}: there is no Duly object in this module; write module:attribute, "
                "and see that the module makes one: jobs = Duly(…)"
            )
    names = " or ".join(f"{module.__name__}:{name}" for name in apps)
    raise ConfigurationError(
        f"app {module.__name__}: there are several Duly objects in this module; write {names}"
    )


def _attribute(module: ModuleType, path: str) -> Duly:
    from duly.app import Duly

    thing: object = module
    for name in path.split("."):
        if not hasattr(thing, name):
            raise ConfigurationError(
                f"app {module.__name__}:{path}: there is no {name!r} in it{_hint(name, module, thing)}"
            )
        thing = getattr(thing, name)
    if not isinstance(thing, Duly):
        raise ConfigurationError(
            f"app {module.__name__}:{path} is a {type(thing).__name__}, not a Duly object{_hint('', module, module)}"
        )
    return thing


def _hint(name: str, module: ModuleType, holder: object) -> str:
    apps: Sequence[str] = list(_apps_in(module)) if holder is module else []
    near = difflib.get_close_matches(name, dir(holder), n=1) if name else []
    guess = [app for app in near if app in apps] or apps[:1] or near
    return f"; did you mean {guess[0]!r}?" if guess else ""
