"""Who is live, who is lost, and since when somebody scores with a generation: told by the brokers' stamps."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from penstock.control.fleet import FORGET_S, BrokerClock, Fleet, silence_after
from penstock.control.status import Boundary, Place, Progress, encode, key_of
from penstock.control.trust.member import Group, Identity, Shown
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


@pytest.mark.parametrize(
    ("live", "silent_ms", "replaced"),
    [
        ({"t/0": Place(position=0), "t/1": Place(position=0)}, 60_001, True),
        ({"t/0": Place(position=0), "t/1": Place(position=0)}, 60_000, False),
        ({"t/1": Place(position=0)}, 60_001, False),
        (None, 60_001, False),
    ],
    ids=["a minute after its partitions were taken", "not at once", "a partition of it has nobody", "there is nobody"],
)
def test_lost_worker_is_replaced_when_live_ones_have_its_partitions(live: dict[str, Place] | None, silent_ms: int, replaced: bool) -> None:
    wall = Wall()
    made = fleet(wall)
    made.apply(word(status("a", partitions={"t/0": Place(position=0)}), NOW))
    if live is not None:
        made.apply(word(status("b", partitions=live), NOW + silent_ms))
    wall.ms = NOW + silent_ms
    (lost,) = [one for one in made.workers() if not one.live]
    assert made.replaced(lost) is replaced


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


def test_record_that_the_broker_has_not_stamped_sets_no_clock_and_is_no_later_than_now() -> None:
    """On a topic with the writers' times: one from tomorrow loses no worker, and is not live until then."""
    wall = Wall()
    made = fleet(wall)
    assert made.stamped
    made.apply(word(status("a"), NOW)._replace(stamped=False))
    made.apply(word(status("b"), NOW + 86_400_000)._replace(stamped=False))
    assert (made.stamped, made.clock.now_ms()) == (False, NOW)
    assert [one.name for one in made.live()] == ["a", "b"]
    wall.ms += 10_001
    assert made.live() == []
    made.apply(word(status("c"), NOW + 20_000))
    assert (made.stamped, made.clock.now_ms()) == (True, NOW + 20_000)


# --- whose word counts, once the group is known -----------------------------------------------------------------------

REAL = Identity.new("real")


def group(*members: Identity, plain: int = 0) -> Group:
    return Group.of([*(one.shown for one in members), *(["http://here:6066"] * plain)])


def signed(at: int, number: int, by: Identity = REAL, name: str = "real", **fields: Any) -> Entry:
    said = msgspec.structs.replace(status(name, **fields), number=number)
    return word(said, at)._replace(signature=by.sign(encode(said)))


def attested(*members: Identity, plain: int = 0) -> Fleet:
    made = fleet(Wall())
    made.attest(group(*members, plain=plain))
    return made


def live(made: Fleet) -> list[tuple[str, int]]:
    return [(one.name, one.generation) for one in made.live()]


def test_report_of_no_member_is_shown_and_does_not_count() -> None:
    made = attested(REAL)
    made.apply(signed(NOW, 1))
    made.apply(word(status("ghost"), NOW))
    assert live(made) == [("real", 0)]
    assert {one.name: one.member for one in made.workers()} == {"real": True, "ghost": False}


def test_worker_that_starts_is_a_member_without_a_report_or_a_report_without_a_member() -> None:
    """An old report of no member is one that has left, or of a killed worker."""
    other = Identity.new("other")
    made = attested(REAL, other)
    assert made.starting() == ["real", "other"]
    made.apply(signed(NOW, 1))
    made.apply(word(status("joining"), NOW))
    made.apply(word(status("gone"), NOW - 60_000))
    assert made.starting() == ["other", "joining"]
    assert fleet(Wall()).starting() == [], "without the members, every report counts"


