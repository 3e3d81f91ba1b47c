"""A day of the shop, scene by scene. Each scene does one thing with Duly and says what it shows."""

import time
from itertools import cycle
from random import Random
from subprocess import TimeoutExpired

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from sqlalchemy import select
from sqlalchemy.orm import Session

from duly import JobHandle

from . import airports
from .errors import ShopError
from .models import Customer, Letter, Order, engine
from .photos import PHOTOS, SIZES
from .progress import DayProgress
from .report import Delivery, Due
from .settings import DATABASE_URL, SCHEMA
from .sink import Receipt, Sink
from .tasks import confirm_order, import_airports, jobs, make_thumbnail, send_letter
from .workers import COMMAND, Workers

ITEMS = ("moon lamp", "coffee mill", "cat basket", "toy rocket", "magnifying glass", "tripod")
ROWS_A_JOB = 1_000
LONGEST_START, LONGEST_DAY = 15.0, 60.0
LOOK_EVERY = 0.1


class Day:
    """The scenes, in the order in which they are played, and what they make due."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._scene = 0
        self._jobs = 0
        self._mails: set[Delivery] = set()
        self._rows = len(airports.read())
        with Session(engine) as session:
            self._customers = session.scalars(select(Customer).order_by(Customer.id)).all()

    def opening(self) -> Sink:
        """The mail server of the day, not yet listening: it refuses some, and is slow to answer once."""
        careful = {customer.email for customer in self._customers if customer.is_careful}
        place = f"PostgreSQL, in a schema of their own ({SCHEMA})" if SCHEMA else f"SQLite ({DATABASE_URL})"
        self._say(
            "The shop opens.",
            f"{len(self._customers)} customers; the shop's tables and Duly's are on {place}. A mail server "
            f"listens on loopback. {len(careful)} addresses it refuses once, as greylisting servers do.",
        )
        return Sink(greylisted=careful, hold_at=len(self._customers) // 2)

    def morning(self) -> None:
        """One transaction saves a newsletter and enqueues everything that the morning brings."""
        letter = Letter(subject="Autumn at the shop", text="New lamps have come, and more cat baskets.")
        with Session(engine) as session, session.begin():
            session.add(letter)
            session.flush()
            self._mails |= {Delivery(customer.email, letter.subject) for customer in self._customers}
            calls = [
                *(send_letter.call(letter.id, customer.id) for customer in self._customers),
                *(make_thumbnail.call(photo, size) for photo in PHOTOS for size in SIZES),
                *(import_airports.call(start, ROWS_A_JOB) for start in range(0, self._rows, ROWS_A_JOB)),
            ]
            Random(7).shuffle(calls)
            self._jobs += len(jobs.enqueue_many(calls, session=session))
        self._say(
            "A newsletter is saved, and its mails are enqueued in the same transaction.",
            f"{len(self._customers)} mails, thumbnails of {len(PHOTOS)} photographs in {len(SIZES)} sizes, "
            f"the import of {self._rows:,} airports, {ROWS_A_JOB:,} a job: {len(calls)} jobs in one enqueue_many.",
        )

    def flash_sale(self) -> Delivery:
        """A mail that may not be sent any more when somebody comes to send it. It must never arrive."""
        sale = Letter(subject="Flash sale: it ends now", text="Half price for the blink of an eye.")
        customer = self._customers[0]
        late = Delivery(customer.email, sale.subject)
        with Session(engine) as session, session.begin():
            session.add(sale)
            session.flush()
            send_letter.using(expires_in=0.3, session=session).enqueue(sale.id, customer.id)
            self._jobs += 1
        time.sleep(0.5)
        self._say(
            "A flash sale is announced, with expires_in=0.3 s.",
            "Nobody works yet, so it is over before a worker sees it: late is never.",
        )
        return late

    def shift(self, workers: Workers) -> None:
        """Two workers come to work."""
        began = time.monotonic()
        while len(processes := [worker.pid for worker in jobs.manage.workers()]) < 2:
            if workers.exit_code is not None or time.monotonic() - began > LONGEST_START:
                raise ShopError("The workers did not come to work.")
            time.sleep(LOOK_EVERY)
        self._say(
            "A supervisor starts two workers, with four threads each:",
            f"duly {COMMAND}. They are processes {' and '.join(map(str, processes))}.",
        )

    def orders(self) -> None:
        """While they work, customers order. Each order commits together with the job that confirms it."""
        buyers = self._customers[1 : 1 + 2 * len(ITEMS)]
        for customer, item in zip(buyers, cycle(ITEMS), strict=False):
            with Session(engine) as session, session.begin():
                self._order(session, customer, item)
            self._jobs += 1
            self._mails.add(_confirmation(customer, item))
        self._say(
            f"{len(buyers)} customers order something while the workers work.",
            "Each order commits together with the job that confirms it. These go first (priority=-10).",
        )

    def declined_order(self) -> tuple[Delivery, JobHandle[None]]:
        """An order whose transaction rolls back after its job was enqueued. Nobody may ever hear of it."""
        customer, item = self._customers[0], "chandelier"
        with Session(engine) as session:
            handle = self._order(session, customer, item)
            session.rollback()  # as the end of the block would by itself, when an exception ends it
        self._say(
            f"{customer.name} orders a {item}, but the card is declined: the transaction rolls back.",
            f"So there is no order, and no job {handle.id}.",
        )
        return _confirmation(customer, item), handle

    def work(self, workers: Workers, sink: Sink) -> int | None:
        """All jobs are worked off. Half-way a worker is killed, at the worst moment there is; its process."""
        deadline, killed = time.monotonic() + LONGEST_DAY, None
        with DayProgress(self._console, self._jobs) as progress:
            while (ended := sum(jobs.manage.overview().outcomes.values())) < self._jobs:
                progress.show(ended, f"{len(sink.received)} mails delivered")
                if sink.held and killed is None:
                    killed = self._kill(workers, sink.held)
                    sink.release()
                if workers.exit_code is not None or time.monotonic() > deadline:
                    break  # the count will say what is missing
                time.sleep(LOOK_EVERY)
            progress.show(ended, f"{len(sink.received)} mails delivered")
        return killed

    def evening(self, workers: Workers) -> int:
        """The workers go home; the supervisor's exit code."""
        began = time.monotonic()
        try:
            code = workers.stop()
        except TimeoutExpired:
            raise ShopError("The supervisor does not stop.") from None
        took = time.monotonic() - began
        self._say("The supervisor is asked to stop.", f"All are gone after {took:.1f} s, exit code {code}.")
        return code

    def due(self, late: Delivery, unsold: Delivery) -> Due:
        """What must have happened by now, and the two mails that must not."""
        return Due(
            jobs=self._jobs,
            mails=frozenset(self._mails),
            late=late,
            unsold=unsold,
            rows=self._rows,
            thumbnails=len(PHOTOS) * len(SIZES),
        )

    def _order(self, session: Session, customer: Customer, item: str) -> JobHandle[None]:
        order = Order(item=item, customer_id=customer.id)
        session.add(order)
        session.flush()
        return confirm_order.using(session=session).enqueue(order.id)

    def _kill(self, workers: Workers, mail: Receipt) -> int:
        if mail.process not in [worker.pid for worker in jobs.manage.workers()]:
            raise ShopError(f"Process {mail.process} sends mails, but is not one of the workers.")
        workers.kill(mail.process)
        self._say(
            f"Worker {mail.process} is killed with SIGKILL, at the worst moment there is:",
            f"the server has just taken its mail to {mail.to}, and the worker has not heard so yet. "
            "Its jobs are rescued, and a new worker takes its place.",
        )
        return mail.process

    def _say(self, headline: str, more: str) -> None:
        self._scene += 1
        self._console.print(f"\n[bold]{self._scene}  {escape(headline)}[/]")
        self._console.print(Padding(escape(more), (0, 0, 0, 3), expand=False))


def _confirmation(customer: Customer, item: str) -> Delivery:
    mail = Order(item=item, customer=customer).confirmation()
    return Delivery(mail.to, mail.subject)
