"""The shop's jobs. Each task says what its effects allow, and gets from Duly what it asks for with ``given``.

``duly work --app examples.shop.tasks:jobs`` runs them, ``send_letter.enqueue(1, 42)`` makes one.
"""

from sqlalchemy import insert
from sqlalchemy.orm import Session

from duly import Backoff, Context, Duly, given

from . import airports, photos
from .models import Airport, Customer, Letter, Order, engine
from .settings import DATABASE_URL, SCHEMA

jobs = Duly(DATABASE_URL, schema=SCHEMA)


@jobs.task(queue="mail", effects="idempotent", retry=Backoff.fixed(1))
def send_letter(letter_id: int, customer_id: int, *, ctx: Context = given) -> None:
    """Mail a letter to one customer.

    When the mail server says "not now", this raises, and Duly tries again a second later. When the
    worker dies just after the server took the mail, another worker sends it again: with the same
    key, so with the same Message-ID, and the reader's mail program shows it once.
    """
    with Session(engine) as session:
        letter, customer = session.get_one(Letter, letter_id), session.get_one(Customer, customer_id)
        mail = letter.mail_to(customer)
    mail.send(key=ctx.idempotency_key)


@jobs.task(queue="mail", effects="idempotent", retry=Backoff.fixed(1), priority=-10)
def confirm_order(order_id: int, *, ctx: Context = given) -> None:
    """Tell a customer that the order is on its way. Goes before the newsletter: lower runs first."""
    with Session(engine) as session:
        mail = session.get_one(Order, order_id).confirmation()
    mail.send(key=ctx.idempotency_key)


@jobs.task(queue="pictures", effects="idempotent")
def make_thumbnail(photo: str, size: int) -> None:
    """Make a small picture of a large one. Done twice, it is the same picture."""
    photos.shrink(photo, size)


@jobs.task(queue="imports", effects="transactional")
def import_airports(start: int, rows: int, *, session: Session = given) -> None:
    """Import some rows of the file.

    The session's transaction is also the one that records that this job is done. So the rows are
    there exactly once, wherever a worker is killed.
    """
    session.execute(insert(Airport), airports.read(start, rows))
