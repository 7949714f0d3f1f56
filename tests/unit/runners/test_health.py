"""Alive and ready are computed from a picture of the worker; the watchdog rings for what stands still without an excuse."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from penstock.runners.health import FLIGHT, GROUP, Phase, Picture, Watchdog, explain, health, readiness
from penstock.telemetry.health import Condition
from penstock.transports.kafka.state import PartitionState, SourceState

ZERO, ONE = ("flights", 0), ("flights", 1)
BOUND, FLIGHT_BOUND = 60.0, 90.0


def worker(*partitions: PartitionState, **changes: object) -> Picture:
    """A worker that runs, with these partitions; `changes` are those of its consumer."""
    consumer = SourceState(settled=True, room=True, in_flight=0, answering=True, partitions=partitions)
    return Picture(phase=Phase.RUNNING, sources={"departures": "flights"}, consumer=replace(consumer, **changes))  # type: ignore[arg-type]


def rung(pictures: Iterable[Picture], every: float = 5.0) -> tuple[float, set[object]]:
    """When the watchdog rang first, and for what, over these pictures; the time after the last one, and nothing, if it never did."""
    watchdog, now = Watchdog(BOUND, FLIGHT_BOUND), 0.0
    for picture in pictures:
        watchdog.look(now, picture)
        if stalled := watchdog.stalled():
            return now, set(stalled)
        now += every
    return now, set()


def over_time(picture: Callable[[int], Picture], looks: int = 100) -> tuple[float, set[object]]:
    return rung(picture(look) for look in range(looks))


# -- the watchdog ------------------------------------------------------------------------------------------------------


def test_backlog_that_nobody_takes_rings_after_the_bound() -> None:
    """Fetches are answered, records lie there, and the position stays."""
    at, what = over_time(lambda look: worker(PartitionState(ZERO, 10, end=50, heard=float(look)), PartitionState(ONE, look, end=500)))
    assert (at, what) == (BOUND + 5, {ZERO}), "the clock begins at the second look; the other partition moves"


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(lambda look: worker(PartitionState(ZERO, 10, end=10, heard=float(look))), id="idle, and fetches are answered"),
        pytest.param(lambda look: worker(PartitionState(ZERO, look, end=10_000, heard=1.0)), id="reading"),
        pytest.param(lambda look: worker(PartitionState(ZERO, 10, end=50), settled=False), id="in a rebalance"),
        pytest.param(lambda look: worker(PartitionState(ZERO, 10, end=50, heard=1.0), answering=False), id="the brokers do not answer"),
        pytest.param(lambda look: worker(PartitionState(ZERO, 10, end=50, heard=1.0, leader=False)), id="no leader"),
        pytest.param(lambda look: worker(PartitionState(ZERO, 10, end=50, heard=1.0, slowed=True)), id="slowed"),
        pytest.param(lambda look: worker(), id="a spare"),
        pytest.param(lambda look: Picture(phase=Phase.STARTING, sources={"departures": "flights"}), id="starting"),
        pytest.param(
            lambda look: replace(worker(PartitionState(ZERO, 10, end=50, heard=1.0)), phase=Phase.STOPPING), id="stopping"
        ),
        pytest.param(
            lambda look: replace(worker(PartitionState(ZERO, 10, end=50, heard=1.0), room=False, in_flight=16), progress=look),
            id="back-pressure, and what is in flight goes on",
        ),
        pytest.param(
            lambda look: replace(worker(PartitionState(ZERO, 10, end=50, heard=1.0), room=False, in_flight=16), busy=True),
            id="a slow model within its deadline",
        ),
        pytest.param(
            lambda look: replace(worker(PartitionState(ZERO, 10, end=50, heard=1.0), room=False, in_flight=16), busy=look % 3 == 0),
            id="a slow model, run after run",
        ),
        pytest.param(
            lambda look: worker(PartitionState(ZERO, 10, end=50, heard=1.0), withheld="no heartbeat has succeeded", in_flight=3),
            id="without the lease",
        ),
        pytest.param(
            lambda look: worker(PartitionState(ZERO, 10, end=50, heard=1.0, waits=True), PartitionState(ONE, look, end=200, heard=1.0)),
            id="until the topic that it is joined with catches up",
        ),
    ],
)  # fmt: skip
def test_does_not_ring(picture: Callable[[int], Picture]) -> None:
    assert over_time(picture) == (500.0, set())


def test_work_that_is_withheld_is_alive_not_ready_and_says_why() -> None:
    withheld = worker(PartitionState(ZERO, 10, end=50, heard=1.0), withheld="no commit has succeeded for 15 s")
    assert sources(withheld) == "True idle: no commit has succeeded for 15 s"
    assert Condition("partitions", False, "no commit has succeeded for 15 s") in readiness(withheld)


def test_fetches_that_are_not_answered_ring_without_a_backlog() -> None:
    """As when a task of the client has died: the backlog is as it was when the last fetch was answered."""
    assert over_time(lambda look: worker(PartitionState(ZERO, 10, end=10, heard=1.0))) == (BOUND + 5, {ZERO})


def test_what_is_in_flight_has_a_bound_of_its_own() -> None:
    """Back-pressure is an excuse for the partition, not for what is in flight."""
    stuck = worker(PartitionState(ZERO, 10, end=50, heard=1.0), room=False, in_flight=16)
    assert over_time(lambda look: stuck) == (FLIGHT_BOUND + 5, {FLIGHT})


def test_a_rebalance_that_is_never_completed_rings() -> None:
    """While a topic is made anew, the client can lose its place in the group for ever."""
    watchdog, pending = Watchdog(BOUND, FLIGHT_BOUND, 200.0), worker(settled=False)
    for now in range(0, 200, 5):
        watchdog.look(now, pending)
    assert not watchdog.stalled()
    watchdog.look(200.0, pending)
    assert watchdog.stalled() == {GROUP: 200.0}
    assert "a rebalance has begun and was not completed" in explain(GROUP, 200.0, pending)
    watchdog.look(205.0, worker())
    assert not watchdog.stalled()


def test_a_deleted_topic_rings_whether_its_partitions_are_assigned_or_not() -> None:
    """The group takes the partitions of a topic that is gone away, and the worker would look like a spare."""
    assert over_time(lambda look: worker(missing=("flights",))) == (BOUND, {"flights"})
    assert over_time(lambda look: worker(missing=("flights",), settled=False)) == (BOUND, {"flights"})


def test_a_deleted_output_topic_does_not_ring() -> None:
    assert over_time(lambda look: worker(missing=("predictions",))) == (500.0, set())


def test_an_excuse_in_between_winds_the_clock_again() -> None:
    still = worker(PartitionState(ZERO, 10, end=50, heard=1.0))
    pictures = [still] * 12 + [worker(PartitionState(ZERO, 10, end=50, heard=1.0), settled=False)] + [still] * 12
    assert rung(pictures) == (125.0, set())


def test_a_process_that_was_paused_has_its_whole_bound_again() -> None:
    """SIGSTOP, or a virtual machine that was moved: the monotonic clock went on, and nothing else did."""
    watchdog, still = Watchdog(BOUND, FLIGHT_BOUND), worker(PartitionState(ZERO, 10, end=50, heard=1.0))
    for now in (0, 5, 10, 3600, 3605, 3610, 3640):
        watchdog.look(now, still)
    assert watchdog.stalled() == {}
    watchdog.look(3660, still)
    assert watchdog.stalled() == {ZERO: 60}


def test_explains_what_stands_still() -> None:
    picture = worker(PartitionState(ZERO, 10, end=50), PartitionState(ONE, 7, end=7), in_flight=16)
    assert explain(ZERO, 61.4, picture) == "flights/0 has made no progress at offset 10 for 61 s: 40 records wait"
    assert explain(ONE, 60, picture) == "flights/1 has made no progress at offset 7 for 60 s: fetches are not answered"
    assert explain(FLIGHT, 90, picture) == "none of 16 batches in flight has made progress for 90 s"
    assert explain("flights", 60, picture).startswith("the brokers have had no topic flights for 60 s: it was deleted")


# -- the pages ---------------------------------------------------------------------------------------------------------


def sources(picture: Picture, watchdog: Watchdog | None = None) -> str:
    (one,) = health(picture, watchdog or Watchdog(BOUND, FLIGHT_BOUND)).sources
    return f"{one.holds} {one.detail}"


def test_a_source_states_what_it_does() -> None:
    behind = PartitionState(ZERO, 10, end=50)
    assert sources(Picture(phase=Phase.STARTING, sources={"departures": "flights"})) == "True starting"
    assert sources(worker(behind, PartitionState(ONE, 7, end=9))) == "True reading: 42 records behind in 2 partitions"
    assert sources(worker(behind, room=False)) == "True waiting for acknowledgements: 40 records behind in 1 partitions"
    assert sources(worker(PartitionState(ZERO, 10, end=10))) == "True idle: caught up"
    assert sources(worker(settled=False)) == "True idle: waiting for the group to assign partitions"
    assert sources(worker()) == "True idle: every partition of flights is assigned to another worker"
    assert sources(worker(PartitionState(ZERO, 10, leader=False))) == "True idle: flights/0 has no leader"
    assert sources(worker(behind, answering=False)) == "True the brokers do not answer"


def test_page_shows_a_stall_at_half_of_the_bound() -> None:
    """So that a person, or a probe, can see it before the worker ends."""
    watchdog, still = Watchdog(BOUND, FLIGHT_BOUND), worker(PartitionState(ZERO, 10, end=50, heard=1.0))
    for now in range(0, 31, 5):
        watchdog.look(now, still)
    assert sources(still, watchdog).startswith("True reading")
    watchdog.look(36, still)
    found = health(still, watchdog)
    assert found.liveness() == (
        False,
        {
            "alive": False,
            "stalled": ["departures: flights/0 has made no progress at offset 10 for 31 s: 40 records wait"],
            "sources": {"departures": "flights/0 has made no progress at offset 10 for 31 s: 40 records wait"},
        },
    )
    assert watchdog.stalled() == {}


def missing(picture: Picture) -> list[str]:
    return [f"{one.name}: {one.detail}" for one in readiness(picture) if not one.holds]


def test_ready_with_partitions_and_as_a_spare() -> None:
    assert missing(worker(PartitionState(ZERO, 10))) == []
    assert missing(worker()) == []
    assert [one.detail for one in readiness(worker())] == [
        "running",
        "none: this worker is a spare",
        "folded",
        "warm",
        "restored",
        "known",
        "writable",
    ]


def test_each_condition_of_readiness_gives_its_reason() -> None:
    starting = Picture(phase=Phase.STARTING, sources={"departures": "flights"}, models="being made ready")
    assert missing(starting) == [
        "running: starting",
        "partitions: waiting for the group to assign partitions",
        "models: being made ready",
        "outputs: not connected",
    ]
    assert missing(worker(settled=False)) == ["partitions: waiting for the group to assign partitions"]
    assert missing(worker(answering=False)) == ["outputs: the brokers do not answer"]
    assert missing(worker(missing=("predictions",))) == ["outputs: the brokers have no topic predictions"]
    assert missing(worker(unled=("predictions",))) == ["outputs: predictions has a partition without a leader"]
    assert missing(replace(worker(), control="the control topic cannot be read")) == ["control: the control topic cannot be read"]
    assert missing(replace(worker(), phase=Phase.STOPPING)) == ["running: stopping"]
    waits = replace(worker(PartitionState(ZERO, 10)), schemas={"flights": "flights waits for schema id 7: no answer"})
    assert missing(waits) == ["schemas: flights waits for schema id 7: no answer"]
    assert sources(waits) == "True idle: flights waits for schema id 7: no answer"


def test_backlog_and_seconds_behind() -> None:
    """Nothing is known before the first answer; without a backlog the age of the last record says nothing."""
    assert (PartitionState(ZERO, 10).backlog, PartitionState(ZERO, 10).seconds_behind(100)) == (None, None)
    assert PartitionState(ZERO, 10, end=10, newest=40.0).seconds_behind(100) == 0
    assert PartitionState(ZERO, 10, end=30, newest=40.0).seconds_behind(100) == 60
    assert PartitionState(ZERO, 10, end=30).seconds_behind(100) is None
    assert PartitionState(ZERO, 31, end=30).backlog == 0


def test_partition_that_waits_for_others_shows_on_the_page() -> None:
    picture = worker(PartitionState(ZERO, 10, end=50, heard=1.0, waits=True), PartitionState(ONE, 10, end=10, heard=1.0))
    found = health(picture, Watchdog(BOUND, FLIGHT_BOUND)).liveness().body["sources"]
    assert found == {"departures": "waiting for the topics that it is joined with: 40 records behind in 2 partitions"}


def test_the_partition_that_others_wait_for_rings() -> None:
    waits, stands = PartitionState(ZERO, 10, end=50, heard=1.0, waits=True), PartitionState(ONE, 10, end=50, heard=1.0)
    assert over_time(lambda look: worker(waits, stands))[1] == {ONE}


def test_slowed_partition_is_a_reason_on_both_pages() -> None:
    picture = worker(PartitionState(ZERO, 10, end=50, heard=1.0, slowed=True), PartitionState(ONE, 10, end=10, heard=1.0))
    found = health(picture, Watchdog(BOUND, FLIGHT_BOUND))
    assert found.alive
    assert found.readiness().body["conditions"]["partitions"] == "2 assigned; flights/0 slowed to dead_letter_rate"
    assert found.liveness().body["sources"] == {
        "departures": "reading: 40 records behind in 2 partitions; flights/0 slowed to dead_letter_rate"
    }
