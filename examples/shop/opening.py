"""Opening the shop for a day, on tables made afresh, and closing it without a trace in anyone's database."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

from sqlalchemy import inspect
from sqlalchemy.orm import Session
from sqlalchemy.schema import CreateSchema, DropSchema

from .errors import ShopError
from .models import Base, Customer, engine
from .settings import DATABASE_URL, FOLDER, SCHEMA, THUMBNAILS
from .tasks import jobs

FIRST_NAMES = (
    *("Ada", "Alan", "Chen", "Donald", "Edsger", "Emmy", "Frances", "Grace", "Hedy", "Joan"),
    *("Katherine", "Leslie", "Margaret", "Niklaus", "Radia", "Sofia", "Tony", "Ursula", "Yukihiro", "Zoë"),
)
LAST_NAMES = (
    *("Adler", "Bauer", "Costa", "Dubois", "Eriksson", "Fischer", "García", "Haddad"),
    *("Ito", "Jansen", "Kowalska", "Lindqvist", "Moreau", "Novák", "Okafor"),
)


@contextmanager
def open_shop() -> Iterator[None]:
    """A shop with its folder, its tables and 300 customers. On a PostgreSQL nothing of it stays behind."""
    if FOLDER.exists():
        shutil.rmtree(FOLDER)
    THUMBNAILS.mkdir(parents=True)
    try:
        _make_room()
        jobs.migrate()
        Base.metadata.create_all(engine)
        with Session(engine) as session, session.begin():
            session.add_all(customers())
        yield
    finally:
        jobs.close()
        _clear()
        engine.dispose()


def customers() -> list[Customer]:
    """Three hundred people. Every twenty-fifth has a mailbox at a provider that is careful with strangers."""
    people = []
    for number, (first, last) in enumerate(product(FIRST_NAMES, LAST_NAMES), start=1):
        provider = "careful.example" if number % 25 == 0 else "mail.example"
        people.append(Customer(name=f"{first} {last}", email=f"customer-{number}@{provider}"))
    return people


def _make_room() -> None:
    if SCHEMA:
        _clear()
        with engine.begin() as connection:
            connection.execute(CreateSchema(SCHEMA))
    elif inspect(engine).get_table_names():
        raise ShopError(f"The demo plays on a new database file, and {DATABASE_URL} holds tables already.")


def _clear() -> None:
    if SCHEMA:
        with engine.begin() as connection:
            connection.execute(DropSchema(SCHEMA, cascade=True, if_exists=True))
