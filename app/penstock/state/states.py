"""The keyed states of a process: one per node and partition, and which of what they hold is in their changelogs.

1. A state is made when its first rows come, or before that by who restores it (`put`).
2. `checkpoint` gives what rows have changed; the caller writes it, and calls `written` when it is acknowledged. Between the two, and
   while rows were counted that no checkpoint has, a state is `ahead` of its changelog: after the assignment it cannot be used again.
3. `count` is how many records a state has written since it was put: if its changelog has as many more, no one else has written there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from penstock.state.base import Entry, Keyed

__all__ = ["Checkpoint", "States"]

K = TypeVar("K", bound=Keyed)


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
    """The states of this process. `clock` gives seconds since the epoch: an event far ahead of it is not one of now."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.saw: Callable[[str, Mapping[str, int]], None] = lambda _node, _counts: None  # called with what happened to the rows of a node
        self._places: dict[tuple[str, int], _Place] = {}

    def at(self, node: str, partition: int, make: Callable[[], K]) -> K:
        """Returns the state for rows that are counted now; `make` makes one that has none yet."""
        place = self._places.get((node, partition))
        if place is None:
            place = self._places[node, partition] = _Place(make())
        place.open = True
        return place.state  # type: ignore[return-value]  # a node has one kind of state

    def put(self, node: str, partition: int, state: Keyed) -> None:
        """Sets the state of a partition, as it was restored."""
        self._places[node, partition] = _Place(state)

    def kept(self, node: str, partition: int) -> tuple[Keyed, int] | None:
        """Returns the state of a partition, and how many records it has written since it was put; None when it is ahead or not there."""
        place = self._places.get((node, partition))
        return None if place is None or place.open or place.under_way else (place.state, place.count)

    def __len__(self) -> int:
        """Returns how many keys all states have."""
        return sum(len(place.state) for place in self._places.values())

    def keep(self, partitions: Collection[int]) -> None:
        """Forgets the states of all other partitions."""
        self._places = {at: place for at, place in self._places.items() if at[1] in partitions}

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
        if (place := self._places.get((node, partition))) is not None and place.under_way:
            place.under_way -= 1
