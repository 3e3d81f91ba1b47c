"""States and outcomes, and the ways between them."""

from __future__ import annotations

from duly.model.states import KEEPS_ENVELOPE, TRANSITIONS, WAITING, Outcome, State


def test_states_and_outcomes_are_their_words() -> None:
    assert [*State] == ["scheduled", "available", "running", "suspect"]
    assert [*Outcome] == ["succeeded", "failed", "expired", "cancelled", "rejected", "uncertain"]
    assert max(len(word) for word in (*State, *Outcome)) <= 12, "the columns hold twelve letters"


def test_waiting_is_scheduled_or_available() -> None:
    assert {state for state in State if state.waiting} == {State.SCHEDULED, State.AVAILABLE} == WAITING


def test_every_state_can_be_reached_and_left_and_outcomes_end() -> None:
    reached = frozenset().union(*TRANSITIONS.values())
    assert set(State) <= reached
    assert set(Outcome) <= reached
    assert set(TRANSITIONS) == {None, *State}
    assert all(TRANSITIONS.values())


def test_nothing_ends_as_succeeded_without_having_run() -> None:
    assert {state for state, ways in TRANSITIONS.items() if Outcome.SUCCEEDED in ways} == {State.RUNNING}


def test_only_what_a_person_may_want_to_retry_keeps_its_envelope() -> None:
    assert {Outcome.FAILED, Outcome.UNCERTAIN, Outcome.REJECTED} == KEEPS_ENVELOPE
