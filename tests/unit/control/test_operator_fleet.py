"""Who is live, who is lost, and since when somebody scores with a generation: told by the brokers' stamps."""

from __future__ import annotations

import pytest

from penstock.control.fleet import FORGET_S, BrokerClock, Fleet, silence_after
from penstock.control.status import Boundary, encode, key_of
from penstock.transports.kafka.journal import Entry
from tests.unit.control.fleets import status, word

NOW = 1_700_000_000_000


class Wall:
    """A clock that stands still until it is set; Unix time in ms."""

    def __init__(self, ms: int = NOW) -> None:
        self.ms = ms

    def __call__(self) -> float:
        return self.ms / 1000


def fleet(wall: Wall) -> Fleet:
    return Fleet(10.0, BrokerClock(wall))


@pytest.mark.parametrize(("interval", "silence"), [(0.1, 10), (2, 10), (4, 20), (60, 300)])
def test_worker_is_lost_after_five_words_that_did_not_come_and_ten_seconds(interval: float, silence: float) -> None:
    assert silence_after(interval) == silence


def test_worker_is_live_until_it_was_silent_too_long_and_then_lost_and_then_forgotten() -> None:
    wall = Wall()
    made = fleet(wall)
    made.apply(word(status("a"), NOW))
    wall.ms = NOW + 10_000
    assert [one.live for one in made.workers()] == [True]
    wall.ms += 1
    assert [one.live for one in made.workers()] == [False]
    assert made.live() == []
    wall.ms = NOW + int(FORGET_S * 1000)
    assert len(made.workers()) == 1
    wall.ms += 1
    assert made.workers() == []


def test_worker_that_stops_takes_its_record_away() -> None:
    made = fleet(Wall())
    made.apply(word(status("a"), NOW))
    made.apply(word(status("b"), NOW))
    made.apply(Entry(2, NOW, True, b"worker/a", None))
    assert [one.name for one in made.workers()] == ["b"]


def test_host_whose_clock_is_an_hour_ahead_buries_nobody_once_it_has_heard_a_word() -> None:
    wall = Wall(NOW + 3_599_000)
    made = fleet(wall)
    made.apply(word(status("a"), NOW - 1000))
    made.apply(word(status("b"), NOW))
    assert made.live() == []
    made.clock.heard(NOW)
    assert [one.name for one in made.live()] == ["a", "b"]
    wall.ms += 10_001
    assert made.live() == []


def test_host_whose_clock_is_behind_does_not_keep_the_dead_alive() -> None:
    """The newest stamp is a time that has certainly come."""
    made = fleet(Wall(NOW - 3_600_000))
    made.apply(word(status("a"), NOW))
    made.apply(word(status("b"), NOW + 10_001))
    assert [one.name for one in made.live()] == ["b"]


def test_first_word_with_a_generation_is_remembered_and_what_came_before_it() -> None:
    made = fleet(Wall(NOW + 40))
    for offset, (generation, at) in enumerate([(4, NOW), (4, NOW + 10), (5, NOW + 20), (5, NOW + 30)]):
        made.apply(word(status("a", generation=generation), at, offset))
    (found,) = made.workers()
    assert (found.generation, found.came_from, found.since_ms, found.said_ms) == (5, 4, NOW + 20, NOW + 30)


def test_worker_that_was_never_seen_with_another_generation_has_no_time_of_switching() -> None:
    made = fleet(Wall())
    made.apply(word(status("a", generation=5), NOW))
    assert made.workers()[0].came_from is None


def test_boundaries_are_told_in_order_and_may_be_taken_away() -> None:
    made = fleet(Wall())
    first, second, other = (
        Boundary(topic="t", partition=partition, offset=offset, generation=1, worker="a", time="")
        for partition, offset in ((0, 9), (0, 10), (1, 0))
    )
    for one in (other, second, first):
        made.apply(word(one, NOW))
    assert made.boundaries() == [first, second, other]
    made.apply(Entry(9, NOW, True, b"boundary/t/0/9", None))
    assert made.boundaries() == [second, other]


def test_boundary_of_a_worker_that_was_killed_gives_way_to_those_of_who_went_on_in_its_place() -> None:
    """`a` had scored from 150 on with generation 4, but committed up to 120 only, from where `b` goes on with generation 5."""
    made = fleet(Wall())
    said = [(0, 100, 3, "a"), (0, 150, 4, "a"), (0, 120, 5, "b"), (1, 90, 3, "a"), (1, 110, 3, "b")]
    for at, (partition, offset, generation, worker) in enumerate(said):
        boundary = Boundary(topic="t", partition=partition, offset=offset, generation=generation, worker=worker, time="")
        made.apply(Entry(at, NOW, True, key_of(boundary), encode(boundary)))
    assert [(one.partition, one.offset, one.generation) for one in made.boundaries()] == [(0, 100, 3), (0, 120, 5), (1, 90, 3), (1, 110, 3)]


def test_boundary_of_a_worker_that_fell_back_is_told() -> None:
    """`b` took the partition over from `a`, and cannot serve generation 5: what its outputs say is in the history, too."""
    made = fleet(Wall())
    for at, (offset, generation, worker) in enumerate([(100, 5, "a"), (150, 4, "b")]):
        boundary = Boundary(topic="t", partition=0, offset=offset, generation=generation, worker=worker, time="")
        made.apply(Entry(at, NOW, True, key_of(boundary), encode(boundary)))
    assert [(one.offset, one.generation) for one in made.boundaries()] == [(100, 5), (150, 4)]


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        (b"worker/a", b"{", "malformed"),
        (b"worker/a", b"\xff\xfe", "malformed"),
        (b"worker/b", word(status("a"), NOW).value, "wrong-key"),
        (None, word(status("a"), NOW).value, "wrong-key"),
        (b"worker/a", b'{"kind": "worker", "version": 9}', "newer"),
    ],
)
def test_what_is_no_status_is_counted_and_changes_nothing(key: bytes | None, value: bytes, code: str) -> None:
    made = fleet(Wall())
    made.apply(Entry(0, NOW, True, key, value))
    assert (made.workers(), made.strange) == ([], {code: 1})
    assert made.last_strange


def test_key_that_nobody_used_may_be_taken_away() -> None:
    made = fleet(Wall())
    made.apply(Entry(0, NOW, True, None, None))
    made.apply(Entry(1, NOW, True, b"\xff", None))
    assert (made.workers(), made.boundaries()) == ([], [])
