"""``python -m examples.shop``: play the demo."""

import sys

from duly.errors import DulyError

from .errors import ShopError

try:
    from .play import main
except (DulyError, ShopError) as error:  # a URL or key that does not hold is found at import
    print(f"The shop cannot open: {error}", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main())
