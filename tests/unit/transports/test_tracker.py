"""The rules of positions, one after the other; `tests/properties/test_tracker.py` tries them in any order."""

from __future__ import annotations

import subprocess
import sys

import pytest

from penstock.transports.tracker import Tracker

TP = ("t", 0)
OTHER = ("t", 1)


@pytest.fixture
def tracker() -> Tracker:
    made = Tracker()
    made.assign({TP: 10, OTHER: 0})
    return made


def test_batch_is_taken_from_the_expected_position_only(tracker: Tracker) -> None:
    tracker.take(TP, 10, 15)
    assert tracker.expected(TP) == 15
    for start, end in ((10, 15), (14, 20), (16, 20), (15, 15), (15, 12)):
        with pytest.raises(ValueError, match=rf"took \[{start}, {end}\), expected 15"):
            tracker.take(TP, start, end)
    assert tracker.expected(TP) == 15
    assert tracker.in_flight == 1


def test_partition_that_is_not_ours_is_not_taken(tracker: Tracker) -> None:
    assert tracker.expected(("t", 2)) is None
    with pytest.raises(ValueError, match="expected nothing: it is not assigned"):
        tracker.take(("t", 2), 0, 1)


def test_nothing_behind_an_unfinished_batch_may_be_committed(tracker: Tracker) -> None:
    """Batches finish in any order; the first one under way holds back all behind it."""
    first, second, third = (tracker.take(TP, start, start + 5) for start in (10, 15, 20))
    tracker.finish(third)
    tracker.finish(second)
    assert tracker.committable() == {}
    tracker.finish(first)
    assert tracker.committable() == {TP: 25}


def test_gap_is_part_of_what_was_read_across_it(tracker: Tracker) -> None:
    """Transaction markers and compacted records are no reason to wait: their positions are finished at once."""
    tracker.skip(OTHER, 0, 3)
    assert tracker.committable() == {OTHER: 3}
    span = tracker.take(OTHER, 3, 5)
    tracker.skip(OTHER, 5, 9)
    assert (tracker.expected(OTHER), tracker.committable()) == (9, {OTHER: 3})
    tracker.finish(span)
    assert tracker.committable() == {OTHER: 9}


def test_what_is_committed_is_no_longer_committable(tracker: Tracker) -> None:
    tracker.finish(tracker.take(TP, 10, 15))
    tracker.committed({TP: 15}, tracker.epoch)
    assert tracker.committable() == {}
    tracker.finish(tracker.take(TP, 15, 16))
    assert tracker.committable() == {TP: 16}


def test_answers_to_commits_may_come_in_any_order(tracker: Tracker) -> None:
    tracker.finish(tracker.take(TP, 10, 20))
    tracker.committed({TP: 20}, tracker.epoch)
    tracker.committed({TP: 15}, tracker.epoch)
    assert tracker.committable() == {}


def test_finish_of_an_earlier_assignment_changes_nothing(tracker: Tracker) -> None:
    """The partition was away and came back: what was under way is read again, and only that counts."""
    late = tracker.take(TP, 10, 15, size=100)
    tracker.revoke()
    assert (tracker.partitions, tracker.in_flight, tracker.in_flight_bytes) == ((), 0, 0)
    tracker.assign({TP: 10})
    again = tracker.take(TP, 10, 12, size=40)
    tracker.finish(late)
    assert (tracker.committable(), tracker.in_flight, tracker.in_flight_bytes) == ({}, 1, 40)
    tracker.finish(again)
    assert tracker.committable() == {TP: 12}


def test_commit_of_an_earlier_assignment_changes_nothing(tracker: Tracker) -> None:
    epoch = tracker.epoch
    tracker.assign({TP: 10})
    tracker.committed({TP: 99, OTHER: 99}, epoch)
    tracker.finish(tracker.take(TP, 10, 12))
    assert tracker.committable() == {TP: 12}


def test_batch_of_an_earlier_assignment_is_not_started(tracker: Tracker) -> None:
    span, late = tracker.take(TP, 10, 15), tracker.take(OTHER, 0, 1)
    assert tracker.begin(span)
    assert tracker.working == 1
    tracker.assign({TP: 10})
    assert not tracker.begin(late)
    assert tracker.working == 0


def test_drain_waits_for_what_was_started(tracker: Tracker) -> None:
    """A batch that waits in a queue is left to whoever reads it next."""
    started, waiting = tracker.take(TP, 10, 15), tracker.take(TP, 15, 16)
    tracker.begin(started)
    assert (tracker.working, tracker.in_flight) == (1, 2)
    tracker.finish(started)
    assert (tracker.working, tracker.in_flight, waiting.finished) == (0, 1, False)


def test_second_finish_of_a_batch_changes_nothing(tracker: Tracker) -> None:
    span = tracker.take(TP, 10, 15, size=7)
    tracker.finish(span)
    tracker.finish(span)
    assert (tracker.in_flight, tracker.in_flight_bytes) == (0, 0)


def test_tracker_knows_no_kafka() -> None:
    """It is pure: importing it brings along neither the client nor Faust."""
    script = "import sys, penstock.transports.tracker; print(*{name.partition('.')[0] for name in sys.modules})"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert {"faust", "aiokafka", "confluent_kafka", "mode", "numpy"}.isdisjoint(shown.stdout.split())


def test_a_place_that_the_broker_does_not_know_yet_is_committable_before_the_first_event() -> None:
    tracker = Tracker()
    tracker.assign({TP: 7, OTHER: 3}, {TP})
    assert tracker.committable() == {TP: 7}
    tracker.committed({TP: 7}, tracker.epoch)
    assert tracker.committable() == {}


def test_a_drain_lets_nothing_more_start_until_the_next_assignment() -> None:
    tracker = Tracker()
    tracker.assign({TP: 0})
    tracker.drain()
    assert not tracker.begin(tracker.take(TP, 0, 1))
    assert tracker.working == 0
    tracker.assign({TP: 0})
    assert tracker.begin(tracker.take(TP, 0, 1))


def test_what_is_not_stored_is_counted_from_the_position_that_is() -> None:
    tracker = Tracker()
    tracker.assign({TP: 100, OTHER: 0}, fresh={TP})
    assert tracker.uncommitted == 0
    tracker.take(TP, 100, 150).finish()
    span = tracker.take(OTHER, 0, 10)
    assert tracker.uncommitted == 60
    tracker.committed(tracker.committable(), tracker.epoch)
    assert tracker.uncommitted == 10
    span.finish()
    tracker.committed(tracker.committable(), tracker.epoch)
    assert tracker.uncommitted == 0
    assert tracker.committable() == {}


def test_a_span_is_held_while_its_assignment_and_the_lease_hold() -> None:
    tracker, holds = Tracker(), [True]
    tracker.lease = lambda: holds[0]
    tracker.assign({TP: 0})
    span = tracker.take(TP, 0, 1)
    assert span.held
    holds[0] = False
    assert (span.held, span.current) == (False, True)
    holds[0] = True
    tracker.revoke()
    assert (span.held, span.current) == (False, False)
