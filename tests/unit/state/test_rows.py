"""Rows of a table: of each key the last, or with a history the one of a time, whatever comes in whatever pieces."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.signature import Tensor
from penstock.state import Rows

COLUMNS = (Tensor("price", "float64"), Tensor("stock", "int64"), Tensor("name", "string"), Tensor("new", "bool"))
KEYS = [b"a", b"b", b"c"]
Row = tuple[bytes, int, dict[str, Any] | None]  # key, time, and the row; None removes it

ROW = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {
            "price": st.one_of(st.none(), st.floats(-5, 5)),
            "stock": st.one_of(st.none(), st.integers(-(2**62), 2**62)),
            "name": st.one_of(st.none(), st.text(max_size=3)),
            "new": st.one_of(st.none(), st.booleans()),
        }
    ),
)
CHANGES = st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 60), ROW), max_size=60)


def put(rows: Rows, changes: list[Row], size: int) -> None:
    """Applies changes in pieces of this size, each removal for itself."""
    at = 0
    while at < len(changes):
        key, time, row = changes[at]
        if row is None:
            rows.remove(key, time)
            at += 1
            continue
        end = at
        while end < min(at + size, len(changes)) and changes[end][2] is not None:
            end += 1
        some = changes[at:end]
        columns = {one.name: np.array([(row or {})[one.name] for _, _, row in some], object) for one in COLUMNS}
        rows.put([key for key, _, _ in some], [time for _, time, _ in some], columns)
        at = end


def read(rows: Rows, keys: list[bytes], times: list[int] | None = None) -> list[dict[str, Any] | None]:
    places = rows.find(keys, times)
    found: list[dict[str, Any] | None] = [{} if place >= 0 else None for place in places.tolist()]
    for one in COLUMNS:
        values, there = rows.read(one.name, places)
        assert (values.dtype == object) == (one.dtype == "string")
        for at, row in enumerate(found):
            if row is not None:
                row[one.name] = values[at].item() if there[at] and one.dtype != "string" else values[at] if there[at] else None
            else:
                assert not there[at]
    return found


@given(CHANGES, st.integers(1, 9))
def test_the_last_row_of_a_key_counts(changes: list[Row], size: int) -> None:
    rows, last = Rows(COLUMNS), dict.fromkeys(KEYS)
    put(rows, changes, size)
    for key, _, row in changes:
        last[key] = row
    assert read(rows, KEYS) == [last[key] for key in KEYS]
    assert len(rows) == sum(row is not None for row in last.values())


@given(CHANGES, st.integers(1, 9), st.integers(1, 70))
def test_with_a_history_a_key_has_the_row_of_a_time(changes: list[Row], size: int, history: int) -> None:
    """Of equal times the later record counts. Before the history nothing is promised."""
    rows = Rows(COLUMNS, history)
    put(rows, changes, size)
    for key in KEYS:
        of_key = [(time, at, row) for at, (each, time, row) in enumerate(changes) if each == key]
        newest = max((time for time, _, _ in of_key), default=0)
        for then in range(max(newest - history, 0), 62):
            before = [(time, at, row) for time, at, row in of_key if time <= then]
            assert read(rows, [key], [then]) == [max(before, key=lambda one: one[:2])[2] if before else None], (key, then)


def test_room_is_used_again() -> None:
    """What is replaced, or removed for longer than the history, takes no memory."""
    for history in (0, 10):
        rows = Rows(COLUMNS[:1], history)
        for time in range(50_000):
            rows.put([b"k%d" % (time % 3)], [time], {"price": np.array([float(time)])})
            if time % 2:
                rows.put([b"once %d" % time], [time], {"price": np.array([1.0])})
                rows.remove(b"once %d" % time, time)
        assert len(rows) == 3
        assert sum(values.nbytes for values in rows._values.values()) <= 8 * 16_384
        assert read_price(rows, [b"k0", b"k1"], 50_000) == [49_998.0, 49_999.0]


def read_price(rows: Rows, keys: list[bytes], time: int) -> list[float]:
    return list(rows.read("price", rows.find(keys, [time] * len(keys)))[0].tolist())


@pytest.mark.parametrize("history", [0, 1000])
def test_many_keys(history: int) -> None:
    rows, keys = Rows(COLUMNS[:1], history), [b"%d" % number for number in range(20_000)]
    rows.put(keys, [0] * len(keys), {"price": np.arange(20_000.0)})
    assert len(rows) == 20_000
    assert read_price(rows, keys, 0) == list(range(20_000))
    assert rows.find([b"none"], [0]).tolist() == [-1]
