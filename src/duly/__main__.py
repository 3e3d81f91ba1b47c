"""``python -m duly``: the same as ``duly``."""

from __future__ import annotations

import sys

from duly.cli import main

sys.exit(main())
