"""The shop's own tables. They are in the database that Duly keeps its jobs in, so both commit together."""

from sqlalchemy import ForeignKey, MetaData, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from .mail import Mail
from .settings import DATABASE_URL, SCHEMA

engine = create_engine(DATABASE_URL)


class Base(DeclarativeBase):
    """Base of the shop's tables."""

    metadata = MetaData(schema=SCHEMA)


class Customer(Base):
    """Someone who reads the shop's letters or buys from it."""

    __tablename__ = "customers"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str] = mapped_column(unique=True)

    @property
    def is_careful(self) -> bool:
        """Whether their mail provider greylists: a stranger is refused, and welcome when he comes again."""
        return self.email.endswith("@careful.example")


class Letter(Base):
    """A text that goes to many customers."""

    __tablename__ = "letters"

    id: Mapped[int] = mapped_column(primary_key=True)
    subject: Mapped[str]
    text: Mapped[str]

    def mail_to(self, customer: Customer) -> Mail:
        """The letter as *customer* gets it."""
        return Mail(customer.email, self.subject, f"Dear {customer.name},\n\n{self.text}\n")


class Order(Base):
    """What a customer has bought."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    customer_id: Mapped[int] = mapped_column(ForeignKey(Customer.id))
    customer: Mapped[Customer] = relationship()

    def confirmation(self) -> Mail:
        """The mail that says so to the customer."""
        name, email = self.customer.name, self.customer.email
        return Mail(email, f"Your order: {self.item}", f"Thank you, {name}! It is on its way.\n")


class Airport(Base):
    """Somewhere the shop can send a parcel by air. One row for each row of the file, and never two."""

    __tablename__ = "airports"

    id: Mapped[int] = mapped_column(primary_key=True)
    icao: Mapped[str]
    name: Mapped[str]
    city: Mapped[str]
    country: Mapped[str]
