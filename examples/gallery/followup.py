# gallery/followup.py
"""A job enqueued by a job, once for each attempt."""

from .letter import thank
from .shop import jobs


@jobs.task(effects="idempotent")
def wrong(email: str) -> None:
    """Have the customer thanked, by another job."""
    thank.enqueue(email)


@jobs.task(effects="idempotent")
def mended(email: str) -> None:
    """The same; the other job is a child of this one, and each attempt finds the one that is there."""
    thank.using(child="thanks").enqueue(email)
