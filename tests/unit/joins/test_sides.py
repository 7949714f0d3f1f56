"""One side of a match: which rows are partners, which are over, and that a copy of it goes on as it would have."""

from __future__ import annotations

import pytest

from penstock.joins.sides import Row, Side
from penstock.record import Record

MANY = 1 << 40


def row(offset: int, time: int, *, value: bytes = b"v") -> Row:
    return Row.of(Record("orders", value, b"k", [("h", None)], 7, 3, offset), time)


def side(*rows: tuple[bytes, int]) -> Side:
    made = Side("s", 10)
    for offset, (key, time) in enumerate(rows):
        made.add(key, row(offset, time))
    made.advance(len(rows) - 1, max(time for _, time in rows))
    return made


def offsets(found: tuple[list[Row], list[Row]]) -> tuple[list[int], list[int]]:
    over, evicted = found
    return [one.offset for one in over], [one.offset for one in evicted]


def test_a_row_is_the_record_that_it_came_in() -> None:
    record = Record("orders", None, None, [("h", b"1"), ("h", None)], 7, 3, 5)
    assert Row.of(record, 1).record("orders", 3) == record


def test_partners_are_of_the_key_and_in_time() -> None:
    found = side((b"a", 5), (b"b", 5), (b"a", 3), (b"a", 9))
    assert [one.offset for one in found.partners(b"a", 3, 5)] == [0, 2]
    assert found.partners(b"c", 0, 9) == []


def test_a_mark_is_of_its_row_alone() -> None:
    found = side((b"a", 5), (b"a", 6))
    found.mark(b"a", found.partners(b"a", 6, 6))
    assert [one.matched for one in found.partners(b"a", 0, 9)] == [False, True]
    assert found.counts(b"a", 1)
    assert not found.counts(b"a", 2)


def test_rows_go_when_their_end_is_passed_in_the_order_of_their_ends() -> None:
    found = side((b"a", 5), (b"b", 3), (b"a", 1), (b"a", 9))
    assert not found.due(11, MANY), "the end is inclusive"
    assert offsets(found.over(14, MANY, 100)) == ([2, 1], [])
    assert offsets(found.over(100, MANY, 1)) == ([0, 3], []), "rows of one key go together"
    assert (len(found), found.due(MANY, 0)) == (0, False)


def test_more_keys_than_allowed() -> None:
    found = side((b"a", 5), (b"b", 3), (b"c", 4))
    assert offsets(found.over(0, 1, 100)) == ([], [1, 2])
    assert offsets(found.over(0, 1, 100)) == ([], [])


@pytest.mark.parametrize("how", ["changelog", "snapshot"])
def test_a_copy_goes_on_as_the_original(how: str) -> None:
    found, copy = side((b"a", 5), (b"b", 3), (b"a", 1)), Side("s", 10)
    entries = [*found.checkpoint()]
    found.mark(b"b", found.partners(b"b", 3, 3))
    entries += found.checkpoint()
    if how == "changelog":
        copy.restore(entries)
    else:
        copy.load(found.columns())
    assert copy.standing == found.standing
    assert copy.partners(b"b", 0, 9) == found.partners(b"b", 0, 9)
    assert copy.over(14, MANY, 100) == found.over(14, MANY, 100)
    copy.reset()
    assert not copy.due(MANY, 0)


def test_bytes_of_something_else_are_refused() -> None:
    ((key, value), standing) = side((b"a", 5)).checkpoint()
    assert value is not None
    for bad in (value[:-1], value[:20]):
        with pytest.raises(ValueError, match="end early"):
            Side("s", 10).restore([(key, bad), standing])
