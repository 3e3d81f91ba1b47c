"""Settings: defaults < ``[tool.duly]`` in pyproject.toml < ``DULY_…`` in the environment < arguments.

Read once, checked together (all faults are reported at once, each with where it came from), then
frozen. The only file that reads the environment.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from duly.envelope.keys import Keyring
from duly.errors import SettingsError
from duly.model.options import hint

LEASE = 15.0
SHORTEST_KEEP = 0.05
"""Days: longer than any transaction that records an outcome, which pruning would otherwise pass by."""
_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,39}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an installation is set to. Durations are in seconds, but where days are named.

    ============== =========================================================== ================
    field          meaning                                                     default
    ============== =========================================================== ================
    database_url   where the queue is                                          sqlite:///duly.db
    prefix         stands before each table's name                             duly_
    schema         PostgreSQL schema of the tables                             the search path's
    keys           ``id:secret`` pairs, the first one seals                    none: plain
    app            what the command line works for: ``module:attribute``       none
    arguments_size the largest envelope, in bytes                              65536
    arguments_depth how deep arguments may nest                                32
    lease          how long claims stand without a heartbeat                   15
    beat           how often a worker shows that it lives                      a third of lease
    poll           how long an idle worker waits where nothing wakes it        0.25
    grace          how long running jobs may go on after the first TERM        25
    processes      workers of a supervisor                                     1
    threads        sync jobs that a worker runs at a time                      5
    coroutines     async jobs that a worker runs at a time                     100
    max_jobs       after how many jobs a worker leaves and is replaced         0: never
    max_memory     the same with more than so many MiB in memory               0: never
    keep_succeeded how many days the ledger keeps jobs that succeeded whole    7
    keep_failed    the same for failed, uncertain and rejected ones            30
    keep_other     the same for expired and cancelled ones                     30
    audit_every    after how many days the last audit counts as old            30
    ============== =========================================================== ================
    """

    database_url: str = "sqlite:///duly.db"
    prefix: str = "duly_"
    schema: str | None = None
    keys: Keyring = field(default_factory=Keyring)
    app: str | None = None
    arguments_size: int = 65_536
    arguments_depth: int = 32
    lease: float = LEASE
    beat: float = LEASE / 3
    poll: float = 0.25
    grace: float = 25.0
    processes: int = 1
    threads: int = 5
    coroutines: int = 100
    max_jobs: int = 0
    max_memory: int = 0
    keep_succeeded: float = 7.0
    keep_failed: float = 30.0
    keep_other: float = 30.0
    audit_every: float = 30.0

    @classmethod
    def read(cls, *, pyproject: Path | None = None, **arguments: Any) -> Settings:
        """Gather the settings; arguments that are None say nothing. ``SettingsError`` lists every fault."""
        file = pyproject or Path("pyproject.toml")
        faults: list[str] = []
        values: dict[str, Any] = {}
        for source, given in (
            (f"[tool.duly] in {file.name}", _from_file(file, faults)),
            ("environment", _from_environment()),
            ("argument", {k: v for k, v in arguments.items() if v is not None}),
        ):
            for name, value in given.items():
                where = f"{_ENV}{name.upper()}" if source == "environment" else f"{name} ({source})"
                if name not in _CHECKS:
                    faults.append(f"{where} is no setting{hint(name, _CHECKS)}")
                    continue
                try:
                    values[name] = _CHECKS[name](value)
                except (SettingsError, TypeError, ValueError) as fault:
                    faults.append(f"{where}: {fault}")
        values.setdefault("lease", LEASE)
        values.setdefault("beat", values["lease"] / 3)
        if values["beat"] * 3 > values["lease"] * 1.001:
            faults.append("beat must be at most a third of lease, so that a lost beat kills nobody")
        if faults:
            raise SettingsError("; ".join(faults))
        return cls(**values)

    def asked(self, **arguments: Any) -> Settings:
        """These, but for the *arguments* that are not None."""
        values: dict[str, Any] = {}
        for name, value in arguments.items():
            try:
                values |= {} if value is None else {name: _CHECKS[name](value)}
            except (TypeError, ValueError) as fault:
                raise SettingsError(f"{name}: {fault}") from None
        return replace(self, **values)


_ENV = "DULY_"


