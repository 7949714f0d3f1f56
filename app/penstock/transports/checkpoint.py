"""The checkpoint: how far a run over an input that has an end has come, so that a run that was ended goes on there.

Positions are kept together with the outputs that they caused, part by part: a part is whole and in its place before the positions
that it covers are kept, so what a run has written beyond its checkpoint is written again, and removed first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from penstock.transports.tracker import Partition

__all__ = ["Checkpoint", "Part", "Unit"]


class Unit(msgspec.Struct):
    """The positions [start, end) of a partition: the next one to read is `at`, and `rows` records before it are finished.

    Where `end` is None, it is not known yet.
    """

    topic: str
    partition: int
    start: int = 0
    end: int | None = None
    at: int = 0
    rows: int = 0

    @property
    def done(self) -> bool:
        return self.end is not None and self.at >= self.end


class Part(msgspec.Struct):
    """A file of outputs: their topic, its name below the output's folder, its outputs and its bytes. `dead`: they are dead letters."""

    topic: str
    name: str
    rows: int
    size: int
    dead: bool = False


class _Parts(Protocol):
    """Outputs that are kept part by part."""

    def due(self) -> bool:
        """Whether what was written since the last part is enough for one."""

    def commit(self) -> list[Part]:
        """Ends the part, and returns its files: they are complete, and on the disk."""


class Checkpoint:
    """The progress of a run over these `units`; others are added as they are found. `keep` stores it; without, it is in memory only."""

    def __init__(self, units: Iterable[Unit] = (), keep: Callable[[Sequence[Unit], Sequence[Part]], None] | None = None) -> None:
        self.sink: _Parts | None = None  # the sink sets this
        self._units = {(one.topic, one.partition): one for one in units}
        self._keep = keep
        self._taken: dict[Partition, dict[int, int]] = {}  # records before each position at which a span ends

    @property
    def rows(self) -> int:
        """The records that are finished, of all runs together."""
        return sum(one.rows for one in self._units.values())

    @property
    def passed(self) -> int:
        """The positions that lie before those from which a run goes on, of all partitions together."""
        return sum(one.at for one in self._units.values())

    def start(self, partition: Partition) -> int | None:
        """Returns the position from which an earlier run goes on; None when there was none."""
        unit = self._units.get(partition)
        return None if unit is None else unit.at

    def end(self, partition: Partition, found: int) -> int:
        """Returns the end of the partition's input: the one that an earlier run found, else `found`, which is kept."""
        unit = self._units.setdefault(partition, Unit(*partition))
        if unit.end is None:
            unit.end = found
        return unit.end

    def before(self, partition: Partition, position: int) -> int:
        """Returns how many records lie before a position at which a span begins."""
        unit = self._units.get(partition)
        return self._taken.get(partition, {}).get(position, 0 if unit is None else unit.rows)

    def took(self, partition: Partition, start: int, end: int, rows: int) -> None:
        """`rows` records were taken between these positions."""
        self._taken.setdefault(partition, {})[end] = self.before(partition, start) + rows

    def save(self, positions: Mapping[Partition, int]) -> None:
        """Notes that everything before the positions is finished, and keeps it when a part of the outputs is complete."""
        for partition, at in positions.items():
            unit = self._units.setdefault(partition, Unit(*partition))
            unit.at, unit.rows = at, self.before(partition, at)
            self._taken[partition] = {end: count for end, count in self._taken.get(partition, {}).items() if end >= at}
        if self.sink is None or self.sink.due():
            self.commit()

    def commit(self) -> None:
        """Ends the part of the outputs that is being written, and keeps it with the positions."""
        parts = [] if self.sink is None else self.sink.commit()
        if self._keep is not None:
            self._keep([*self._units.values()], parts)
