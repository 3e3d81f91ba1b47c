# gallery/shop.py
"""The shop: its tables, its app, and one order."""

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from duly import Backoff, Duly

engine = create_engine("sqlite:///gallery.db")
jobs = Duly(engine, retry=Backoff.fixed(1), max_attempts=5)


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    price: Mapped[int]
    paid: Mapped[bool] = mapped_column(default=False)


class Payment(Base):
    __tablename__ = "payments"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int]
    amount: Mapped[int]


class Sales(Base):
    __tablename__ = "sales"

    item: Mapped[str] = mapped_column(primary_key=True)
    count: Mapped[int]


class Account(Base):
    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]


class Invoice(Base):
    __tablename__ = "invoices"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int]


class UniqueInvoice(Base):
    __tablename__ = "unique_invoices"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(unique=True)


class Booking(Base):
    __tablename__ = "bookings"

    order_id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str]


class VersionedBooking(Base):
    __tablename__ = "versioned_bookings"

    order_id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str]
    version: Mapped[int] = mapped_column()

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - as SQLAlchemy has it


def opening() -> None:
    """Make the tables, and put the order in."""
    Base.metadata.create_all(engine)
    jobs.migrate()
    with Session(engine) as session, session.begin():
        session.merge(Order(id=1, email="ada@example.org", price=30))
        session.merge(Sales(item="moon lamp", count=0))
        session.merge(Booking(order_id=1, state="new"))
        session.merge(VersionedBooking(order_id=1, state="new"))
