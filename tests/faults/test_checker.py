"""The checker sees what it is there for, and lets pass what at least once allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.checker import Event, Output, Verdict, judge

EVENTS = [Event(id, b"k%d" % (id % 2), 0) for id in range(8)]  # two keys, alternating


def answers(*ids: int) -> list[Output]:
    return [Output(id, 0) for id in ids]


def test_each_event_answered_once_is_no_fault() -> None:
    assert judge(EVENTS, answers(*range(8))) == Verdict()


def test_event_without_an_output_is_lost() -> None:
    assert judge(EVENTS, answers(0, 1, 2, 4, 5, 6, 7)) == Verdict(lost=(3,))


def test_dead_letter_of_a_bad_event_is_its_output() -> None:
    events = [*EVENTS, Event(8, b"k0", 0, poison=True)]
    assert judge(events, [*answers(*range(8)), Output(8, 0, letter=True)]) == Verdict()
    assert judge(events, answers(*range(9))).misjudged == (8,)
    assert judge(EVENTS, [*answers(*range(7)), Output(7, 0, letter=True)]) == Verdict(misjudged=(7,))


def test_each_further_output_of_an_event_is_a_double() -> None:
    """Also when the first one is a dead letter."""
    assert judge(EVENTS, answers(0, 0, 0, *range(1, 8))) == Verdict(doubled=(0, 0))
    events = [*EVENTS, Event(8, b"k0", 0, poison=True)]
    assert judge(events, [*answers(*range(8)), Output(8, 0, letter=True), Output(8, 0, letter=True)]).doubled == (8,)


def test_worker_that_takes_over_may_repeat_from_an_earlier_event_on() -> None:
    """Also one that dies while it repeats."""
    assert judge(EVENTS, answers(0, 1, 2, 3, 4, 5, 2, 3, 2, 3, 4, 5, 6, 7)).reordered == ()


def test_answers_of_a_late_worker_behind_newer_ones_are_reordered() -> None:
    """Whoever keeps the last answer per key holds 2 and 3 until the next event of their keys."""
    assert judge(EVENTS, answers(0, 1, 2, 3, 4, 5, 2, 3, 6, 7)).reordered == (6, 7)
    assert judge(EVENTS, answers(*range(8), 2)).reordered == (2,)


def test_first_answers_in_another_order_are_reordered() -> None:
    """Between keys, no order is promised."""
    assert judge(EVENTS, answers(2, 1, 0, 3, 4, 5, 6, 7)).reordered
    assert judge(EVENTS, answers(1, 0, 3, 2, 5, 4, 7, 6)) == Verdict()


def test_generation_that_goes_backwards_is_seen_per_partition() -> None:
    outputs = [Output(0, 0, generation=1), Output(1, 1, generation=0), Output(2, 0, generation=0), Output(3, 1, generation=1)]
    assert judge([Event(id, b"%d" % id, id % 2) for id in range(4)], outputs).backwards == (2,)


def test_answer_to_nothing_is_strange_and_a_score_of_another_model_is_misscored() -> None:
    assert judge(EVENTS, answers(*range(9))).strange == (8,)
    outputs = [Output(0, 0, model="double@1", factor=2.0), Output(1, 0, model="double@2", factor=2.0)]
    assert judge(EVENTS[:2], outputs, {"double@1": 2.0, "double@2": 3.0}).misscored == (1,)


@given(st.data())
def test_runs_that_begin_at_what_was_committed_lose_and_reorder_nothing(data: st.DataObject) -> None:
    """At least once as it should be: each run goes on from a committed place, which it may move up to where it ends."""
    written: list[int] = []
    committed = 0
    for _ in range(data.draw(st.integers(0, 4))):
        end = data.draw(st.integers(committed, len(EVENTS)))
        written += range(committed, end)
        committed = data.draw(st.integers(committed, end))
    written += range(committed, len(EVENTS))
    verdict = judge(EVENTS, answers(*written))
    assert not verdict.wrong
    assert len(verdict.doubled) == len(written) - len(EVENTS)


@pytest.mark.parametrize("missing", range(8))
def test_one_answer_taken_out_is_lost_wherever_it_is(missing: int) -> None:
    assert judge(EVENTS, answers(*(id for id in range(8) if id != missing))) == Verdict(lost=(missing,))
