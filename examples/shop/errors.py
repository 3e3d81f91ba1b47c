"""What can go wrong in the shop."""


class ShopError(Exception):
    """The day cannot go on; the message says why."""
