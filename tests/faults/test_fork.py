"""An app whose pool is open when its process forks, as servers do."""

from __future__ import annotations

from tests.faults.ground import Ground
from tests.faults.prefork import CHILDREN


def test_an_app_used_before_a_fork_serves_parent_and_children(ground: Ground) -> None:
    """While workers work: no connection is shared, every promise is kept."""
    workers = ground.terminal()
    server = ground.run("tests.faults.prefork:main", "40")
    assert server.ended() == 0, server.words()
    assert server.words() == ""
    promised = ground.lines("promised")
    assert len(promised) == 40 * (CHILDREN + 1) + 6
    assert len({line["pid"] for line in promised}) == CHILDREN + 1
    ground.promised |= {line["job"]: True for line in promised}
    ground.all_done()
    assert workers.stop() == 0
    ground.check(calm=True)
