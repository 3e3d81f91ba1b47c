# gallery/file.py
"""A line at the end of a file."""

from pathlib import Path

from .shop import jobs


@jobs.task(effects="idempotent")
def wrong(order_id: int) -> None:
    """Put the order on the list for the bookkeeper."""
    with Path("orders.csv").open("a") as file:
        file.write(f"{order_id}\n")


@jobs.task(effects="idempotent")
def mended(order_id: int) -> None:
    """Give the bookkeeper a file for each order, written whole, then put in its place."""
    file = Path(f"order-{order_id}.new")
    file.write_text(f"{order_id}\n")
    file.replace(f"order-{order_id}.csv")
