# gallery/counter.py
"""A counter that is raised outside of the job's transaction."""

from sqlalchemy import Connection, update

from duly import given

from .shop import Sales, engine, jobs


@jobs.task(effects="idempotent")
def wrong(item: str) -> None:
    """Count a sale."""
    with engine.begin() as connection:
        connection.execute(update(Sales).where(Sales.item == item).values(count=Sales.count + 1))


@jobs.task(effects="transactional")
def mended(item: str, *, connection: Connection = given) -> None:
    """Count a sale, in the transaction that records the job."""
    connection.execute(update(Sales).where(Sales.item == item).values(count=Sales.count + 1))
