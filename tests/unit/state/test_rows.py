"""Rows of a table: of each key the last, or with a history the one of a time, whatever comes in whatever pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock.signature import Tensor
from penstock.state import Change, Rows

COLUMNS = (Tensor("price", "float64"), Tensor("stock", "int64"), Tensor("name", "string"), Tensor("new", "bool"))
KEYS, OWNERS = [b"a", b"b", b"c"], [b"r1", b"r2", b"r3", b"r4"]
NOW = 10_000  # seconds

ROW = st.fixed_dictionaries(
    {
        "price": st.one_of(st.none(), st.floats(-5, 5)),
        "stock": st.one_of(st.none(), st.integers(-(2**62), 2**62)),
        "name": st.one_of(st.none(), st.text(max_size=3)),
        "new": st.one_of(st.none(), st.booleans()),
    }
)
BLANK: dict[str, Any] = dict.fromkeys(one.name for one in COLUMNS)
Given = tuple[Change, dict[str, Any] | None]
CHANGES: st.SearchStrategy[list[Given]] = st.lists(
    st.one_of(
        st.tuples(st.builds(Change, st.sampled_from(OWNERS), st.sampled_from(KEYS), st.integers(0, 60)), ROW),
        st.tuples(st.builds(Change, st.sampled_from(OWNERS), st.none(), st.integers(0, 60)), st.none()),
    ),
    max_size=60,
)


def made(history: int = 0, clock: float = NOW) -> Rows:
    return Rows(COLUMNS, history, lambda: clock)


def put(rows: Rows, changes: Sequence[Given], size: int) -> None:
    """Applies changes in pieces of this size."""
    for at in range(0, len(changes), size):
        some = changes[at : at + size]
        given = [row for _, row in some if row is not None]
        rows.apply([one for one, _ in some], {one.name: np.array([row[one.name] for row in given], object) for one in COLUMNS})


def read(rows: Rows, keys: list[bytes], times: list[int] | None = None) -> list[dict[str, Any] | None]:
    places = rows.find(keys, times)
    found: list[dict[str, Any] | None] = [{} if place >= 0 else None for place in places.tolist()]
    for one in COLUMNS:
        values, there = rows.read(one.name, places)
        assert (values.dtype == object) == (one.dtype == "string")
        for at, row in enumerate(found):
            if row is None:
                assert not there[at]
            else:
                row[one.name] = (values[at] if one.dtype == "string" else values[at].item()) if there[at] else None
    return found


@given(CHANGES, st.integers(1, 9))
def test_the_last_row_of_an_owner_counts(changes: list[Given], size: int) -> None:
    """Of several owners of a key, the one of the latest time; among these, any of them."""
    rows = made()
    put(rows, changes, size)
    last = {one.owner: (one, row) for one, row in changes}
    for key in KEYS:
        having = [(one.time, row) for one, row in last.values() if one.key == key]
        newest = [row for time, row in having if time == max(time for time, _ in having)]
        assert read(rows, [key])[0] in (newest or [None])
    assert len(rows) == sum(one.key is not None for one, _ in last.values())


@example([(Change(b"r1", None, 1), None), (Change(b"r1", None, 2), None), (Change(b"r1", b"a", 0), BLANK)], 1, 1)  # it is forgotten at once
@given(CHANGES, st.integers(1, 9), st.integers(1, 70))
def test_with_a_history_a_key_has_the_row_of_a_time(changes: list[Given], size: int, history: int) -> None:
    """Of equal times the later record counts, a removal is of what was read before. Before the history nothing is promised."""
    rows = made(history)
    put(rows, changes, size)
    for then in range(62):
        having: dict[bytes, list[tuple[int, dict[str, Any] | None]]] = {key: [] for key in KEYS}
        certain = True
        for owner in OWNERS:
            held: list[tuple[int, int, bytes | None, dict[str, Any] | None]] = []
            for at, (one, row) in enumerate(each for each in changes if each[0].owner == owner):
                if one.key is None:
                    held = [each for each in held if each[0] <= one.time]
                held.append((one.time, at, one.key, row))
            certain &= not held or then >= max(one.time for one, _ in changes if one.owner == owner) - history
            before = [each for each in held if each[0] <= then]
            if before and (now := max(before, key=lambda each: each[:2]))[2] is not None:
                having[now[2]].append((now[0], now[3]))
        for key in KEYS if certain else ():
            newest = [row for time, row in having[key] if time == max(time for time, _ in having[key])]
            assert read(rows, [key], [then])[0] in (newest or [None]), (key, then)


def test_rows_may_be_written_in_advance() -> None:
    """What holds now, and what held within the history, stays, however far the newest row is ahead of the clock."""
    day = 86_400_000
    rows = Rows(COLUMNS[:1], 7 * day, lambda: 20 * 86_400)
    for time in (day, 12 * day, 14 * day, 20 * day, 9000 * day):
        rows.apply([Change(b"r", b"a", time)], {"price": np.array([float(time // day)])})
    found = rows.read("price", rows.find([b"a"] * 5, [13 * day, 14 * day, 20 * day, 8999 * day, 9001 * day]))[0]
    assert found.tolist() == [12, 14, 20, 20, 9000]


def test_a_key_that_was_removed_keeps_its_history_among_many_keys() -> None:
    """Also beside a row that is far ahead of the clock."""
    rows = Rows(COLUMNS[:1], 7_000, lambda: 10)
    rows.apply([Change(b"r", b"a", 5_000), Change(b"r", None, 8_000)], {"price": np.array([1.0])})
    others = [Change(b"%d" % number, b"%d" % number, 9_000) for number in range(5_000)]
    rows.apply([*others, Change(b"far", b"far", 2**50)], {"price": np.arange(5_001.0)})
    assert rows.find([b"a", b"a"], [6_000, 8_000]).tolist() == [rows.find([b"a"], [5_000])[0], -1]
    assert rows.find([b"a"], [6_000])[0] >= 0


def test_room_is_used_again_and_texts_go() -> None:
    """What is replaced, or removed for longer than the history, takes no memory."""
    for history in (0, 10):
        rows = Rows((Tensor("price", "float64"), Tensor("name", "string")), history, lambda: NOW)
        for time in range(20_000):
            columns = {"price": np.array([float(time)]), "name": np.array([f"text {time}"], object)}
            rows.apply([Change(b"k%d" % (time % 3), b"k%d" % (time % 3), time)], columns)
            if time % 2:
                rows.apply([Change(b"once %d" % time, b"once", time), Change(b"once %d" % time, None, time)], columns)
        assert len(rows) == 3
        assert rows._size <= 16_384
        assert rows.read("price", rows.find([b"k0", b"k1"], [20_000] * 2 if history else None))[0].tolist() == [19_998.0, 19_999.0]
        assert sum(bool(text) for text in rows._values["name"].tolist()) <= 3 * (history + 2) + (history and 2048)


@pytest.mark.parametrize("history", [0, 1000])
def test_many_keys(history: int) -> None:
    rows, keys = Rows(COLUMNS[:1], history), [b"%d" % number for number in range(20_000)]
    rows.apply([Change(key, key, 0) for key in keys], {"price": np.arange(20_000.0)})
    assert len(rows) == 20_000
    assert rows.read("price", rows.find(keys, [0] * len(keys) if history else None))[0].tolist() == list(range(20_000))
    assert rows.find([b"none"], [0] if history else None).tolist() == [-1]
