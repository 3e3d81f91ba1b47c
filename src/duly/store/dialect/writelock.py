"""SQLite's write lock, and how to wait for it in turn."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

from sqlalchemy import Connection

PATIENCE = 5.0
"""Seconds that Duly waits for it, and asks all that it uses to wait."""

LOOK = 0.001

_PATIENT = f"PRAGMA busy_timeout = {PATIENCE * 1000:.0f}"


def take(connection: Connection) -> None:
    """BEGIN IMMEDIATE, as soon as nobody else writes; as the driver's error where that takes too long.

    SQLite's own wait looks less and less often, ten times a second in the end: whoever has just written takes
    the lock again long before that, and of several busy workers one would have it nearly all the time. Drivers
    that are not sqlite3's own must not be kept from their event loop, so there it has to do.
    """
    driver: Any = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    elif not is_patient(connection):
        _take(connection, driver)
    else:
        driver.execute("PRAGMA busy_timeout = 0")
        try:
            _take(connection, driver)
        finally:
            driver.execute(_PATIENT)


def is_patient(connection: Connection) -> bool:
    """Whether SQLite itself waits for locks on this connection, as it should on one that others use too."""
    return not connection.info.get("duly_impatient")


def be_patient(connection: Connection) -> None:
    """From now on SQLite waits on this connection."""
    connection.exec_driver_sql(_PATIENT)
    connection.info["duly_impatient"] = False


def be_impatient(connection: Connection) -> None:
    """From now on it does not, so that ``take`` need not say so each time; for sqlite3's own connections."""
    if isinstance(connection.connection.driver_connection, sqlite3.Connection):
        connection.exec_driver_sql("PRAGMA busy_timeout = 0")
        connection.info["duly_impatient"] = True


def _take(connection: Connection, driver: sqlite3.Connection) -> None:
    if not _wait(driver):
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # which says what is wrong


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
