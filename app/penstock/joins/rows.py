"""The columns of the records that wait for their group, and the groups that were decided, as one batch.

A group has a slot, and each member at most one row in it: so a row is found by its group's slot, in one array per column and member.
Slots are used again, so the arrays are as long as the most groups that waited at once. Texts of a row are released with it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import numpy as np

from penstock.batch import Array, Batch
from penstock.errors import MemberMissing
from penstock.joins.quorum import Added, Decided, Quorum
from penstock.schema import Column

__all__ = ["DEADLINE", "MASK", "OVERDUE", "Rows", "present"]

MASK: Final = "join?.mask"  # columns of a group's decision, as in `Decided`; no field and no output of a node has such a name
DEADLINE: Final = "join?.deadline"
OVERDUE: Final = "join?.overdue"


def present(member: str) -> str:
    """Returns the name of the column that is true where the member is there."""
    return f"{member}?.present"


class _Stored:
    """A column of a member's waiting rows, by slot. An absent row is zero, "" or, of arrays of different lengths, an empty array."""

    def __init__(self, column: Column) -> None:
        self.kind = column.dtype, column.shape
        axes = [axis for axis in column.shape if axis is not None]
        ragged, dtype = len(axes) < len(column.shape), object if column.dtype == "string" else column.dtype
        self._loose = ragged or dtype is object  # refers to objects, which are released with their row
        self._absent: Array = np.zeros((), object if self._loose else dtype)
        if self._loose:
            self._absent[()] = np.zeros(0, dtype) if ragged else ""
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

    `shared` names the columns that each member carries with the same value. Raises ValueError where members disagree about their type.
    """

    def __init__(self, quorum: Quorum, columns: Sequence[Sequence[Column]], shared: Collection[str] = ()) -> None:
        self._quorum = quorum
        self._stored = [{column.name: _Stored(column) for column in those} for those in columns]
        self._shared = tuple(shared)
        for name in self._shared:
            kinds = {one[name].kind if name in one else None for one in self._stored}
            if len(kinds) > 1:
                raise ValueError(f"not every member has the column {name} with the same type and shape")

    def put(self, member: int, added: Added, columns: Mapping[str, Array]) -> None:
        """Keeps the rows of a member's batch that wait. `columns` are those of the whole batch."""
        if not len(added.rows):
            return
        for name, stored in self._stored[member].items():
            values = columns[name]
            stored.put(added.slots, values if len(values) == len(added.rows) else values[added.rows])

    def take(self, decided: Decided) -> Batch:
        """Returns the groups as one batch, and releases their rows. A group that has failed is a Failure with MemberMissing.

        Row i is group i of `decided`. Its columns are each member's own ones, and the shared ones of the first member that is there;
        `present(MEMBER)`, bool [N]; MASK, DEADLINE and OVERDUE, int64 [N]. Take them before the next `add` or
        `due`.
        """
        there, members = decided.offsets >= 0, self._quorum.members
        columns: dict[str, Array] = {MASK: decided.masks, DEADLINE: decided.deadlines, OVERDUE: decided.overdue}
        for at, member in enumerate(members):
            columns[present(member)] = there[at]
            gaps = np.flatnonzero(~there[at])
            for name, stored in self._stored[at].items():
                taken = stored.take(decided.slots, gaps)
                if name not in self._shared or name not in columns:
                    columns[name] = taken
                else:
                    first = there[at] & ~there[:at].any(axis=0)
                    if first.any():
                        columns[name][first] = taken[first]
        failed = np.flatnonzero(~self._quorum.enough(decided.masks))
        return Batch(len(decided.ids), columns).fail({row: self._failure(int(decided.masks[row])) for row in failed.tolist()})

    def _failure(self, mask: int) -> MemberMissing:
        quorum = self._quorum
        missing = quorum.names(quorum.all & ~mask)
        came = ", ".join(quorum.names(mask))
        needed = ", ".join([f"{quorum.need} of {len(quorum.members)} members", *sorted(quorum.require.intersection(missing))])
        reason = f"no record of {', '.join(missing)} within {quorum.within} ms: {came} came, the join needs {needed}"
        return MemberMissing(reason, members=missing)
