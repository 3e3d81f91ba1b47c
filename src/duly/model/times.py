"""When a job is due, and when it expires."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from duly.errors import InvalidOptions
from duly.model.options import Options

# Beyond these an instant may be another year, 0 or 10000, in the server's time zone: its driver could not read it,
# and one such row would fail every claim of its queue.
_EARLIEST, _LATEST = datetime(1000, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


def settle(
    options: Options, now: datetime, task: str, deadline: datetime | None
) -> tuple[datetime, datetime]:
    """When the job runs and expires, by the options nearest to the call; not after an inherited *deadline*."""
    run, expires = options.run, options.expires
    try:
        run_at = run if isinstance(run, datetime) else now + (run or timedelta(0))
        assert expires is not None  # noqa: S101 - defaults say it
        # A distance counts from when the job is due: 90 days "after run_at".
        expires_at = expires if isinstance(expires, datetime) else max(run_at, now) + expires
    except OverflowError:
        raise InvalidOptions(f"{task}: run_at or expires_at is out of bounds") from None
    whose = ""
    if deadline is not None and deadline < expires_at:
        expires_at, whose = (
            deadline,
            ", inherited from the job that enqueues it; say expires_in= to give it its own",
        )
    if run_at < _EARLIEST or max(run_at, expires_at) > _LATEST:
        raise InvalidOptions(
            f"{task}: run_at or expires_at is out of bounds (years {_EARLIEST:%Y} to {_LATEST:%Y})"
        )
    if expires_at <= now:
        raise InvalidOptions(
            f"{task}: expires_at is past already ({expires_at.isoformat()}{whose}); it could never run"
        )
    if expires_at <= run_at:
        raise InvalidOptions(
            f"{task}: it would expire before it is due (run_at {run_at.isoformat()}, expires_at "
            f"{expires_at.isoformat()}{whose})"
        )
    return run_at, expires_at
