# gallery/account.py
"""An account for each attempt."""

from sqlalchemy.orm import Session

from duly import Context, given

from .shop import Account, jobs


@jobs.task(effects="idempotent")
def wrong(email: str, *, session: Session = given) -> None:
    """Open an account for a new customer."""
    session.add(Account(email=email))


@jobs.task(effects="idempotent")
def mended(email: str, *, session: Session = given, ctx: Context = given) -> None:
    """Open an account for a new customer, whichever job asks for it, and however often."""
    if ctx.once(f"account:{email}"):
        session.add(Account(email=email))
