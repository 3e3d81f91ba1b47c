# gallery/invoice.py
"""Check, then act, and nothing that forbids a second act."""

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from .shop import Invoice, UniqueInvoice, engine, jobs


@jobs.task(effects="idempotent")
def wrong(order_id: int) -> None:
    """Write the invoice, if there is none."""
    with Session(engine) as session, session.begin():
        if session.scalar(select(Invoice).where(Invoice.order_id == order_id)) is None:
            session.add(Invoice(order_id=order_id))


@jobs.task(effects="idempotent")
def mended(order_id: int) -> None:
    """Write the invoice; the table has a unique constraint."""
    try:
        with Session(engine) as session, session.begin():
            session.add(UniqueInvoice(order_id=order_id))
    except IntegrityError:
        pass  # another attempt was here
