# gallery/steps.py
"""Two calls to the outside in a durable sequence."""

from duly import Context, given

from .outside import post
from .shop import jobs


@jobs.task(effects="idempotent")
def wrong(order_id: int, *, ctx: Context = given) -> None:
    """Charge the customer, then ask for a parcel. Each is a step, which no later attempt repeats."""
    ctx.step("charge", post, "/charges", {"order": order_id})
    ctx.step("parcel", post, "/parcels", {"order": order_id})


@jobs.task(effects="idempotent")
def mended(order_id: int, *, ctx: Context = given) -> None:
    """The same with keys: a step is written down after its call, and the process may die in between."""
    key = ctx.idempotency_key
    ctx.step("charge", post, "/charges", {"order": order_id}, key=f"{key}-charge")
    ctx.step("parcel", post, "/parcels", {"order": order_id}, key=f"{key}-parcel")
