"""A Python of a page's own: runs what comes in on stdin, one JSON line each, in one namespace."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import traceback
from pathlib import Path
from typing import Any


def main() -> None:
    namespace: dict[str, Any] = {"__name__": "page"}
    sys.path.insert(0, str(Path.cwd()))
    replies = sys.stdout
    for line in sys.stdin:
        asked = json.loads(line)
        _forget(asked["changed"])
        said, raised = io.StringIO(), None
        with contextlib.redirect_stdout(said):
            try:
                exec(compile(asked["code"], asked["name"], "exec", dont_inherit=True), namespace)
            except BaseException as error:
                raised = {"type": type(error).__name__, "traceback": traceback.format_exc()}
        print(json.dumps({"said": said.getvalue(), "raised": raised}), file=replies, flush=True)


def _forget(files: list[str]) -> None:
    """Modules whose file the page has changed are imported again."""
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) in files:
            del sys.modules[name]


if __name__ == "__main__":
    main()
