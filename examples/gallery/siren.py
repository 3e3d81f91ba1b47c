# gallery/siren.py
"""What must not be done twice, by somebody who knows no keys."""

from .outside import post
from .shop import jobs


@jobs.task(effects="idempotent")
def wrong(order_id: int) -> None:
    """Have the siren howl. It cannot be told that it has howled already."""
    post("/siren", {"order": order_id})


@jobs.task(effects="unrepeatable")
def mended(order_id: int) -> None:
    """The same, at most once. If nobody knows whether it did, the job waits for a person."""
    post("/siren", {"order": order_id})
