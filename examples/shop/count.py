"""The figures of the evening: taken from Duly's ledger, and from those who know nothing of Duly."""

from sqlalchemy import distinct, func, select
from sqlalchemy.orm import Session

from duly import JobHandle
from duly.errors import JobNotFound

from .models import Airport, engine
from .photos import PHOTOS, SIZES, is_whole, thumbnail
from .report import Ledger, World
from .sink import Sink
from .tasks import jobs


def count_ledger(unsold: JobHandle[None]) -> Ledger:
    """What Duly says. *unsold* is the handle of the job whose transaction was rolled back."""
    overview = jobs.manage.overview()
    return Ledger(
        enqueued=overview.enqueued,
        unfinished=sum(overview.states.values()),
        outcomes=dict(overview.outcomes),
        retried=overview.retried,
        rescued=overview.rescued,
        unsold=_is_known(unsold),
    )


def count_world(sink: Sink, *, killed: int | None, exit_code: int) -> World:
    """What the mail server took, the rows in the shop's table, and the pictures on the disk.

    *killed* and *exit_code* are what was seen of the processes.
    """
    with Session(engine) as session:
        rows, different = session.execute(
            select(func.count(), func.count(distinct(Airport.icao))).select_from(Airport)
        ).one()
    pictures = sum(is_whole(thumbnail(photo, size), size) for photo in PHOTOS for size in SIZES)
    return World(
        mails=tuple(sink.received),
        refused=len(sink.refused),
        rows=rows,
        different_rows=different,
        thumbnails=pictures,
        killed=killed,
        exit_code=exit_code,
    )


def _is_known(handle: JobHandle[None]) -> bool:
    try:
        handle.refresh()
    except JobNotFound:
        return False
    return True
