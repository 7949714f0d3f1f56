"""Windows of one partition: late and future rows, what is removed and when, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from penstock.native import native
from penstock.windows import Aggregate, Definition, LookBack, Mark, Partition, Windowed, keys_of, open_partition
from penstock.windows.definition import Late
from penstock.windows.sawtooth import Sawtooth

COUNTS = Definition(("user",), (Aggregate("n", "count", "v"), Aggregate("spread", "variance", "v")), (LookBack("10", 10, 5),))
TYPES = {"i": np.int32, "l": np.int64, "d": np.float64, "B": np.uint8, "?": np.bool_}
EXACT = replace(COUNTS, exact=True)


def run(partition: Partition, rows: Sequence[tuple[str, int]], *, at: int = 0, now: int = 10**6, values: Sequence[float] = ()) -> Windowed:
    """Runs rows of a key and a time, at the offsets from `at` on."""
    column = np.array(values or [1.0] * len(rows))
    times, offsets = np.array([time for _, time in rows]), np.arange(at, at + len(rows))
    return partition.run([key.encode() for key, _ in rows], times, offsets, {"v": column}, now)


def counted(found: Windowed) -> list[int]:
    return [int(one) for one in found.columns["n_10"]]


@pytest.mark.parametrize("definition", [COUNTS, EXACT])
def test_a_row_sees_those_of_its_key_before_it(definition: Definition) -> None:
    """Equal times are ordered by offset, and the event itself does not count."""
    found = run(open_partition(definition), [("a", 1), ("b", 1), ("a", 1), ("a", 2), ("b", 9)])
    assert counted(found) == [0, 0, 1, 2, 1]


def test_a_sawtooth_begins_on_a_hop_and_an_exact_window_does_not() -> None:
    rows = [("a", 0), ("a", 1), ("a", 11), ("a", 12)]
    assert counted(run(open_partition(COUNTS), rows)) == [0, 1, 2, 1]
    assert counted(run(open_partition(EXACT), rows)) == [0, 1, 1, 1]


def test_a_row_behind_a_later_one_sees_whole_hops_only() -> None:
    """Its own hop holds the later one, which is its future. Exact windows keep events, so they know better."""
    rows = [("a", 0), ("a", 2), ("a", 3), ("a", 2)]
    found = run(open_partition(replace(COUNTS, lateness=5)), rows)
    assert (counted(found), found.count(Mark.DISORDERED)) == ([0, 1, 2, 1], 1)
    assert counted(run(open_partition(replace(EXACT, lateness=5)), rows)) == [0, 1, 2, 2]


@pytest.mark.parametrize("definition", [COUNTS, EXACT])
@pytest.mark.parametrize(("late", "seen"), [("drop", 1), ("side", 1), ("update", 2)])
def test_late_rows_are_marked_and_count_where_it_is_wanted(definition: Definition, late: Late, seen: int) -> None:
    found = run(open_partition(replace(definition, late=late)), [("a", 8), ("a", 1), ("b", 9), ("a", 9)])
    assert found.count(Mark.LATE) == 1
    assert counted(found)[-1] == seen


@pytest.mark.parametrize("definition", [COUNTS, EXACT])
def test_a_time_far_ahead_has_no_features_and_is_no_watermark(definition: Definition) -> None:
    partition = open_partition(replace(definition, ahead=10))
    found = run(partition, [("a", 1), ("a", 12), ("a", 2**62), ("a", -(2**62)), ("a", 2)], now=1)
    assert found.marks.tolist() == [Mark.COUNTED, Mark.FUTURE, Mark.FUTURE, Mark.FUTURE, Mark.COUNTED]
    assert counted(found)[-1] == 1
    assert partition.standing.latest == 2


def test_a_clock_that_moved_on_does_not_change_the_watermark_of_a_replay() -> None:
    partition = open_partition(replace(COUNTS, ahead=10))
    run(partition, [("a", 1), ("a", 50)], now=1)
    assert run(partition, [("a", 50)], at=1, now=50).marks.tolist() == [Mark.REPLAYED]
    assert partition.standing.latest == 1


def test_values_that_are_not_finite_are_null_and_null_is_not_counted() -> None:
    found = run(open_partition(COUNTS), [("a", 1)] * 4, values=[np.nan, np.inf, 2.0, 4.0])
    assert counted(found) == [0, 0, 0, 1]


@pytest.mark.parametrize("portable", [False, True])
def test_variance_does_not_cancel(portable: bool) -> None:
    """A difference of sums of squares has no correct digit here."""
    values = [1e9 + one for one in (0.0, 1.0, 2.0, 3.0, 0.0)]
    found = run(Sawtooth(COUNTS, portable=portable), [("a", time) for time in (0, 2, 4, 6, 8)], values=values)
    assert found.columns["spread_10"][-1] == 1.25


@pytest.mark.parametrize("definition", [COUNTS, EXACT])
def test_a_key_that_no_event_can_see_is_removed(definition: Definition) -> None:
    partition = open_partition(definition)
    run(partition, [("a", 1), ("b", 1)])
    run(partition, [("c", 100)] * 16, at=2)
    assert len(partition) == 1
    entries = dict(partition.checkpoint())
    assert (entries[b"\1a"], entries[b"\1b"]) == (None, None)


def test_tiles_of_removed_keys_are_used_again() -> None:
    partition = Sawtooth(COUNTS)
    for at in range(0, 4000, 40):
        run(partition, [(f"{at}-{row}", at * 10) for row in range(40)], at=at)
    list(partition.checkpoint())
    assert len(partition.columns()["pool"]) < 400


@pytest.mark.parametrize("definition", [COUNTS, EXACT])
def test_of_too_many_keys_those_seen_longest_ago_are_removed(definition: Definition) -> None:
    partition = open_partition(replace(definition, cap=64))
    run(partition, [(f"{row:02}", row // 10) for row in range(65)])
    assert len(partition) == 62
    gone = sorted(key for key, value in partition.checkpoint() if value is None)
    assert gone == [b"\x0100", b"\x0101", b"\x0102"]


@pytest.mark.parametrize("definition", [COUNTS, EXACT])
def test_bytes_of_another_state_are_refused(definition: Definition) -> None:
    for value in (b"", b"1234567", bytes(8), bytes(16 + 8 * 7)):
        with pytest.raises(ValueError, match="the bytes of a key"):
            open_partition(definition).restore([(b"\1a", value)])
    with pytest.raises(ValueError, match="another topic"):
        open_partition(definition).restore([(b"a", bytes(8))])
    with pytest.raises(ValueError, match="the standing"):
        open_partition(definition).restore([(b"\0", bytes(8))])


@pytest.mark.parametrize("definition", [COUNTS, EXACT])
def test_arrays_of_another_state_are_refused(definition: Definition) -> None:
    partition = open_partition(definition)
    run(partition, [("a", 1), ("b", 2)])
    with pytest.raises(ValueError, match="a checkpoint is due"):
        partition.columns()
    list(partition.checkpoint())
    columns = partition.columns()
    for name in columns:
        with pytest.raises(ValueError, match="arrays"):
            open_partition(definition).load({key: column for key, column in columns.items() if key != name})
        if not len(columns[name]):  # no tile is free yet
            continue
        with pytest.raises(ValueError, match=r"arrays|a ring|values to unpack"):
            open_partition(definition).load({**columns, name: columns[name][:-1]})


@pytest.mark.parametrize("definition", [COUNTS, EXACT])
def test_keys_come_after_a_snapshot_was_loaded(definition: Definition) -> None:
    """What was loaded has no room to spare, and each array grows by itself."""
    one, other = open_partition(definition), open_partition(definition)
    run(one, [(f"{row}", row // 10) for row in range(70)])
    list(one.checkpoint())
    other.load(one.columns())
    found = run(other, [(f"{row}", 9) for row in range(200)], at=70)
    assert counted(found) == [1] * 70 + [0] * 130


@pytest.mark.skipif(native is None, reason="the native part is not built")
def test_native_part_refuses_arrays_that_do_not_fit_together() -> None:
    assert native is not None
    with pytest.raises(ValueError, match="other types"):
        native.fold_windows((), False)
    with pytest.raises(ValueError, match="other types"):
        native.pack_windows((np.zeros(3),) * 6, 0)
    with pytest.raises(ValueError, match="other sizes"):
        native.fold_windows(tuple(np.ones((3, 3, 3), TYPES[code]) for code in "ilildildlllllllBd?d"), False)
    with pytest.raises(ValueError, match="other sizes"):
        native.pack_windows(tuple(np.full((3, 3), 9, TYPES[code]) for code in "lildll"), 0)


def test_equal_keys_are_equal_fields() -> None:
    names, numbers = np.array(["a", "", "1"], object), np.array([1, 2, 3])
    assert keys_of([names]) == [b"a", b"", b"1"]
    assert len({*keys_of([numbers]), *keys_of([names, numbers]), *keys_of([numbers, names])}) == 9
    assert keys_of([np.array(["a", None, "\ud800"], object)]) == [b"a", b"\xc0", b"\xed\xa0\x80"]
    assert keys_of([np.array([True, False])]) == [b"\xc3", b"\xc2"]


def test_keys_of_several_fields_may_have_half_of_a_surrogate_pair() -> None:
    """As those of one field. The other rows of the batch have the bytes that they would have without it."""
    texts = ["", "a", "\u00e9", "-" * 31, "-" * 32, "-" * 45, "-" * 255, "-" * 256, "-" * 65_536, None]
    numbers = np.arange(len(texts) + 3)
    whole = keys_of([np.array(texts, object), numbers[: len(texts)]])
    some = keys_of([np.array([*texts, "\ud800", "\udc00", "a\ud800"], object), numbers])
    assert some[: len(texts)] == whole
    assert some[-3] == b"\x92\xa3\xed\xa0\x80\x0a"
    halves = np.array(["\ud800", "\udc00", "a\ud800", "\ud800"], object)
    assert len({*keys_of([halves, np.array(["b"] * 4, object)])}) == 3
