# gallery/flag.py
"""Effect and flag in two transactions."""

from sqlalchemy.orm import Session

from duly import given

from .shop import Order, Payment, engine, jobs


@jobs.task(effects="idempotent")
def wrong(order_id: int) -> None:
    """Book the payment, unless the order says that it is paid."""
    with Session(engine) as session:
        order = session.get_one(Order, order_id)
        if not order.paid:
            session.add(Payment(order_id=order.id, amount=order.price))
            session.commit()
            order.paid = True
            session.commit()


@jobs.task(effects="transactional")
def mended(order_id: int, *, session: Session = given) -> None:
    """Payment, flag and the record that the job is done: one transaction."""
    order = session.get_one(Order, order_id)
    if not order.paid:
        session.add(Payment(order_id=order.id, amount=order.price))
        order.paid = True
