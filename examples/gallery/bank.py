# gallery/bank.py
"""A call to the outside that says nothing by which a repetition could be known."""

from duly import Context, given

from .outside import post
from .shop import jobs


@jobs.task(effects="idempotent")
def wrong(order_id: int) -> None:
    """Have the bank charge the customer."""
    post("/charges", {"order": order_id})


@jobs.task(effects="idempotent")
def mended(order_id: int, *, ctx: Context = given) -> None:
    """The same with the key of the job, the same for all its attempts."""
    post("/charges", {"order": order_id}, key=ctx.idempotency_key)
