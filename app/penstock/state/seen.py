"""Which events were counted already, by where each has entered the topology: a stage before may write an event again after a fault.

An event is TOPIC/PARTITION/OFFSET of a source. For each partition of a source there is a bit per offset, in blocks; those of the newest
`HORIZON` offsets are kept. An event further behind counts as one that was not seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from penstock.batch import Array
from penstock.state.base import Entry

__all__ = ["HORIZON", "SEEN", "Seen"]

SEEN: Final = b"\2"  # the changelog's key of a block begins with it
HORIZON: Final = 1 << 20  # offsets of one partition of a source
BLOCK: Final = 1 << 12  # offsets of a block
_BYTES: Final = BLOCK // 8


class Seen:
    """The blocks of all sources, by `TOPIC/PARTITION/NUMBER`: bool [BLOCK] each."""

    def __init__(self) -> None:
        self._blocks: dict[bytes, Array] = {}
        self._newest: dict[bytes, int] = {}  # the number of the newest block, by partition of a source
        self._touched: dict[bytes, None] = {}

    def add(self, events: Sequence[bytes]) -> Array:
        """Returns which of these events were added before, also among these: bool [N]. One that names no position never was."""
        known = np.zeros(len(events), bool)
        by_origin: dict[bytes, tuple[list[int], list[int]]] = {}
        for row, event in enumerate(events):
            origin, _, offset = event.rpartition(b"/")
            if origin and offset.isdigit() and len(offset) < len(str(2**63)):
                rows, offsets = by_origin.setdefault(origin, ([], []))
                rows.append(row)
                offsets.append(int(offset))
        for origin, placed in by_origin.items():
            at, offsets = np.array(placed, np.int64)
            _, first = np.unique(offsets, return_index=True)
            twice = np.ones(len(at), bool)
            twice[first] = False
            known[at] = twice
            for number in np.unique(offsets // BLOCK).tolist():
                some = offsets // BLOCK == number
                bits = self._block(origin, number)
                known[at[some]] |= bits[offsets[some] % BLOCK]
                bits[offsets[some] % BLOCK] = True
            self._forget(origin)
        return known

    def _block(self, origin: bytes, number: int) -> Array:
        name = b"%s/%d" % (origin, number)
        self._newest[origin] = max(number, self._newest.get(origin, number))
        self._touched[name] = None
        if name not in self._blocks:
            self._blocks[name] = np.zeros(BLOCK, bool)
        return self._blocks[name]

    def _forget(self, origin: bytes) -> None:
        """Removes the blocks that are further behind than the horizon."""
        oldest = self._newest[origin] - HORIZON // BLOCK + 1
        if len(self._blocks) <= HORIZON // BLOCK * len(self._newest):
            return
        for name in [one for one in self._blocks if one.rpartition(b"/")[0] == origin and int(one.rpartition(b"/")[2]) < oldest]:
            del self._blocks[name]
            self._touched[name] = None

    def reset(self) -> None:
        """Forgets all events, with tombstones in the next checkpoint."""
        self._touched |= dict.fromkeys(self._blocks)
        self._blocks, self._newest = {}, {}

    def checkpoint(self, *, whole: bool = False) -> Iterator[Entry]:
        """Yields the blocks that changed since the last time; `whole`: all."""
        names, self._touched = {**self._touched, **(dict.fromkeys(self._blocks) if whole else {})}, {}
        for name in names:
            block = self._blocks.get(name)
            yield SEEN + name, None if block is None else np.packbits(block).tobytes()

    @property
    def due(self) -> bool:
        """Whether a checkpoint is due."""
        return bool(self._touched)

    def restore(self, entries: Mapping[bytes, bytes | None]) -> None:
        """Applies blocks of the changelog, by the names after SEEN. Raises ValueError for what cannot be one."""
        for name, value in entries.items():
            origin, _, number = name.rpartition(b"/")
            if value is None:
                self._blocks.pop(name, None)
            elif len(value) != _BYTES or not number.isdigit():
                raise ValueError("a block of events has another form")
            else:
                bits = np.unpackbits(np.frombuffer(value, np.uint8)).astype(bool)
                self._blocks[name] = bits | self._blocks.get(name, False)  # a worker that was gone for a while may write late
                self._newest[origin] = max(int(number), self._newest.get(origin, 0))

    def columns(self) -> dict[str, Array]:
        """Returns the blocks as arrays."""
        names = b"\n".join(self._blocks)
        return {
            "seen": np.frombuffer(names, np.uint8),
            "blocks": np.packbits(np.array([*self._blocks.values()], bool).reshape(-1, BLOCK), axis=1),
        }

    def load(self, columns: Mapping[str, Array]) -> None:
        """Takes the arrays in place of everything. Raises KeyError or ValueError for others."""
        names, blocks = columns["seen"].tobytes().split(b"\n") if len(columns["seen"]) else [], columns["blocks"]
        if blocks.shape != (len(names), _BYTES):
            raise ValueError("the blocks of events have other sizes")
        self._blocks, self._newest, self._touched = {}, {}, {}
        self.restore(dict(zip(names, map(bytes, blocks), strict=True)))
