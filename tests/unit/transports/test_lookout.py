"""What a worker concludes from how its brokers and topics look."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from penstock.errors import TopicMissing, TransportUnavailable
from penstock.settings import Settings
from penstock.transports.kafka.lookout import Lookout
from penstock.transports.kafka.metadata import Described
from penstock.transports.kafka.places import MOST, Mark, Places
from tests.clock import Clock

SETTINGS = Settings(brokers="here:9092", broker_timeout=10.0)


def topic(id: str = "a", *leaders: int | None) -> Described:
    return Described(id, dict(enumerate(leaders or (1, 1))))


def test_silence_is_borne_for_as_long_as_the_setting_says() -> None:
    clock = Clock()
    lookout = Lookout(SETTINGS, ["events"], clock=clock)
    lookout.saw({"events": topic()})
    clock.now += 9
    lookout.heard_nothing("refused")
    assert not lookout.fresh
    assert lookout.left == pytest.approx(1.0)
    clock.now += 1
    with pytest.raises(TransportUnavailable, match=r"brokers at here:9092 have not answered for 10 s \(refused\).*--broker-timeout"):
        lookout.heard_nothing("refused")


def test_topic_has_to_be_absent_twice() -> None:
    """One answer may come from a broker that has only just started."""
    clock = Clock()
    lookout = Lookout(SETTINGS, ["events"], clock=clock)
    lookout.saw({"events": topic()})
    lookout.saw({})
    clock.now += lookout.every
    lookout.saw({"events": topic()})
    for _ in range(5):  # at once, as before the first record is read
        lookout.saw({})
    assert lookout.missing() == ("events",)
    clock.now += lookout.every
    with pytest.raises(TopicMissing, match="no topic events any more"):
        lookout.saw({})


def test_topic_is_not_known_before_an_answer_has_shown_it() -> None:
    """Until then, nobody can say whether committed offsets are for this topic or for a former one of its name."""
    lookout = Lookout(SETTINGS, ["events"], ["status"])
    assert not lookout.knows("events")
    lookout.saw({"status": topic()})
    assert not lookout.knows("events")
    assert lookout.knows("not watched")
    lookout.saw({"events": topic("")})
    assert lookout.knows("events"), "brokers before 2.8 give no ids"


def test_topic_with_another_id_is_another_topic() -> None:
    lookout = Lookout(SETTINGS, ["events"])
    lookout.saw({"events": topic("a")})
    with pytest.raises(TopicMissing, match="events was deleted and created again"):
        lookout.saw({"events": topic("b")})


def test_without_ids_a_topic_is_the_same() -> None:
    lookout = Lookout(SETTINGS, ["events"])
    lookout.saw({"events": topic("")})
    lookout.saw({"events": topic("")})
    assert lookout.id_of("events") == ""


def test_topics_of_releases_are_reported_once_and_end_nothing() -> None:
    said: list[str] = []
    clock = Clock()
    lookout = Lookout(SETTINGS, ["events"], ["control"], lost=lambda topic, why: said.append(f"{topic}: {why}"), clock=clock)
    lookout.saw({"events": topic(), "control": topic()})
    for _ in range(4):
        clock.now += lookout.every
        lookout.saw({"events": topic()})
    (one,) = said
    assert "control" in one
    assert "penstock topics create" in one
    assert lookout.missing() == ("control",)


def test_partition_without_a_leader_is_borne_for_as_long_as_the_brokers() -> None:
    clock = Clock()
    lookout = Lookout(SETTINGS, ["events", "scores"], clock=clock)
    needed = [("events", 0), ("scores", 1)]
    lookout.saw({"events": topic(), "scores": topic("s", 1, None)}, needed)
    clock.now += 9
    lookout.saw({"events": topic(), "scores": topic("s", 1, 1)}, needed)  # it has come back
    lookout.saw({"events": topic(), "scores": topic("s", 1, None)}, needed)
    clock.now += 9
    lookout.saw({"events": topic("a", 1, None), "scores": topic("s", 1, None)}, needed)  # nobody here reads events/1
    assert lookout.unled("scores") == [("scores", 1)]
    clock.now += 1
    with pytest.raises(TransportUnavailable, match="scores/1 has had no leader for 10 s"):
        lookout.saw({"events": topic(), "scores": topic("s", 1, None)}, needed)


def test_mark_of_a_commit_is_read_back_and_others_are_none() -> None:
    mark = Mark("0a1b", 12)
    assert Mark.read(str(mark)) == mark
    assert Mark.read(str(Mark("", 3))) == Mark("", 3)
    assert [Mark.read(text) for text in ("", None, "another program's", f"{mark} ")] == [None] * 4
    assert mark.of_another("ff")
    assert not mark.of_another("0a1b")
    assert not mark.of_another("")
    assert not Mark("", 3).of_another("ff")


def named(text: str, position: int) -> set[int]:
    """What the text of a commit says is free, and that it is one of this topic."""
    read = Mark.read(text)
    assert read is not None
    assert read._replace(packed="") == Mark("0a1b", 12)
    return {*read.free(position).tolist()}


@pytest.mark.parametrize("free", [{7}, {8, 9, 12}, set(range(10, 100_000)), set(range(7, 60_000, 2)), {9, 10**12}])
@pytest.mark.parametrize("most", [MOST, 100])
def test_a_commit_says_what_is_free_beyond_it(free: set[int], most: int) -> None:
    """As much as there is room for, from the position on."""
    text = Mark("0a1b", 12).beside(7, np.array(sorted(free)), most)
    assert len(text) <= most + 60
    found = named(text, 7)
    last = max(found, default=0)
    assert found == {one for one in free if one <= last}


def test_random_offsets_are_free_as_far_as_there_is_room() -> None:
    free = np.flatnonzero(np.random.default_rng(1).random(200_000) < 0.5)
    text = Mark("0a1b", 12).beside(0, free)
    assert len(text) <= 4096
    found = named(text, 0)
    last = max(found)
    assert found == {one for one in free.tolist() if one <= last}
    assert len(found) > 5_000


def test_a_commit_says_nothing_of_it_where_there_is_no_room() -> None:
    """A broker may take less beside an offset than is usual: the offset is committed all the same."""
    assert Mark("0a1b", 12).beside(7, np.array([9]), 0) == str(Mark("0a1b", 12))


def test_commits_say_less_after_each_that_a_broker_has_refused_and_at_last_nothing() -> None:
    places = Places(cast(Any, None), Lookout(SETTINGS, ["events"]), start_from="earliest", written=())  # nothing is asked here
    free = np.flatnonzero(np.random.default_rng(1).random(200_000) < 0.5)
    texts = [places.beside("events", 0, free)]
    while places.shorten():
        texts.append(places.beside("events", 0, free))
    assert [len(one) for one in texts] == sorted((len(one) for one in texts), reverse=True)
    assert texts[-1] == str(places.mark("events"))


@pytest.mark.parametrize("packed", ["A", "AAAA", "eJw=", "eJzLSM3JyQcABiwCFQ=="])
def test_what_no_commit_says_is_not_free(packed: str) -> None:
    """A commit of another program may have any text."""
    read = Mark.read(f"penstock topic=0a partitions=1 free={packed}")
    assert read is not None
    assert all(one >= 5 for one in read.free(5))
