"""What management needs of its app."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from duly.manage.desk import Desk
from duly.manage.desk import Home as DeskHome

if TYPE_CHECKING:
    from duly.client import Client
    from duly.settings import Settings


class Home(DeskHome, Protocol):
    """The app, as the operator's verbs see it."""

    client: Client
    desk: Desk
    settings: Settings
