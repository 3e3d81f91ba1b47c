"""Who types the command: the name that the audit log keeps."""

from __future__ import annotations

import os
import pwd


def actor() -> str:
    """The name of the operating system's user; its number where it has none, as in many containers."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()}"
