"""The groups of one partition: the records that belong to one event, and whether it is decided, by the rules of `penstock.joins.quorum`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Final, NamedTuple

import numpy as np

from penstock.batch import Array
from penstock.joins.quorum import BOUNDS, END, Bounds, Quorum

__all__ = ["Added", "Decided", "Groups", "enough"]

_NEVER: Final = END
_UNKNOWN: Final = END  # no slot, and no complement of one
_NONE: Final = np.zeros(0, np.int64)


def enough(quorum: Quorum, masks: Array) -> Array:
    """Returns which of the sets of members, int64 [N], make an answer: bool [N]."""
    required = quorum.set_of(quorum.require)
    found: Array = (np.bitwise_count(masks) >= quorum.need) & (masks & required == required)
    return found


class Decided(NamedTuple):
    """Groups that were fired or have failed; a mask that is not enough has failed.

    `slots` name their rows (`Rows.take`) until the next `add` or `due`, `tickets` are for `acknowledge`. `masks` are the members that
    are there, `deadlines` are in ms, `overdue` are the members that were used although their timestamps are after the deadline: int64 [N].
    `offsets` are int64 [members, N], -1 for a member that is missing.
    """

    slots: Array
    tickets: Array
    ids: Sequence[str]
    masks: Array
    deadlines: Array
    overdue: Array
    offsets: Array

    def __bool__(self) -> bool:
        return len(self.ids) > 0


class Added(NamedTuple):
    """The rows of a batch that wait now, their slots (both int64 [N]), and what has fired with them. The other rows are free."""

    rows: Array
    slots: Array
    fired: Decided


class _Table:
    """Groups as arrays, by slot. The slot that was freed last is used next, so that few slots are touched.

    `alarms` are the times (ms) at which a group is due, _NEVER without one. `acked` is used only of groups that were decided, `overdue`
    only of those that wait.
    """

    def __init__(self, members: int) -> None:
        self.ids = np.empty(0, object)
        self.masks, self.alarms, self.overdue = _NONE, _NONE, _NONE
        self.acked = np.zeros(0, bool)
        self.offsets = np.zeros((members, 0), np.int64)
        self._free = _NONE
        self._left = 0

    def take(self, count: int) -> Array:
        """Returns free slots."""
        while self._left < count:
            self._grow()
        self._left -= count
        return self._free[self._left : self._left + count].copy()

    def give(self, slots: Array) -> None:
        """Empties the slots: they are free."""
        self.ids[slots] = None
        self.masks[slots] = self.overdue[slots] = 0
        self.alarms[slots] = _NEVER
        self.acked[slots] = False
        self.offsets[:, slots] = -1
        self._free[self._left : self._left + len(slots)] = slots
        self._left += len(slots)

    def _grow(self) -> None:
        size = len(self.ids)
        more = max(size, 1024)
        self.ids = np.concatenate([self.ids, np.empty(more, object)])
        self.masks, self.overdue = (np.concatenate([old, np.zeros(more, np.int64)]) for old in (self.masks, self.overdue))
        self.alarms = np.concatenate([self.alarms, np.full(more, _NEVER, np.int64)])
        self.acked = np.concatenate([self.acked, np.zeros(more, bool)])
        self.offsets = np.concatenate([self.offsets, np.full((len(self.offsets), more), -1, np.int64)], axis=1)
        free = self._free[: self._left]
        self._free = np.concatenate([free, np.arange(size, size + more), np.empty(size - len(free), np.int64)])
        self._left += more

    def fresh(self, member: int, slots: Array, offsets: Array) -> Array:
        """Returns which rows are the first of the member in their group, ascending, and keeps their offsets. Offsets are distinct."""
        new = np.flatnonzero(self.masks[slots] & (1 << member) == 0)
        kept, those, theirs = self.offsets[member], slots[new], offsets[new]
        kept[those] = theirs
        if (kept[those] != theirs).any():  # an id is twice in this batch: the first row of each
            new = new[np.sort(np.unique(those, return_index=True)[1])]
            kept[slots[new]] = offsets[new]
        return new


class Groups:
    """The groups of one partition: of the same partition of each member's topic. A member is its place in `quorum.members`.

    `late` and `repeated` count records by member since the start, `waiting` and `held` those that are there: int64 [members].
    """

    def __init__(self, quorum: Quorum, bounds: Bounds = BOUNDS) -> None:
        count = len(quorum.members)
        self.quorum, self.bounds = quorum, bounds
        self.late, self.repeated, self.waiting, self.held = (np.zeros(count, np.int64) for _ in range(4))
        self._open, self._past = _Table(count), _Table(count)  # those that wait, and those that were fired or have failed
        self._places: dict[str, int] = {}  # by id: its slot in `_open`, or the complement of its slot in `_past`
        self._wakes = _NEVER
        self._wanted = np.zeros(count, bool)
        self._freed: list[list[Array]] = [[] for _ in range(count)]

    # -- what comes ------------------------------------------------------------------------------------------------

    def add(self, member: int, ids: Sequence[str], stamps: Array, offsets: Array, now: int) -> Added:
        """Adds records of a member, in the order of their topic: ids, timestamps (ms) and offsets, int64 [N]. `now` is in ms.

        The bounds are the caller's to keep, by `room`: what was read is never refused.
        """
        at = np.fromiter(map(self._places.get, ids, repeat(_UNKNOWN)), np.int64, len(ids))
        unknown = np.flatnonzero(at == _UNKNOWN)
        if len(unknown):
            at[unknown] = self._opened(ids if len(unknown) == len(ids) else [ids[row] for row in unknown.tolist()])
        rows = np.flatnonzero(at >= 0)
        if len(rows) < len(ids):
            past = np.flatnonzero(at < 0)
            self._came_late(member, ~at[past], offsets[past])
        slots = at[rows]
        fresh = self._open.fresh(member, slots, offsets[rows])
        if len(fresh) < len(rows):
            self.repeated[member] += len(rows) - len(fresh)
            self._freed[member].append(np.delete(offsets[rows], fresh))
            rows, slots = rows[fresh], slots[fresh]
        masks = self._joined(member, slots, np.minimum(stamps[rows], now))
        return Added(rows, slots, self._decided(slots[enough(self.quorum, masks)]))

    def _opened(self, ids: Sequence[str]) -> Array:
        """Returns the slots of new groups, one per id; ids that are there twice have one."""
        new = dict.fromkeys(ids)
        slots = self._open.take(len(new))
        self._open.ids[slots] = np.fromiter(new, object, len(new))
        self._places.update(zip(new, slots.tolist(), strict=True))
        return slots if len(new) == len(ids) else np.fromiter(map(self._places.__getitem__, ids), np.int64, len(ids))

    def _joined(self, member: int, slots: Array, stamps: Array) -> Array:
        """Adds the member to the groups, and returns their sets. A group without a member is new: its deadline counts from this record."""
        groups, bit = self._open, 1 << member
        masks = groups.masks[slots]
        opens = masks == 0
        if opens.any():
            deadlines = stamps[opens] + self.quorum.within
            groups.alarms[slots[opens]] = deadlines
            self._wakes = min(self._wakes, int(deadlines.min()))
        masks |= bit
        groups.masks[slots] = masks
        overdue = stamps > groups.alarms[slots]
        if overdue.any():
            groups.overdue[slots[overdue]] |= bit
        self.waiting[member] += len(slots)
        self.held[member] += len(slots)
        return masks

    def _came_late(self, member: int, slots: Array, offsets: Array) -> None:
        groups = self._past
        late = slots[groups.fresh(member, slots, offsets)]
        groups.offsets[member, late] = -1  # they are free now
        groups.masks[late] |= 1 << member
        self.late[member] += len(late)
        self.repeated[member] += len(slots) - len(late)
        self._freed[member].append(offsets)
        self._end(late[groups.masks[late] == self.quorum.all])

    # -- what is decided -------------------------------------------------------------------------------------------

    def due(self, now: int, read_to: Sequence[int] | Array) -> Decided:
        """Fails the groups whose deadline is due, and forgets the ids whose time has ended. Times are in ms.

        `read_to` has for each member the timestamp up to which its input is read, END when it is read to its end.
        """
        self._wanted[:] = False
        if now <= self._wakes:
            return self._decided(_NONE)
        read = np.asarray(read_to, np.int64)
        self._end(self._due(self._past, now, read))
        failed = self._decided(self._due(self._open, now, read))
        self._wakes = int(min(self._open.alarms.min(initial=_NEVER), self._past.alarms.min(initial=_NEVER)))
        return failed

    @property
    def wakes(self) -> int:
        """The time (ms) after which `due` may find something; END while nothing waits for a time."""
        return self._wakes

    def _due(self, groups: _Table, now: int, read_to: Array) -> Array:
        """Returns the slots whose alarm is due, and notes the members that others wait for."""
        slots = np.flatnonzero(groups.alarms < now)
        alarms, masks = groups.alarms[slots], groups.masks[slots]
        due = np.ones(len(slots), bool)
        for member in np.flatnonzero(read_to <= alarms.max(initial=0)).tolist():  # few: the others are read beyond all of them
            unread = (masks & (1 << member) == 0) & (alarms >= read_to[member])
            self._wanted[member] |= unread.any()
            due &= ~unread
        found: Array = slots[due]
        return found

    def _decided(self, slots: Array) -> Decided:
        """Moves groups to those that were decided: their slots and rows are free, their ids and offsets stay."""
        old, new = self._open, self._past
        ids, masks, deadlines, offsets = old.ids[slots], old.masks[slots], old.alarms[slots], old.offsets[:, slots]
        tickets = new.take(len(slots))
        decided = Decided(slots, tickets, ids.tolist(), masks, deadlines, old.overdue[slots], offsets)
        if not decided:
            return decided
        new.ids[tickets], new.masks[tickets], new.offsets[:, tickets] = ids, masks, offsets
        new.alarms[tickets] = alarms = np.where(masks == self.quorum.all, _NEVER, deadlines + self.quorum.retain)
        self._wakes = min(self._wakes, int(alarms.min()))
        self._places.update(zip(decided.ids, (~tickets).tolist(), strict=True))
        self.waiting -= (offsets >= 0).sum(axis=1)
        old.give(slots)
        return decided

    # -- what is free ----------------------------------------------------------------------------------------------

    def acknowledge(self, tickets: Array) -> None:
        """Notes, once, that all outputs and dead letters of the groups with these `Decided.tickets` were acknowledged."""
        self._past.acked[tickets] = True
        self._leave(tickets[self._past.alarms[tickets] == _NEVER])

    def freed(self) -> tuple[Array, ...]:
        """Returns for each member the offsets that have become free since the last call, int64, in no order."""
        freed = tuple(np.concatenate([_NONE, *parts]) for parts in self._freed)
        for parts in self._freed:
            parts.clear()
        return freed

    def room(self, member: int, *left: int) -> int:
        """Returns how many more records of the member may be read now, as of the last call of `due`.

        `left` are how many more may be read by bounds of the caller's.
        """
        most = int(min(self.bounds.wait - self.waiting[member], self.bounds.held - self.held[member], *left))
        return max(most, self.bounds.step if self._wanted[member] else 0)

    def unanswered(self, member: int) -> tuple[Array, Array]:
        """Returns the slots and the offsets of the member's records that wait, int64 [N]."""
        offsets = self._open.offsets[member]
        slots = np.flatnonzero(offsets >= 0)
        return slots, offsets[slots]

    def _end(self, slots: Array) -> None:
        """Nothing more is expected for these ids: they leave when their answer is acknowledged."""
        self._past.alarms[slots] = _NEVER
        self._leave(slots[self._past.acked[slots]])

    def _leave(self, slots: Array) -> None:
        for id in self._past.ids[slots].tolist():
            del self._places[id]
        for member, offsets in enumerate(self._past.offsets[:, slots]):
            free = offsets[offsets >= 0]
            self._freed[member].append(free)
            self.held[member] -= len(free)
        self._past.give(slots)
