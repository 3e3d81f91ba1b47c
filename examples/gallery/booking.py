# gallery/booking.py
"""A late writer, who overwrites what was written since he read."""

from sqlalchemy.orm import Session

from .shop import Booking, UniqueInvoice, VersionedBooking, engine, jobs


@jobs.task(effects="idempotent")
def wrong(order_id: int) -> None:
    """Write the invoice, and say meanwhile that it is being written."""
    with Session(engine) as session:
        booking = session.get_one(Booking, order_id)
        if booking.state != "billed":
            booking.state = "billing"
            session.commit()
            session.add(UniqueInvoice(order_id=order_id))
            booking.state = "billed"
            session.commit()


@jobs.task(effects="idempotent")
def mended(order_id: int) -> None:
    """The same; the table has a version, and who comes too late is told so."""
    with Session(engine) as session:
        booking = session.get_one(VersionedBooking, order_id)
        if booking.state != "billed":
            booking.state = "billing"
            session.commit()
            session.add(UniqueInvoice(order_id=order_id))
            booking.state = "billed"
            session.commit()
