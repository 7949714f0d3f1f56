"""The columns of the records that wait for their group, and the groups that were decided, as one batch.

A group has a slot, and each member at most one row in it: so a row is found by its group's slot, in one array per column and member.
Slots are used again, so the arrays are as long as the most groups that waited at once. Texts of a row are released with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from penstock.batch import Array, Batch
from penstock.errors import MemberMissing
from penstock.joins.groups import Decided, enough
from penstock.joins.quorum import Quorum, present
from penstock.schema import Column

__all__ = ["DEADLINE", "MASK", "OVERDUE", "Rows"]

MASK: Final = "join?.mask"  # columns of a group's decision, as in `Decided`; no field and no output of a node has such a name
DEADLINE: Final = "join?.deadline"
OVERDUE: Final = "join?.overdue"


class _Stored:
    """A column of a member's waiting rows, by slot.

    An absent row is zero, "", None in a column that keeps nulls, or, of arrays of different lengths, an empty array.
    """

    def __init__(self, column: Column) -> None:
        nulls = column.missing.action == "fill" and column.missing.value is None
        self.kind = column.dtype, column.shape, nulls
        axes = [axis for axis in column.shape if axis is not None]
        ragged, dtype = len(axes) < len(column.shape), object if column.dtype == "string" or nulls else column.dtype
        self._loose = ragged or dtype is object  # refers to objects, which are released with their row
        self._absent: Array = np.zeros((), object if self._loose else dtype)
        if self._loose:
            self._absent[()] = None if nulls else np.zeros(0, dtype) if ragged else ""
        self._values: Array = np.zeros((0, *(() if ragged else axes)), self._absent.dtype)

    def put(self, slots: Array, values: Array) -> None:
        self._fit(slots)
        self._values[slots] = values

    def take(self, slots: Array, gaps: Array) -> Array:
        """Returns the rows of the slots, and releases them. `gaps` are the places of those that have none."""
        self._fit(slots)
        taken: Array = self._values[slots]
        if self._loose:
            self._values[slots] = self._absent
        elif len(gaps):
            taken[gaps] = self._absent  # what another group has left there
        return taken

    def _fit(self, slots: Array) -> None:
        old = self._values
        if (size := int(slots.max(initial=-1)) + 1) > len(old):
            self._values = np.zeros((max(size, 2 * len(old), 1024), *old.shape[1:]), old.dtype)
            self._values[: len(old)], self._values[len(old) :] = old, self._absent


class Rows:
    """The waiting rows of the groups of one partition. `columns` has those of each member, in the order of `quorum.members`.

    A column that several members carry has the same value in all of them. Raises ValueError where they disagree about its type.
    """

    def __init__(self, quorum: Quorum, columns: Sequence[Sequence[Column]]) -> None:
        self._quorum = quorum
        self._stored = [{column.name: _Stored(column) for column in those} for those in columns]
        names = dict.fromkeys(name for those in self._stored for name in those)
        self._carriers = {name: [at for at, those in enumerate(self._stored) if name in those] for name in names}
        for name, carriers in self._carriers.items():
            if len({self._stored[at][name].kind for at in carriers}) > 1:
                raise ValueError(f"not every member that has the column {name} has it with the same type and shape")

    def put(self, member: int, rows: Array, slots: Array, columns: Mapping[str, Array]) -> None:
        """Keeps these rows of a member's batch, which wait in these slots (`Added`). `columns` are those of the whole batch."""
        if not len(rows):
            return
        for name, stored in self._stored[member].items():
            values = columns[name]
            stored.put(slots, values if len(values) == len(rows) else values[rows])

    def take(self, decided: Decided) -> Batch:
        """Returns the groups as one batch, and releases their rows. A group that has failed is a Failure with MemberMissing.

        Row i is group i of `decided`. Its columns are those of the members, each of the first member that carries it and is there;
        `present(MEMBER)`, bool [N]; MASK, DEADLINE and OVERDUE, int64 [N]. Take them before the next `add` or `due`.
        """
        there = decided.offsets >= 0
        columns: dict[str, Array] = {MASK: decided.masks, DEADLINE: decided.deadlines, OVERDUE: decided.overdue}
        columns |= {present(member): there[at] for at, member in enumerate(self._quorum.members)}
        for name, carriers in self._carriers.items():
            made = found = None
            for at in carriers:
                taken = self._stored[at][name].take(decided.slots, np.flatnonzero(~there[at]))
                if made is None or found is None:
                    made, found = taken, there[at]
                else:
                    first = there[at] & ~found
                    made[first] = taken[first]
                    found = found | first
            assert made is not None, "a column has a carrier"
            columns[name] = made
        failed = np.flatnonzero(~enough(self._quorum, decided.masks))
        return Batch(len(decided.ids), columns).fail({row: self._failure(int(decided.masks[row])) for row in failed.tolist()})

    def _failure(self, mask: int) -> MemberMissing:
        quorum = self._quorum
        missing = quorum.names(quorum.all & ~mask)
        came = ", ".join(quorum.names(mask))
        needed = ", ".join([f"{quorum.need} of {len(quorum.members)} members", *sorted(quorum.require.intersection(missing))])
        reason = f"no record of {', '.join(missing)} within {quorum.within} ms: {came} came, the join needs {needed}"
        return MemberMissing(reason, members=missing)
