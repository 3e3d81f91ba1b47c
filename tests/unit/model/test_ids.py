"""Ids: UUIDv7 that rise within a process, and ids that follow from others."""

from __future__ import annotations

import threading
import time
from uuid import RFC_4122, UUID, uuid4

import pytest

from duly.model import ids
from duly.model.ids import derived_id, job_id, new_id


def test_an_id_is_a_uuid_of_version_7_with_the_time_in_front() -> None:
    before = time.time_ns() // 1_000_000
    made = new_id()
    assert (made.version, made.variant) == (7, RFC_4122)
    assert 0 <= (made.int >> 80) - before < 10_000


def test_ids_rise_also_when_a_millisecond_is_used_up() -> None:
    made = [new_id() for _ in range(10_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_ids_rise_when_the_wall_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = new_id()
    monkeypatch.setattr(ids.time, "time_ns", lambda: 0)
    assert first < new_id() < new_id()


def test_ids_made_by_many_threads_are_different() -> None:
    made: list[UUID] = []
    threads = [threading.Thread(target=lambda: made.extend(new_id() for _ in range(500))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 2000


def test_ids_of_forked_processes_are_different() -> None:
    """The time and the sequence may be the same; 62 bits are random."""
    assert len({made.int & ((1 << 62) - 1) for made in (new_id() for _ in range(1000))}) == 1000


def test_a_derived_id_is_always_the_same_and_sorts_near_its_parent() -> None:
    parent = new_id()
    one, two = derived_id(parent, "retry"), derived_id(parent, "other")
    assert one == derived_id(UUID(str(parent)), "retry")
    assert len({parent, one, two, derived_id(new_id(), "retry"), derived_id(one, "retry")}) == 5
    assert (one.version, one.variant) == (8, RFC_4122)
    assert one.int >> 80 == parent.int >> 80


def test_an_id_is_read_from_its_text() -> None:
    made = uuid4()
    assert job_id(made) is made
    assert job_id(str(made)) == job_id(made.hex) == made
    for wrong in ("", "x", 5, None):
        with pytest.raises(ValueError, match="badly formed"):
            job_id(wrong)
