"""Where the shop keeps its things. ``DULY_DATABASE_URL`` puts its tables on another database."""

import os
from pathlib import Path

from .errors import ShopError

FOLDER = Path(".demo")
"""Database, thumbnails and log of the last run; git-ignored, and made afresh by each."""

DATABASE_FILE = FOLDER / "shop.db"
THUMBNAILS = FOLDER / "thumbnails"
LOG = FOLDER / "workers.log"

DATABASE_URL = os.environ.get("DULY_DATABASE_URL") or f"sqlite:///{DATABASE_FILE}"
if not DATABASE_URL.startswith(("sqlite:///", "postgresql")):
    raise ShopError("It plays on SQLite or PostgreSQL, and DULY_DATABASE_URL names neither.")

SCHEMA = "duly_shop_demo" if DATABASE_URL.startswith("postgresql") else None
"""On PostgreSQL everything lies in a schema of its own, so that nothing else there is touched."""

MAIL_PORT = int(os.environ.get("SHOP_MAIL_PORT", "25"))
"""Where the mail server listens on this machine. The demo starts one and tells the workers its port."""