def _from_environment() -> dict[str, str]:
    known = {f"{_ENV}{name.upper()}": name for name in _CHECKS}
    return {known[key]: value for key, value in os.environ.items() if key in known and value != ""}


def _from_file(file: Path, faults: list[str]) -> Mapping[str, Any]:
    try:
        with file.open("rb") as handle:
            found = _table(_table(tomllib.load(handle), "tool"), "duly")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as fault:  # TOMLDecodeError is a ValueError
        faults.append(f"{file.name} cannot be read: {fault}")
        return {}
    if "keys" in found:
        faults.append(
            f"[tool.duly] keys in {file.name}: keys do not belong in a file under version control; {_ENV}KEYS"
        )
    return {name: value for name, value in found.items() if name != "keys"}


def _table(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = parent.get(name, {})
    if not isinstance(found, Mapping):
        raise ValueError(f"{name} must be a table ([tool.duly]), not {found!r}")  # noqa: TRY004 - a fault of the file
    return found


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"must be a text, not {value!r}")
    return value


def _identifier(value: object) -> str:
    if not isinstance(value, str) or not _IDENTIFIER.match(value):
        raise ValueError(f"must be a name of small letters, digits and '_', at most 40, not {value!r}")
    return value


def _keyring(value: object) -> Keyring:
    return value if isinstance(value, Keyring) else Keyring.parse(_text(value))


def _number(kind: type[int | float], value: object) -> object:
    """A number out of the environment's text; what is none is left for the check to name."""
    if not isinstance(value, str):
        return value
    try:
        return kind(value)
    except ValueError:
        return value


def _whole(low: int, high: int) -> Callable[[object], int]:
    def check(value: object) -> int:
        number = _number(int, value)
        if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
            raise ValueError(f"must be a whole number from {low} to {high}, not {value!r}")
        return number

    return check


def _seconds(low: float, high: float, unit: str = "seconds") -> Callable[[object], float]:
    def check(value: object) -> float:
        number = _number(float, value)
        if isinstance(number, bool) or not isinstance(number, int | float) or not low <= number <= high:
            raise ValueError(f"must be a number of {unit} from {low:g} to {high:g}, not {value!r}")
        return float(number)

    return check


def _days(low: float) -> Callable[[object], float]:
    return _seconds(low, 36_500, "days")


_CHECKS: dict[str, Callable[[object], Any]] = {
    "database_url": _text,
    "prefix": _identifier,
    "schema": _identifier,
    "keys": _keyring,
    "app": _text,
    "arguments_size": _whole(256, 16 * 1024 * 1024),
    "arguments_depth": _whole(1, 200),
    "lease": _seconds(0.5, 3600),
    "beat": _seconds(0.1, 1200),
    "poll": _seconds(0.005, 60),
    "grace": _seconds(0, 86_400),
    "processes": _whole(1, 256),
    "threads": _whole(1, 1000),
    "coroutines": _whole(1, 10_000),
    "max_jobs": _whole(0, 1_000_000_000),
    "max_memory": _whole(0, 1_048_576),
    "keep_succeeded": _days(SHORTEST_KEEP),
    "keep_failed": _days(SHORTEST_KEEP),
    "keep_other": _days(SHORTEST_KEEP),
    "audit_every": _days(1),
}

if set(_CHECKS) != {f.name for f in fields(Settings)}:  # pragma: no cover - a slip of ours, seen at import
    raise RuntimeError("every setting needs a check")


@dataclass(frozen=True, slots=True)
class Notifying:
    """How systemd wants to hear of a service (``Type=notify``, ``WatchdogSec=``): what it sets, and no user does."""

    socket: str = ""
    """Where datagrams go; a name that begins with ``@`` is an abstract one. Empty: nobody asks."""
    watchdog: float | None = None
    """Within how many seconds the next sign of life must come."""

    @classmethod
    def read(cls) -> Notifying:
        """As the environment says it for this very process."""
        said = os.environ
        micros, meant = said.get("WATCHDOG_USEC", ""), said.get("WATCHDOG_PID", str(os.getpid()))
        watched = micros.isdecimal() and int(micros) > 0 and meant == str(os.getpid())
        return cls(said.get("NOTIFY_SOCKET", ""), int(micros) / 1_000_000 if watched else None)
