# gallery/letter.py
"""A mail before the commit."""

from sqlalchemy.orm import Session

from duly import Context, given

from .outside import send_mail
from .shop import Order, Payment, jobs


@jobs.task(effects="transactional")
def wrong(order_id: int, *, session: Session = given) -> None:
    """Book the payment, and thank for it."""
    order = session.get_one(Order, order_id)
    session.add(Payment(order_id=order.id, amount=order.price))
    send_mail(order.email, "Thank you.")


@jobs.task(effects="transactional")
def mended(order_id: int, *, session: Session = given) -> None:
    """Book the payment, and leave the thanks to a job, which commits with it."""
    order = session.get_one(Order, order_id)
    session.add(Payment(order_id=order.id, amount=order.price))
    thank.using(session=session).enqueue(order.email)


@jobs.task(effects="idempotent")
def thank(email: str, *, ctx: Context = given) -> None:
    """Mails may come twice: whoever reads them knows them by their Message-ID."""
    send_mail(email, "Thank you.", key=ctx.idempotency_key)
