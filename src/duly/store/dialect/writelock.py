"""SQLite's write lock, and how to wait for it in turn."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

from sqlalchemy import Connection

PATIENCE = 5.0
"""Seconds that Duly waits for it, and asks all that it uses to wait."""

LOOK = 0.001


def take(connection: Connection) -> None:
    """BEGIN IMMEDIATE, as soon as nobody else writes; as the driver's error where that takes too long.

    SQLite's own wait looks less and less often, ten times a second in the end: whoever has just written takes
    the lock again long before that, and of several busy workers one would have it nearly all the time. Drivers
    that are not sqlite3's own must not be kept from their event loop, so there it has to do.
    """
    driver: Any = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return
    driver.execute("PRAGMA busy_timeout = 0")
    try:
        if not _wait(driver):
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # which says what is wrong
    finally:
        driver.execute(f"PRAGMA busy_timeout = {PATIENCE * 1000:.0f}")


def _wait(driver: sqlite3.Connection) -> bool:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            driver.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                return False
            time.sleep(LOOK)
        else:
            return True
    return False
