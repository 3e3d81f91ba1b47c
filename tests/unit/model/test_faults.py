"""What a task says of its exceptions."""

from __future__ import annotations

from typing import Any

import pytest

from duly import Retry
from duly.errors import AttemptStopped
from duly.model.faults import Fault, Faults


class Declined(Exception): ...


class DeclinedForNow(Declined): ...


class DeclinedForGood(DeclinedForNow): ...


class Mixed(DeclinedForGood, ConnectionError): ...


def test_nothing_is_said_of_what_is_not_named() -> None:
    assert Faults().of(ValueError()) is None
    assert Faults(retry_on=(Declined,)).of(ValueError()) is None


def test_what_is_named_is_named_with_its_subclasses() -> None:
    faults = Faults.read({"retry_on": (ConnectionError,), "give_up_on": [Declined]})
    assert faults.of(ConnectionResetError()) is Fault.RETRY
    assert faults.of(DeclinedForGood()) is Fault.GIVE_UP
    assert faults.of(OSError()) is None


@pytest.mark.parametrize(
    ("retry_on", "give_up_on", "said"),
    [
        ((DeclinedForNow,), (Declined,), [Fault.GIVE_UP, Fault.RETRY, Fault.RETRY]),
        ((Declined,), (DeclinedForNow,), [Fault.RETRY, Fault.GIVE_UP, Fault.GIVE_UP]),
        ((Declined, DeclinedForGood), (DeclinedForNow,), [Fault.RETRY, Fault.GIVE_UP, Fault.RETRY]),
        ((Exception,), (DeclinedForGood,), [Fault.RETRY, Fault.RETRY, Fault.GIVE_UP]),
    ],
)
def test_the_nearer_class_holds(retry_on: Any, give_up_on: Any, said: list[Fault]) -> None:
    faults = Faults(retry_on, give_up_on)
    assert [faults.of(error()) for error in (Declined, DeclinedForNow, DeclinedForGood)] == said


def test_near_is_what_python_looks_up_first() -> None:
    assert Faults((ConnectionError,), (Declined,)).of(Mixed()) is Fault.GIVE_UP
    assert Faults((ConnectionError,), (Exception,)).of(Mixed()) is Fault.RETRY


@pytest.mark.parametrize("option", list(Fault))
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (ValueError, r"takes several classes: write {}=\(ValueError,\)"),
        ("ValueError", "must be a tuple of exception classes"),
        ({ValueError}, "must be a tuple of exception classes"),
        (("ValueError",), "takes exception classes, not 'ValueError'"),
        ((int,), "takes exception classes, not <class 'int'>"),
        ((ValueError(),), "takes exception classes"),
        ((Retry,), "cannot name Retry: what follows from it is said by the task"),
        ((AttemptStopped,), "cannot name AttemptStopped, which is no Exception"),
        ((KeyboardInterrupt,), "cannot name KeyboardInterrupt"),
    ],
)
def test_what_cannot_be_named_is_refused(option: str, value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message.format(option)):
        Faults.read({option: value})


def test_one_class_cannot_be_both() -> None:
    with pytest.raises(ValueError, match="Declined cannot be in retry_on= and in give_up_on= at once"):
        Faults.read({"retry_on": (Declined, ValueError), "give_up_on": (Declined,)})
