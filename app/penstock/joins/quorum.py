"""The records of one event id, of several members, until they are enough: the rule as a value, and the groups of one partition.

1. A group is opened by the first record of its id. Its deadline is that record's timestamp, or the time of reading if that is earlier,
   plus `within`.
2. It fires at once when every required member and at least `need` members are there.
3. A time is **due** for a group when the clock has passed it, and the input of each member that is missing is read beyond it or to its
   end. So a backlog does not look like silence, and a quiet topic delays nothing. A group whose deadline is due fails.
4. The id of a group that was fired or has failed stays, until all members came or the time `retain` after the deadline is due. A member
   that comes in that time is **late**: counted and free at once. A second record of a member is a **repetition**: the same.
5. The offsets of a group are free, all together, when its answer is acknowledged and its id has left. A restart that reads what is not
   free therefore repeats whole groups, and recognises late members as this run does.
6. `Bounds` limit how many records of a member wait, how many are held, and how far it reads beyond one that is held. A member that
   something past its time waits for may always read more: the faster inputs are held back, and never all of them.

The groups of a partition that is revoked are dropped with this object: their offsets are not free, so the next owner reads them.
`tests/properties/test_joins.py` tests these rules.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

__all__ = ["BOUNDS", "END", "MATCH_FORMAT", "Bounds", "Quorum", "present"]

MATCH_FORMAT: Final = 1  # of the bytes of a key that `sides` writes: it goes into the name of the state

END: Final = (1 << 63) - 1  # of an input: it is read to its end
MEMBERS: Final = 62  # bits of an int64, without its sign


def present(member: str) -> str:
    """Returns the name of the column that is true where the member is there."""
    return f"{member}?.present"


@dataclass(frozen=True, slots=True)
class Quorum:
    """How many and which of the members make an answer, and how long it waits for them. `within` and `retain` are in ms.

    A set of members is an integer here: bit i is `members[i]`. Raises ValueError for a rule that no group can keep.
    """

    members: tuple[str, ...]
    need: int
    within: int
    require: frozenset[str] = frozenset()
    retain: int = 0

    def __post_init__(self) -> None:
        count = len(self.members)
        if not 1 <= count <= MEMBERS or len(set(self.members)) < count:
            raise ValueError(f"a join has 1 to {MEMBERS} members, with different names: {', '.join(self.members)}")
        if not 1 <= self.need <= count:
            raise ValueError(f"need is {self.need}: it is at least 1, and at most the number of members, {count}")
        if unknown := sorted(self.require.difference(self.members)):
            raise ValueError(f"require names {', '.join(unknown)}; the members are {', '.join(self.members)}")
        if self.within < 0 or self.retain < 0:
            raise ValueError("within and retain are times in ms, and not negative")

    @property
    def all(self) -> int:
        """The set of all members."""
        return (1 << len(self.members)) - 1

    def set_of(self, names: Collection[str]) -> int:
        """Returns the set of these members."""
        return sum(1 << at for at, name in enumerate(self.members) if name in names)

    def names(self, mask: int) -> tuple[str, ...]:
        """Returns the members of the set."""
        return tuple(name for at, name in enumerate(self.members) if mask >> at & 1)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many records of one member may `wait`, with their columns, and be `held`, by offset: those that are not free, waiting ones too.

    `reach` is how many positions there may be from the first record that is not free to the next one to read: the free ones between
    them are remembered. A member that something past its time waits for may always read `step` more. While a member is silent, the
    others hold their records of the last `within` and `retain`: where these are more than `held`, they are slowed to `held` records in
    that time. So too where one record waits, and more than `reach` come in the time that it may wait.
    """

    wait: int = 8_192
    held: int = 131_072
    step: int = 256
    reach: int = 1_048_576


BOUNDS: Final = Bounds()