def test_report_in_the_name_of_a_member_does_not_count_and_does_not_hide_its_own() -> None:
    """Unsigned, signed by another, cut, with a failure or a word that it is ready; a delete; and its own record once more."""
    made = attested(REAL)
    own = signed(NOW, 1)
    made.apply(own)
    lie = Progress(id="r", state="failed")
    later = signed(NOW, 2)
    made.apply(later)
    for forged in (
        word(status("real", releases=[lie]), NOW),
        signed(NOW, 99, Identity.new("real"), releases=[lie]),
        word(status("real", releases=[lie], generation=7), NOW)._replace(signature=later.signature),
        later._replace(signature=later.signature[:-2]),
        later._replace(signature=b"..."),
        Entry(5, NOW, True, b"worker/real", None),
        own,
        signed(NOW, 3, Identity("ghost", REAL.key), "ghost", releases=[lie]),
    ):
        made.apply(forged)
    assert live(made) == [("real", 0)]
    assert made.live()[0].status.releases == []
    assert made.strange["forged"] == 1, "what has an old number is not looked at"
    made.apply(signed(NOW, 3, generation=1))
    assert live(made) == [("real", 1)]
    assert made.live()[0].came_from == 0


def test_old_worker_without_an_identity_counts_while_the_group_has_such_a_member() -> None:
    made = attested(REAL, plain=1)
    made.apply(signed(NOW, 1))
    made.apply(word(status("old", reads=1), NOW))
    assert live(made) == [("old", 0), ("real", 0)]
    made.attest(group(REAL))
    assert live(made) == [("real", 0)]


def test_every_report_counts_when_the_group_is_not_known() -> None:
    made = fleet(Wall())
    made.apply(signed(NOW, 1))
    made.apply(word(status("b"), NOW))
    assert live(made) == [("b", 0), ("real", 0)]


def test_worker_that_leaves_the_group_is_lost_until_it_takes_its_record_away() -> None:
    made = attested(REAL)
    made.apply(signed(NOW, 1))
    assert live(made) == [("real", 0)]
    made.attest(group())
    assert [(one.name, one.live, one.member) for one in made.workers()] == [("real", False, True)], "it is lost, and no stranger"
    made.apply(Entry(5, NOW, True, b"worker/real", None))
    assert made.workers() == []


def test_report_from_tomorrow_does_not_push_out_those_that_a_member_has_signed() -> None:
    made = attested(REAL)
    made.apply(signed(NOW, 1)._replace(stamped=False))
    made.apply(signed(NOW + 86_400_000, 2, Identity.new("real"))._replace(stamped=False))
    assert live(made) == [("real", 0)]


@pytest.mark.parametrize("known", [True, False], ids=["the group is known", "the group is not known"])
def test_reports_in_ever_new_names_are_forgotten(known: bool) -> None:
    """A command may run for days: here for eight hours, with 20 new names in five minutes."""
    made = attested(REAL) if known else fleet(Wall())
    one, held = signed(NOW, 1), []
    made.apply(one)
    tracemalloc.start()
    try:
        for turn in range(96):
            for name in range(20):
                made.apply(word(status(f"{turn}-{name}"), NOW + turn * 300_000)._replace(signature=one.signature))
            made.workers()
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held[-1] < held[24] * 1.5
    made.apply(signed(NOW + 96 * 300_000, 2))
    assert ("real", 0) in live(made)


def test_boundary_is_proven_by_the_signature_of_a_member() -> None:
    made = attested(REAL)
    for at, by in enumerate((REAL, Identity.new("real"))):
        boundary = Boundary(topic="t", partition=0, offset=at, generation=at, worker="real", time="")
        made.apply(word(boundary, NOW)._replace(signature=by.sign(encode(boundary))))
    assert [made.proven(one) for one in made.boundaries()] == [True, False]


@given(st.text(max_size=40))
def test_identity_is_shown_and_read_for_every_name(name: str) -> None:
    """A static member's name is any text; and what the host makes of it (a URL) stays the same text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return
    one = Identity.new(name)
    assert Shown.parse(one.shown) == Shown(name, one.key.public)
    assert str(URL(one.shown)) == one.shown


@given(st.text() | st.text().map("penstock://worker/".__add__))
def test_any_other_text_shows_nothing(text: str) -> None:
    assert Shown.parse(text) is None
