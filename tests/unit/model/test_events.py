"""Events: logic emits, others subscribe; a subscriber that raises harms nobody."""

from __future__ import annotations

from duly.model.events import Emitter, Event, Notice


def test_each_subscriber_is_told_in_order_and_one_that_raises_harms_nobody() -> None:
    emitter, told = Emitter(), []

    def broken(event: Event) -> None:
        raise ZeroDivisionError

    emitter.subscribe(lambda event: told.append(("one", event)))
    emitter.subscribe(broken)
    emitter.subscribe(lambda event: told.append(("two", event)))
    emitter.emit(Notice("hello"))
    assert told == [("one", Notice("hello")), ("two", Notice("hello"))]


def test_successes_are_told_when_anybody_wants_them() -> None:
    emitter = Emitter()
    assert emitter.successes is False
    emitter.subscribe(print, successes=True)
    emitter.subscribe(print)
    assert emitter.successes is True
