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


Found = list[tuple[bytes, Row]]


def offsets(found: tuple[Found, Found]) -> tuple[list[int], list[int]]:
    over, evicted = found
    return [one.offset for _, one in over], [one.offset for _, one in evicted]


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


def test_rows_in_descending_time_cost_no_more_than_in_ascending(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each new first end of a key leaves an old one in the heap: it is passed over, and changes nothing."""
    found = side((b"a", 5_000))
    assert not found.due(0, MANY)
    for offset, time in enumerate(range(4_999, 4_000, -1), 1):
        found.add(b"a", row(offset, time))
    puts: list[int] = []

    def put(key: bytes, value: bytes, *, offset: int, time: int) -> None:
        puts.append(offset)
        Side.put(found, key, value, offset=offset, time=time)

    monkeypatch.setattr(found, "put", put)
    gone = []
    for read_to in range(4_500, 6_001, 50):
        gone += offsets(found.over(read_to, MANY, 10_000))[0]
    assert sorted(gone) == [*range(1_000)]
    assert len(puts) <= 31


def test_rows_that_are_put_back_go_again() -> None:
    found = side((b"a", 5), (b"b", 3), (b"a", 1))
    over, _ = found.over(14, MANY, 100)
    found.put_back(over)
    assert [one.offset for one in found.partners(b"a", 0, 9)] == [0, 2]
    assert offsets(found.over(100, MANY, 100)) == ([0, 2, 1], []), "rows of one key go together"


def test_a_key_without_rows_is_refused_when_it_is_restored() -> None:
    made = side((b"a", 5))
    entries = [*made.checkpoint()]
    damaged = [(key, value[:16] if value is not None and key == b"\1a" else value) for key, value in entries]
    with pytest.raises(ValueError, match="a key without rows"):
        Side("s", 10).restore(damaged)
