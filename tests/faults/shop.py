"""An application that enqueues from its own transactions while workers work: every fifth is rolled back."""

from __future__ import annotations

import os
import sys

from sqlalchemy import text
from sqlalchemy.orm import Session

from duly import Duly
from tests.faults.tasks import duties, effect, note, note_down


def main() -> int:
    """``shop ORDERS NUMBER``: so many orders, each with two jobs; what was promised is noted in the journal."""
    orders, number = map(int, sys.argv[1:3])
    app = Duly(os.environ["DULY_DATABASE_URL"], include=[duties])
    with app.store.writing() as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS orders (number integer PRIMARY KEY)"))
    for order in range(orders):
        with Session(app.store.engine) as session:
            mine = effect.using(session=session).enqueue(order)
            session.execute(
                text("INSERT INTO orders VALUES (:number)"), {"number": number * 1_000_000 + order}
            )
            if order % 5 == 4:
                session.rollback()
                note_down("undone", job=str(mine.id))
            else:
                session.commit()
                note_down("promised", job=str(mine.id), task="effect")
        note_down("promised", job=str(note.enqueue(order).id), task="note")
    app.close()
    return 0
