"""The keyed states of a process for one assignment: one per node and partition, and which of what they hold is in their changelogs.

1. A state is made when its first rows come, or before that by who restores it (`put`).
2. `checkpoint` gives what rows have changed; the caller writes it, and calls `written` when it is acknowledged. Between the two, and
   while rows were counted that no checkpoint has, a state is ahead of its changelog, and of no use to the next assignment.
3. `count` is how many records a state has written since it was put: if its changelog has as many more, no one else has written there.
4. Each assignment has its own. A thread that still counts rows of an earlier one does so in states that are not used any more. Until it
   has ended (`counting`), none of these states is handed on.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import numpy as np

from penstock.batch import Array
from penstock.state.base import Entry, Keyed
from penstock.state.rows import Rows

__all__ = ["Checkpoint", "OneAfterAnother", "States"]

K = TypeVar("K", bound=Keyed)
T = TypeVar("T")


@dataclass(slots=True)
class _Place:
    """A state, whether rows were counted since its last checkpoint, how many checkpoints are under way, and the records they wrote."""

    state: Keyed
    open: bool = False
    under_way: int = 0
    count: int = 0


class Checkpoint(NamedTuple):
    """What rows have changed in the state of a node and a partition: records for its changelog, in order."""

    node: str
    partition: int
    entries: list[Entry]


class States:
    """The states of this process. `clock` gives seconds since the epoch: an event far ahead of it is not one of now.

    `sending` and `failed` are for the one who writes the changelogs: the last checkpoint, done when it was queued or never will be, and
    whether one was not written. `tables` are what lookups read, by name; they outlive assignments.
    """

    def __init__(self, clock: Callable[[], float] = time.time, tables: Mapping[str, Rows] = MappingProxyType({})) -> None:
        self.clock, self.tables = clock, tables
        self.sending: asyncio.Future[None] | None = None
        self.failed = False
        self.counts: defaultdict[str, Counter[str]] = defaultdict(Counter)  # what happened to all rows so far, by node
        self._places: dict[tuple[str, int], _Place] = {}
        self._passes: set[object] = set()  # of rows that are being counted, in any thread

    def order(self, partitions: Array, offsets: Array) -> tuple[Array, Array]:
        """Returns the partition of the state of each row, and its place in the order of that state's rows (int64 [N] both)."""
        return partitions, offsets

    def note(self, node: str, counts: Mapping[str, int]) -> None:
        """Counts what happened to rows of a node."""
        self.counts[node].update(counts)

    def counting(self, work: Callable[[], T]) -> Callable[[], T]:
        """Returns the work for a thread that counts rows in these states, from now until it has ended: it may outlive who waits for it."""
        token = object()
        self._passes.add(token)

        def run() -> T:
            try:
                return work()
            finally:
                self._passes.discard(token)

        return run

    def at(self, node: str, partition: int, make: Callable[[], K]) -> K:
        """Returns the state for rows that are counted now; `make` makes one that has none yet."""
        place = self._places.get((node, partition))
        if place is None:
            place = self._places[node, partition] = _Place(make())
        place.open = True
        return place.state  # type: ignore[return-value]  # a node has one kind of state

    def look(self, node: str, partition: int) -> Keyed | None:
        """Returns the state without counting anything in it; None before there is one."""
        place = self._places.get((node, partition))
        return None if place is None else place.state

    def put(self, node: str, partition: int, state: Keyed, count: int = 0) -> None:
        """Sets the state of a partition, as it was restored; `count` records of it were written since."""
        self._places[node, partition] = _Place(state, count=count)

    def kept(self, node: str, partition: int) -> tuple[Keyed, int] | None:
        """Returns the state of a partition, and how many records it has written since it was put; None when it is ahead or not there."""
        place = self._places.get((node, partition))
        return None if place is None or place.open or place.under_way or self._passes else (place.state, place.count)

    def __len__(self) -> int:
        """Returns how many keys all states have."""
        return sum(len(place.state) for place in self._places.values())

    def checkpoint(self, nodes: Collection[str]) -> Iterator[Checkpoint]:
        """Yields what was changed in the states of these nodes since the last time."""
        for (node, partition), place in self._places.items():
            if place.open and node in nodes:
                place.open = False
                place.under_way += 1
                entries = list(place.state.checkpoint())
                place.count += len(entries)
                yield Checkpoint(node, partition, entries)

    def written(self, node: str, partition: int) -> None:
        """A checkpoint of this state is in its changelog, with all before it."""
        self._places[node, partition].under_way -= 1


class OneAfterAnother(States):
    """One state per node for all partitions: those of a run over files, which are pieces of one input in the order of their numbers."""

    def order(self, partitions: Array, offsets: Array) -> tuple[Array, Array]:
        """See `States.order`. A file has fewer than 2**40 rows."""
        return np.zeros_like(partitions), (partitions.astype(np.int64) << 40) + offsets
