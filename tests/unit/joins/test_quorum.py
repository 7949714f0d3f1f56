"""What a quorum is, and each rule of the groups by one example; tests/properties/test_joins.py has their orders."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from penstock.joins import END, Bounds, Quorum
from penstock.joins.groups import Added, Decided, Groups, enough

MEMBERS = ("trees", "lr", "net")
TREES, LR, NET = range(3)
TWO = Quorum(MEMBERS, 2, 40, retain=100)


def _add(groups: Groups, member: int, *ids: str, at: int = 1000, offset: int = 0, now: int = 1000) -> Added:
    return groups.add(member, ids, np.full(len(ids), at), np.arange(offset, offset + len(ids)), now)


def _freed(groups: Groups) -> list[list[int]]:
    return [sorted(offsets.tolist()) for offsets in groups.freed()]


def _due(groups: Groups, now: int, read_to: Sequence[int] = (END, END, END)) -> Decided:
    return groups.due(now, read_to)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"members": ()}, "1 to 62 members"),
        ({"members": ("lr", "lr")}, "different names: lr, lr"),
        ({"need": 0}, "need is 0"),
        ({"need": 4}, "at most the number of members, 3"),
        ({"require": frozenset({"tree"})}, "require names tree; the members are trees, lr, net"),
        ({"within": -1}, "not negative"),
        ({"retain": -1}, "not negative"),
    ],
)
def test_rule_that_no_group_can_keep_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TWO, **change)


def test_quorum_counts_members_and_asks_for_those_required() -> None:
    """Sets are integers: bit i is member i."""
    quorum = Quorum(MEMBERS, 2, 40, frozenset({"net"}))
    assert enough(quorum, np.arange(8)).tolist() == [False, False, False, False, False, True, True, True]
    assert (quorum.all, quorum.set_of({"trees", "net"}), quorum.names(0b110)) == (7, 0b101, ("lr", "net"))


def test_group_fires_as_soon_as_enough_came() -> None:
    groups = Groups(TWO)
    assert not _add(groups, TREES, "x", "y", at=1000).fired
    fired = _add(groups, NET, "y", at=1010, offset=7).fired
    assert (fired.ids, fired.masks.tolist(), fired.deadlines.tolist()) == (["y"], [0b101], [1040])
    assert fired.offsets[:, 0].tolist() == [1, -1, 7]


def test_deadline_counts_from_the_first_record_that_came() -> None:
    """Not from the oldest one: another input may be read later."""
    groups = Groups(TWO)
    _add(groups, TREES, "x", at=1000)
    assert _add(groups, LR, "x", at=900).fired.deadlines.tolist() == [1040]


def test_clock_that_runs_ahead_moves_no_deadline_beyond_ours() -> None:
    """A record of the year 9999 would hold its offset until then."""
    groups = Groups(TWO)
    _add(groups, TREES, "x", "y", at=253_370_764_800_000, now=1000)
    assert _due(groups, 1041).deadlines.tolist() == [1040, 1040]


def test_deadline_is_due_when_the_clock_has_passed_it() -> None:
    groups = Groups(TWO)
    _add(groups, TREES, "x", at=1000)
    assert groups.wakes == 1040
    assert not _due(groups, 1040)
    failed = _due(groups, 1041)
    assert (failed.ids, failed.masks.tolist()) == (["x"], [0b001])


def test_deadline_waits_for_inputs_that_are_not_read_beyond_it() -> None:
    """After a restart the clock has passed every deadline of the backlog."""
    groups = Groups(TWO)
    _add(groups, TREES, "x", at=1000)
    assert not _due(groups, 9999, (0, 1040, END))
    assert _due(groups, 9999, (0, 1041, END)).ids == ["x"]


def test_input_of_a_member_that_came_is_not_waited_for() -> None:
    groups = Groups(Quorum(MEMBERS, 3, 40))
    _add(groups, TREES, "x", at=1000)
    _add(groups, LR, "x", at=1000)
    assert _due(groups, 9999, (0, 0, END)).masks.tolist() == [0b011]


def test_member_used_after_the_deadline_is_noted() -> None:
    """The group was not due yet, so it counts; its output names it as overdue."""
    groups = Groups(TWO)
    _add(groups, TREES, "x", at=1000)
    fired = _add(groups, NET, "x", at=1041, now=1041).fired
    assert (fired.masks.tolist(), fired.overdue.tolist()) == ([0b101], [0b100])


def test_late_member_is_counted_and_free_at_once() -> None:
    groups = Groups(TWO)
    _add(groups, TREES, "x")
    _add(groups, LR, "x")
    assert not _add(groups, NET, "x", offset=5).fired
    assert groups.late.tolist() == [0, 0, 1]
    assert _freed(groups) == [[], [], [5]]


def test_member_is_late_for_a_group_that_has_failed() -> None:
    groups = Groups(TWO)
    _add(groups, TREES, "x")
    _due(groups, 1041)
    assert not _add(groups, LR, "x").fired
    assert groups.late.tolist() == [0, 1, 0]


@pytest.mark.parametrize("ids", [("x", "x"), ("x", "y", "x", "y")])
def test_second_record_of_a_member_is_ignored(ids: tuple[str, ...]) -> None:
    """In one batch or in the next one; the first record counts."""
    groups = Groups(TWO)
    added = _add(groups, TREES, *ids)
    half = len(ids) // 2
    assert added.rows.tolist() == [*range(half)]
    _add(groups, TREES, "x", offset=9)
    assert groups.repeated.tolist() == [half + 1, 0, 0]
    assert _freed(groups) == [[*range(half, len(ids)), 9], [], []]
    assert _add(groups, LR, "x").fired.offsets[TREES].tolist() == [0]


def test_late_repetition_is_counted_once_as_late() -> None:
    groups = Groups(TWO)
    _add(groups, TREES, "x")
    _add(groups, LR, "x")
    _add(groups, NET, "x", "x")
    assert (groups.late.tolist(), groups.repeated.tolist()) == ([0, 0, 1], [0, 0, 1])


def test_offsets_are_held_until_the_answer_is_acknowledged_and_the_id_has_left() -> None:
    groups = Groups(TWO)
    _add(groups, TREES, "x", offset=3)
    fired = _add(groups, LR, "x", offset=4).fired
    groups.acknowledge(fired.tickets)
    assert _freed(groups) == [[], [], []]
    assert groups.held.tolist() == [1, 1, 0]
    _due(groups, 1140)
    assert _freed(groups) == [[], [], []]
    _due(groups, 1141)
    assert _freed(groups) == [[3], [4], []]
    assert groups.held.tolist() == [0, 0, 0]


def test_id_stays_while_its_answer_is_not_acknowledged() -> None:
    """Even when its time has ended: a restart would repeat it, and so recognises the same late members."""
    groups = Groups(TWO)
    _add(groups, TREES, "x")
    fired = _add(groups, LR, "x").fired
    _due(groups, 9999)
    _add(groups, NET, "x")
    assert groups.late[NET] == 1
    assert _freed(groups) == [[], [], [0]]
    groups.acknowledge(fired.tickets)
    assert _freed(groups) == [[0], [0], []]


def test_id_leaves_when_all_members_came() -> None:
    groups = Groups(TWO)
    _add(groups, TREES, "x")
    groups.acknowledge(_add(groups, LR, "x").fired.tickets)
    _add(groups, NET, "x")
    assert _freed(groups) == [[0], [0], [0]]
    assert groups.wakes == 1040
    _due(groups, 1041)
    assert groups.wakes == END


def test_member_that_has_stopped_does_not_stop_the_others() -> None:
    """Its input is read to its end, and the quorum does without it."""
    groups = Groups(TWO, Bounds(wait=4, held=8))
    for turn in range(100):
        now = 1000 + turn * 50
        _add(groups, TREES, f"{turn}", at=now, offset=turn, now=now)
        groups.acknowledge(_add(groups, LR, f"{turn}", at=now, offset=turn, now=now).fired.tickets)
        _due(groups, now)
        assert min(groups.room(TREES), groups.room(LR)) > 0
    assert groups.held.tolist() == [3, 3, 0]  # those of the last `within` and `retain`


def test_faster_member_is_held_back() -> None:
    groups = Groups(TWO, Bounds(wait=4, held=6, step=2))
    assert groups.room(TREES) == 4
    _add(groups, TREES, "u", "v", "w", "x")
    assert (groups.room(TREES), groups.room(LR)) == (0, 4)
    _add(groups, LR, "u", "v")
    assert (groups.room(TREES), groups.room(LR)) == (2, 4)


def test_member_that_something_waits_for_may_always_go_on() -> None:
    """Both are full of events that the other one has later: time alone decides nothing, and one of them has to be read on."""
    groups = Groups(TWO, Bounds(wait=2, held=2, step=1))
    _add(groups, TREES, "u", "v", at=1000)
    _add(groups, LR, "w", "x", at=1000)
    _due(groups, 1001, (1000, 1000, END))
    assert (groups.room(TREES), groups.room(LR)) == (0, 0)
    _due(groups, 1041, (1000, 1000, END))
    assert (groups.room(TREES), groups.room(LR)) == (1, 1)
    _due(groups, 1041, (1041, 1000, END))
    assert (groups.room(TREES), groups.room(LR)) == (0, 1)


def test_member_that_is_far_behind_catches_up_within_the_bounds() -> None:
    """One event per ms; lr begins 2 s before trees, which is full until lr has come as far. Those that only lr has, fail."""
    groups, ends, at = Groups(Quorum(MEMBERS[:2], 2, 40, retain=100), Bounds(64, 64, 16)), (5000, 5000), [2000, 0]
    fired = failed = most = 0
    while at != [*ends]:
        for member in (TREES, LR):
            rows = range(at[member], min(at[member] + groups.room(member), ends[member]))
            added = groups.add(member, [f"{row}" for row in rows], np.array(rows, np.int64), np.array(rows, np.int64), 10**6)
            groups.acknowledge(added.fired.tickets)
            at[member], fired = max(rows.stop, at[member]), fired + len(added.fired.ids)
        given = groups.due(10**6, [END if row == end else row - 1 for row, end in zip(at, ends, strict=True)])
        groups.acknowledge(given.tickets)
        failed, most = failed + len(given.ids), max(most, int(groups.held.max()))
    assert (fired, failed) == (3000, 2000)
    assert most <= 64 + 16


def test_slots_are_used_again() -> None:
    """What waits is bounded, and so is memory, over any number of ids."""
    groups = Groups(Quorum(("a", "b"), 2, 40))
    slots: set[int] = set()
    for turn in range(50):
        ids = [f"{turn}-{row}" for row in range(100)]
        slots.update(_add(groups, 0, *ids).slots.tolist())
        groups.acknowledge(_add(groups, 1, *ids).fired.tickets)
    assert len(slots) == 100
    assert groups.held.tolist() == [0, 0]


def test_more_groups_than_ever_find_slots() -> None:
    groups = Groups(Quorum(("a", "b"), 2, 40))
    ids = [f"{row}" for row in range(5000)]
    _add(groups, 0, *ids[:10])
    _add(groups, 0, *ids, offset=10)
    assert groups.repeated.tolist() == [10, 0]
    assert sorted(_add(groups, 1, *reversed(ids)).fired.ids) == sorted(ids)
