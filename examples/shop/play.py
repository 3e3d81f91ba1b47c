"""The demo: a day of the shop is played, and then what was due is compared with what became of it."""

import signal
import sys
import time

from rich.console import Console
from rich.markup import escape
from sqlalchemy.exc import SQLAlchemyError

from duly.errors import DulyError

from .count import count_ledger, count_world
from .day import Day
from .errors import ShopError
from .opening import open_shop
from .report import Due, Ledger, World, show
from .settings import LOG, THUMBNAILS
from .workers import Workers, tail


def main() -> int:
    """Play the day. 0: all figures agree; 1: they do not; 2: the shop could not open; 130: interrupted."""
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console.print("[bold]A day in a small shop.[/] Its customers are made up; all else is real.")
    try:
        with open_shop():
            return 0 if play(console) else 1
    except KeyboardInterrupt:
        console.print("Interrupted; the workers are stopped.")
        return 130
    except (DulyError, SQLAlchemyError, ShopError) as error:
        console.print(f"[bold red]The shop cannot open:[/] {escape(str(error).splitlines()[0])}")
        return 2


def play(console: Console) -> bool:
    """Play the day, and say whether all figures agree at its end."""
    began = time.monotonic()
    try:
        due, ledger, world = live(Day(console))
        agree = show(console, due, ledger, world)
    except (DulyError, SQLAlchemyError, ShopError) as error:
        console.print(f"\n[bold red]The day cannot go on:[/] {escape(str(error))}")
        agree = False
    if agree:
        console.print(f"[bold green]All figures agree.[/] The day took {time.monotonic() - began:.0f} s.")
        console.print(f"The workers' log is {LOG}; the thumbnails are in {THUMBNAILS}.")
    else:
        console.print(f"\n[bold]The end of the workers' log, {LOG}:[/]")
        console.print(tail(LOG), markup=False)
    return agree


def live(day: Day) -> tuple[Due, Ledger, World]:
    """The day from morning to evening: what was due then, and the figures from inside and outside."""
    with day.opening() as sink:
        day.morning()
        late = day.flash_sale()
        with Workers(LOG, {"SHOP_MAIL_PORT": str(sink.port)}) as workers:
            day.shift(workers)
            day.orders()
            unsold, handle = day.declined_order()
            killed = day.work(workers, sink)
            exit_code = day.evening(workers)
        world = count_world(sink, killed=killed, exit_code=exit_code)
        return day.due(late, unsold), count_ledger(handle), world
