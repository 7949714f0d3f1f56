"""The table of a release's states: whole, and without a way round a check."""

from __future__ import annotations

import pytest

from penstock.control.lifecycle import ENDS, MOVES, PREPARING, State, move
from penstock.errors import ControlError

PATHS = [
    *zip(PREPARING, (*PREPARING[1:], State.READY), strict=True),
    *((State.READY, State.LIVE), (State.LIVE, State.PREVIOUS), (State.READY, State.CANDIDATE), (State.CANDIDATE, State.LIVE)),
]


def reachable(begin: State, *without: State) -> set[State]:
    """The states after `begin`, on ways that do not lead through those `without`."""
    found, left = set[State](), [begin]
    while left:
        here = left.pop()
        new = {there for there in MOVES[here] if there not in without} - found
        found |= new
        left += new
    return found


def test_every_state_has_its_row_and_is_reached() -> None:
    assert set(MOVES) == set(State)
    assert reachable(State.ANNOUNCED) >= set(State) - {State.ANNOUNCED}


@pytest.mark.parametrize(("here", "there"), [*PATHS, (State.ANNOUNCED, State.READY), (State.PREVIOUS, State.RETIRED)])
def test_way_of_a_release_is_legal(here: State, there: State) -> None:
    assert move(here, there) is there


@pytest.mark.parametrize("here", [*PREPARING, State.READY])
@pytest.mark.parametrize("there", [State.FAILED, State.ABORTED, State.STALE])
def test_release_can_be_given_up_until_it_is_live(here: State, there: State) -> None:
    assert move(here, there) is there


def test_nothing_is_live_that_was_not_ready() -> None:
    """Nor is there another way to be ready than through every check, but for what is loaded still."""
    assert [here for here in State if State.LIVE in MOVES[here]] == [State.READY, State.CANDIDATE]
    assert [here for here in State if State.CANDIDATE in MOVES[here]] == [State.READY]
    assert State.LIVE not in reachable(State.ANNOUNCED, State.READY)
    for skipped in PREPARING[2:]:
        assert State.READY not in reachable(State.FETCHING, skipped, State.ANNOUNCED)


@pytest.mark.parametrize("here", [State.ABORTED, State.STALE, State.RETIRED])
def test_end_is_an_end(here: State) -> None:
    assert here in ENDS
    assert not MOVES[here]


@pytest.mark.parametrize("there", [State.ABORTED, State.STALE, State.RETIRED])
def test_trial_of_a_candidate_can_end(there: State) -> None:
    assert move(State.CANDIDATE, there) is there


def test_what_is_live_is_not_given_up_but_followed() -> None:
    assert MOVES[State.LIVE] == {State.PREVIOUS}


def test_illegal_move_names_both_states() -> None:
    with pytest.raises(ControlError, match="a release that is retired cannot become live") as caught:
        move(State.RETIRED, State.LIVE)
    assert caught.value.code == "illegal-move"
