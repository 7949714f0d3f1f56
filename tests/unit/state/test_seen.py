"""Events that a stage counts once: wherever a checkpoint is cut off, what is read again ends in the state of a run without faults."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from penstock.state import Entry
from penstock.state.seen import BLOCK, HORIZON, SEEN, Seen
from penstock.windows import Aggregate, Definition, LookBack, Partition, Windowed, open_partition

DEFINITION = Definition(("k",), (Aggregate("n", "count"), Aggregate("s", "sum", "v")), (LookBack("1h", 3_600_000),), lateness=3_600_000)


def run(state: Partition, first: int, count: int, *, at: int | None = None) -> Windowed:
    """Events `first` and so on, of three keys; `at` is their offset in the topic between, where an earlier stage has written them again."""
    numbers = np.arange(first, first + count)
    offsets = numbers if at is None else np.arange(at, at + count)
    keys = [b"%d" % (number % 3) for number in numbers]
    events = [b"payments/0/%d" % number for number in numbers]
    return state.run(keys, 1000 * numbers, offsets, {"v": numbers.astype(float)}, 10**12, events)


def probe(state: Partition) -> dict[str, Any]:
    """What one more event of each key would see."""
    found = state.run([b"0", b"1", b"2"], np.full(3, 2_000_000), np.arange(10**6, 10**6 + 3), {"v": np.zeros(3)}, 10**12)
    return {name: column.tolist() for name, column in found.columns.items()}


def restored(entries: list[Entry]) -> Partition:
    state = open_partition(DEFINITION)
    state.restore(entries)
    return state


def test_a_checkpoint_that_is_cut_off_counts_each_event_once() -> None:
    state = open_partition(DEFINITION)
    run(state, 0, 50)
    before = [*state.checkpoint()]
    run(state, 50, 50)
    after = [*state.checkpoint()]
    assert any(key.startswith(SEEN) for key, _ in after)
    wanted = probe(restored(before + after))
    assert wanted == {"n_1h": [34, 33, 33], "s_1h": [1683.0, 1617.0, 1650.0]}
    for cut in range(len(after)):
        again = restored(before + after[:cut])
        run(again, 50, 50)
        assert probe(again) == wanted, f"{cut} of {len(after)} records were written"


@pytest.mark.parametrize("cut", [0, 1])
def test_events_that_come_again_at_other_offsets_count_once(cut: int) -> None:
    state = open_partition(DEFINITION)
    run(state, 0, 50)
    if cut:
        state = restored([*state.checkpoint()])
    run(state, 20, 60, at=50)
    clean = open_partition(DEFINITION)
    run(clean, 0, 80)
    assert probe(state) == probe(clean)


def test_only_the_newest_are_kept_and_odd_names_are_never_known() -> None:
    seen = Seen()
    many = HORIZON + 3 * BLOCK
    seen.add([b"t/0/%d" % at for at in range(0, many, BLOCK)])
    kept = sum(value is not None for _, value in seen.checkpoint(whole=True))
    assert kept == HORIZON // BLOCK
    odd = [b"", b"t", b"t/0/x", b"t/0/-1", b"t/0/9999999999999999999", b"t/0/99999999999999999999"]
    assert not seen.add(odd).any()
    assert not seen.add(odd).any()


def test_a_late_writer_takes_no_event_away() -> None:
    one, other = Seen(), Seen()
    one.add([b"t/0/1", b"t/0/2"])
    other.add([b"t/0/1"])
    made = Seen()
    for each in (one, other):
        made.restore({key[1:]: value for key, value in each.checkpoint()})
    assert made.add([b"t/0/1", b"t/0/2", b"t/0/3"]).tolist() == [True, True, False]


def test_a_late_block_takes_no_event_away_in_the_changelog_either() -> None:
    one, other = open_partition(DEFINITION), open_partition(DEFINITION)
    run(one, 0, 80)
    run(other, 0, 40)
    log = [*one.checkpoint(), *other.checkpoint()]
    assert probe(restored(log)) == probe(one)
