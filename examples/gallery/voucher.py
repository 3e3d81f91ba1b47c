# gallery/voucher.py
"""A number that each attempt draws anew."""

import hashlib
import secrets

from duly import Context, given

from .outside import post
from .shop import jobs


@jobs.task(effects="idempotent")
def wrong(order_id: int, *, ctx: Context = given) -> None:
    """Buy a voucher; its number is ours to choose. The bank knows the key, but not this number."""
    number = secrets.token_hex(4)
    post("/vouchers", {"order": order_id, "number": number}, key=ctx.idempotency_key)


@jobs.task(effects="idempotent")
def mended(order_id: int, *, ctx: Context = given) -> None:
    """The number is made from the key, and so the same in each attempt."""
    number = hashlib.sha256(ctx.idempotency_key.encode()).hexdigest()[:8]
    post("/vouchers", {"order": order_id, "number": number}, key=ctx.idempotency_key)
