"""The laws of the contract (`penstock.stores.base`), each a function of an open store. Every store is tested for all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import count
from typing import Final

import pytest

from penstock.errors import PenstockError
from penstock.stores.base import MISSES, Store, Superseded

_NUMBERS: Final = count()


def _name() -> str:
    """Returns the name of a topology of this test alone."""
    return f"law-{next(_NUMBERS)}"


def _computed(store: Store, topology: str, answers: dict[str, bytes], *, about: str = "a", ttl: int = 0) -> int:
    number = store.begin(topology, about)
    store.write(topology, number, list(answers.items()), ttl)
    store.activate(topology, number, since=12.5, ttl=ttl)
    return number


def answers_are_read_as_they_were_written(store: Store) -> None:
    name, keys = _name(), ["plain", "with blank", "quote'\"", "çok güzel", "a:b/c{d}*?[e]", "x" * 512]
    written = {key: f"answer {at} \0\n☃".encode() for at, key in enumerate(keys)}
    number = _computed(store, name, written)
    read = store.read(name, [*keys, "absent"])
    assert read.live is not None
    assert (read.live.number, read.live.about, read.live.since, read.live.ttl) == (number, "a", 12.5, 0)
    assert list(read.answers) == [*written.values(), None]
    assert dict(store.scan(name, number, 100)) == written
    assert len(list(store.scan(name, number, 4))) == 4
    assert store.read(name, []).live == read.live == store.live(name)


def many_answers_are_read_at_once(store: Store) -> None:
    name = _name()
    written = {f"key {at}": b"%d" % at for at in range(3000)}
    _computed(store, name, written)
    assert list(store.read(name, [*written]).answers) == [*written.values()]


def a_store_without_answers_has_no_generation(store: Store) -> None:
    assert store.live(_name()) is None
    assert store.read(_name(), ["a", "b"]) == (None, [None, None])
    assert store.building(_name()) is None
    assert store.misses(_name()) == {}


def a_generation_that_is_built_is_not_seen(store: Store) -> None:
    name = _name()
    first = _computed(store, name, {"a": b"1", "b": b"1"})
    second = store.begin(name, "b")
    assert second > first
    store.write(name, second, [("a", b"2")])
    assert list(store.read(name, ["a", "b"]).answers) == [b"1", b"1"]
    store.activate(name, second, since=1.0, ttl=7)
    read = store.read(name, ["a", "b"])
    assert read.live is not None
    assert (read.live.number, read.live.about, read.live.ttl, list(read.answers)) == (second, "b", 7, [b"2", None])
    assert not list(store.scan(name, first, 10)), "the older generation is removed"


def a_later_write_of_a_key_wins(store: Store) -> None:
    name = _name()
    number = store.begin(name, "a")
    store.write(name, number, [("a", b"1"), ("b", b"1"), ("a", b"2")])
    store.write(name, number, [("b", b"3"), ("c", b"3")])
    store.write(name, number, [("c", b"3")])
    store.activate(name, number, since=1.0)
    assert list(store.read(name, ["a", "b", "c"]).answers) == [b"2", b"3", b"3"]


def a_run_is_resumed_from_its_progress(store: Store) -> None:
    name = _name()
    number = store.begin(name, "about")
    assert store.building(name) == (number, "about", b"")
    store.keep(name, number, b"halfway \0")
    assert store.building(name) == (number, "about", b"halfway \0")
    store.activate(name, number, since=1.0)
    assert store.building(name) is None


def the_later_of_two_runs_takes_over(store: Store) -> None:
    name = _name()
    live = _computed(store, name, {"a": b"1"})
    first = store.begin(name, "a")
    store.write(name, first, [("a", b"first")])
    second = store.begin(name, "a")
    assert second > first
    with pytest.raises(Superseded):
        store.write(name, first, [("b", b"first")])
    with pytest.raises(Superseded):
        store.keep(name, first, b"x")
    with pytest.raises(Superseded):
        store.activate(name, first, since=1.0)
    assert store.read(name, ["a"]).live == store.live(name)
    assert (store.live(name) or pytest.fail("none is live")).number == live
    store.write(name, second, [("c", b"second")])
    store.activate(name, second, since=1.0)
    assert list(store.read(name, ["a", "b", "c"]).answers) == [None, None, b"second"]
    with pytest.raises(Superseded):
        store.write(name, second, [("c", b"late")])


def an_answer_is_not_read_after_its_time(store: Store) -> None:
    name = _name()
    number = store.begin(name, "a")
    store.write(name, number, [("brief", b"1")], 1)
    store.write(name, number, [("long", b"1")], 3600)
    store.activate(name, number, since=1.0)
    assert _becomes(lambda: list(store.read(name, ["brief", "long"]).answers) == [None, b"1"])


def answers_are_added_to_the_live_generation_only(store: Store) -> None:
    name = _name()
    first = _computed(store, name, {"a": b"1"})
    assert store.add(name, first, [("b", b"2")])
    assert list(store.read(name, ["a", "b"]).answers) == [b"1", b"2"]
    second = _computed(store, name, {"a": b"3"})
    assert not store.add(name, first, [("b", b"4")])
    assert list(store.read(name, ["a", "b"]).answers) == [b"3", None]
    assert store.add(name, second, [("c", b"5")], 1)
    assert _becomes(lambda: list(store.read(name, ["c"]).answers) == [None])


def topologies_do_not_meet(store: Store) -> None:
    one, other = _name(), _name()
    _computed(store, one, {"a": b"1"})
    _computed(store, other, {"a": b"2"})
    store.miss(one, {"k": b"{}"})
    assert (list(store.read(one, ["a"]).answers), list(store.read(other, ["a"]).answers)) == ([b"1"], [b"2"])
    assert store.misses(other) == {}


def misses_are_recorded_once_and_bounded(store: Store) -> None:
    name = _name()
    store.begin(name, "a")
    store.miss(name, {"a": b'{"x": 1}', "b": b"2"})
    store.miss(name, {"c": b"3"})
    assert store.misses(name) == {"a": b'{"x": 1}', "b": b"2", "c": b"3"}
    store.forget(name, ["a", "c"])
    assert store.misses(name) == {"b": b"2"}
    for at in range(0, MISSES + 2000, 1000):
        store.miss(name, {f"key {one}": b"" for one in range(at, at + 1000)})
    assert len(store.misses(name)) == MISSES


def a_read_sees_one_generation(store: Store) -> None:
    """While generations are switched, each read has answers of one of them, all of them, and never an older one than the read before."""
    name, keys = _name(), [f"key {at}" for at in range(40)]
    _computed(store, name, dict.fromkeys(keys, b"0"))
    done, problems = threading.Event(), list[str]()
    reads = [0, 0]

    def look(me: int) -> None:
        newest = 0
        while not done.is_set():
            try:
                read = store.read(name, keys)
            except PenstockError as error:
                problems.append(str(error))
                return
            seen = set(read.answers)
            if len(seen) != 1 or None in seen:
                problems.append(f"a read saw {seen}")
            elif int(next(iter(seen)) or b"") < newest:
                problems.append(f"{seen} after {newest}")
            else:
                newest = int(next(iter(seen)) or b"")
            reads[me] += 1

    readers = [threading.Thread(target=look, args=(me,)) for me in range(2)]
    for reader in readers:
        reader.start()
    for turn in range(1, 11):
        _computed(store, name, dict.fromkeys(keys, b"%d" % turn))
        assert set(store.read(name, keys).answers) == {b"%d" % turn}, "a read that begins after the switch sees it"
        assert _becomes(lambda before=[*reads]: all(now > then for now, then in zip(reads, before, strict=True)) or bool(problems))  # type: ignore[misc]  # the default binds it
    done.set()
    for reader in readers:
        reader.join()
    assert not problems


def _becomes(check: Callable[[], bool], *, within: float = 20.0) -> bool:
    deadline = time.monotonic() + within
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


LAWS: Final[tuple[Callable[[Store], None], ...]] = (
    answers_are_read_as_they_were_written,
    many_answers_are_read_at_once,
    a_store_without_answers_has_no_generation,
    a_generation_that_is_built_is_not_seen,
    a_later_write_of_a_key_wins,
    a_run_is_resumed_from_its_progress,
    the_later_of_two_runs_takes_over,
    an_answer_is_not_read_after_its_time,
    answers_are_added_to_the_live_generation_only,
    topologies_do_not_meet,
    misses_are_recorded_once_and_bounded,
    a_read_sees_one_generation,
)
