import threading
from types import SimpleNamespace
from typing import Any

from duly.model.ids import new_id
from duly.worker.ticket import Ticket


def ticket() -> Ticket:
    job: Any = SimpleNamespace(id=new_id())
    return Ticket(job, "w1", 0.0, asynchronous=False)


def test_a_ticket_is_taken_once() -> None:
    one = ticket()
    assert one.waiting
    assert one.take()
    assert not one.waiting
    assert not one.take()


def test_of_many_who_ask_at_once_one_gets_it() -> None:
    for _ in range(50):
        one, won, gate = ticket(), [], threading.Barrier(4)

        def ask(one: Ticket = one, won: list[bool] = won, gate: threading.Barrier = gate) -> None:
            gate.wait()
            won.append(one.take())

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(won) == [False, False, False, True]


def test_tickets_are_told_apart_by_who_they_are() -> None:
    one, other = ticket(), ticket()
    assert one != other
    assert len({one, other}) == 2
