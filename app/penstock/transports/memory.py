"""Topics in a dict: a broker without a network, for the test driver, for one event made once more, and for tests of the loop.

It keeps the port's rules (`base`) and produces, on command, the faults of a real one: partitions that are moved to another
owner, a lease that ends and begins, positions that cannot be stored, outputs that are refused, acknowledgements that come late, in
another order or not at all, and a worker that ends without notice. Only an unbounded source that has nothing to yield waits.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Final

from penstock.batch import Array
from penstock.errors import DeliveryFailed
from penstock.joins import END
from penstock.parcel import Parcel
from penstock.record import Record, RecordLike
from penstock.transports.base import Abilities, Lapsed, Sent, cut, size_of
from penstock.transports.tracker import Partition, Span, Tracker

__all__ = ["Memory", "MemorySink", "MemorySource"]

LIMIT = 1_000_000  # bytes of an output, where the test sets no limit
_AROUND = 70  # bytes of a record beside its key, value and headers


@dataclass(slots=True)
class _Log:
    """One partition: its records, and the offset of the first of them."""

    start: int = 0
    records: list[Record] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.start + len(self.records)


class Memory:
    """The topics, each with `partitions` partitions, and the positions that groups have stored. A topic exists from its first use on."""

    def __init__(self, partitions: int = 1) -> None:
        self.partitions = partitions
        self.stored: dict[Partition, int] = {}
        self.free: dict[Partition, Array] = {}  # beside them, of topics that are joined
        self._logs: dict[Partition, _Log] = {}
        self._arrivals: dict[str, list[Record]] = {}
        self._waiting: set[asyncio.Event] = set()

    def append(self, record: Record) -> Record:
        """Adds the record at the end of its partition, and returns it with its offset."""
        if not 0 <= record.partition < self.partitions:
            raise ValueError(f"{record.topic} has no partition {record.partition}: its topics were made with {self.partitions}")
        log = self._logs.setdefault((record.topic, record.partition), _Log())
        kept = record._replace(offset=log.end, headers=tuple(record.headers))
        log.records.append(kept)
        self._arrivals.setdefault(record.topic, []).append(kept)
        for waiting in self._waiting:
            waiting.set()
        return kept

    def begin(self, partition: Partition, offset: int) -> None:
        """Sets the offset of the next record of the partition, which must be empty; readers begin there."""
        log = self._logs.setdefault(partition, _Log())
        if log.records:
            raise ValueError(f"{partition} already holds records")
        log.start = offset
        self.stored[partition] = offset

    def records(self, topic: str) -> list[Record]:
        """Returns everything in the topic, in the order in which it came."""
        return list(self._arrivals.get(topic, ()))

    def read(self, partition: Partition, start: int) -> list[Record]:
        """Returns the records of the partition from `start` on."""
        log = self._logs.get(partition)
        return log.records[max(start - log.start, 0) :] if log is not None else []

    def end(self, partition: Partition) -> int:
        """Returns the offset that the next record of the partition gets."""
        log = self._logs.get(partition)
        return log.end if log is not None else 0

    def clear(self) -> None:
        """Removes every record and keeps the offsets."""
        self._arrivals.clear()
        for log in self._logs.values():
            log.start, log.records = log.end, []


class MemorySource:
    """Yields the records of some topics: to the present end where it is bounded, else it waits for more.

    `assign` gives it partitions (all by default) from their stored positions. A new source has no partitions. `lease` says whether it
    may act for them.
    """

    def __init__(self, memory: Memory, topics: Iterable[str], *, bounded: bool = True) -> None:
        self.abilities = Abilities(replay=True, bounded=bounded)
        self.positions = Tracker()
        self._memory = memory
        self._topics = tuple(topics)
        self._arrived = asyncio.Event()
        self._open = True
        self.fails: BaseException | None = None  # raised by the next `store`
        self.withheld: Callable[[Partition], bool] | None = None
        self.beyond: Callable[[Partition, int], Array] | None = None
        self.free: Mapping[Partition, Array] = {}
        self.storing = True  # False: nothing can be stored, as while a group's coordinator is away

    def assign(self, partitions: Iterable[Partition] | None = None) -> None:
        """Starts a new assignment, also when spans are under way."""
        memory = self._memory
        every = ((topic, number) for topic in self._topics for number in range(memory.partitions))
        self.positions.assign({one: memory.stored.get(one, 0) for one in (every if partitions is None else partitions)})
        self.free = {one: memory.free[one] for one in self.positions.partitions if one in memory.free}
        self._arrived.set()

    def revoke(self) -> None:
        """Ends the assignment."""
        self.positions.revoke()

    def lease(self, holds: bool) -> None:
        """From now on the lease does or does not hold: another worker may own the partitions."""
        self.positions.lease = lambda: holds
        self._arrived.set()
        self.positions.changed()

    def pause(self) -> None:
        """See `Source.pause`."""
        self._open = False

    def resume(self) -> None:
        """See `Source.resume`."""
        self._open = True
        self._arrived.set()

    async def take(self, rows: int) -> Sequence[Span]:
        """See `Source.take`. A bounded source that is paused waits as well."""
        while True:
            if self._open and self.positions.lease():
                if spans := self._spans(rows):
                    return spans
                if self.abilities.bounded:
                    return ()
            self._arrived.clear()
            self._memory._waiting.add(self._arrived)
            try:
                await self._arrived.wait()
            finally:
                self._memory._waiting.discard(self._arrived)

    def _spans(self, rows: int) -> list[Span]:
        self.positions.rewound()  # the next read begins at what is expected anyway
        pieces = []
        for partition in self.positions.partitions:
            if self.withheld is not None and self.withheld(partition):
                continue
            start = self.positions.expected(partition) or 0
            records: Sequence[RecordLike] = self._memory.read(partition, start)
            if records:
                end = self._memory.end(partition)
                begun = max(start, end - len(records))
                if begun > start:
                    self.positions.skip(partition, start, begun)  # forgotten by `clear`
                pieces.append([(partition, first, last, some, size_of(some)) for first, last, some in cut(begun, end, records, rows)])
        turns = zip_longest(*pieces)
        return [self.positions.take(*piece) for turn in turns for piece in turn if piece is not None]

    def ended_at(self, partition: Partition) -> int:
        """See `Joinable.ended_at`. Memory has no records under way: where a partition is read to its end, nothing is left."""
        at = self.positions.expected(partition)
        return END if at is not None and at >= self._memory.end(partition) else 0

    async def store(self, offsets: Mapping[Partition, int]) -> bool:
        """See `Source.store`."""
        if self.fails is not None:
            error, self.fails = self.fails, None
            raise error
        if not self.storing or not self.positions.lease():
            return False
        if self.beyond is not None:
            offsets = {**self.positions.finished(), **offsets}
            self._memory.free.update({one: self.beyond(one, offset) for one, offset in offsets.items()})
        self._memory.stored.update(offsets)
        return True


class MemorySink:
    """Appends outputs, and acknowledges them at once, unless `hold`, `delay` or `refuse` was called.

    `under_way` are outputs that were sent and are in no topic yet, by partition. A worker that ends without notice leaves them: they arrive
    later, or never.
    """

    abilities: Final = Abilities(replay=True)

    def __init__(self, memory: Memory, *, limits: Mapping[str, int] | None = None) -> None:
        self._memory = memory
        self._limits = limits or {}
        self._holding = self._delaying = False
        self._refusals: list[Callable[[Parcel], bool]] = []
        self.held: list[Sent] = []
        self.under_way: dict[Partition, deque[tuple[Record, Sent]]] = {}

    def limit(self, topic: str) -> int:
        """See `Sink.limit`."""
        return self._limits.get(topic, LIMIT)

    def fits(self, parcel: Parcel) -> bool:
        """See `Sink.fits`."""
        return _bytes(parcel) <= self.limit(parcel.topic)

    def partition_for(self, topic: str, key: bytes | None) -> int:
        """Returns CRC-32 of the key: without a broker any stable choice works."""
        return zlib.crc32(key or b"") % self._memory.partitions

    def hold(self) -> None:
        """Keeps later outputs, and acknowledges them when `held` is settled."""
        self._holding = True

    def delay(self) -> None:
        """Leaves later outputs under way, until they `arrive`."""
        self._delaying = True

    def arrive(self, partition: Partition) -> None:
        """Appends the next output that is under way to the partition, and acknowledges it."""
        record, sent = self.under_way[partition].popleft()
        if not self.under_way[partition]:
            del self.under_way[partition]
        self._memory.append(record)
        sent.settle()

    def release(self) -> None:
        """Acknowledges what was held or is under way, and later outputs at once."""
        self._holding = self._delaying = False
        held, self.held = self.held, []
        for sent in held:
            sent.settle()
        while self.under_way:
            self.arrive(next(iter(self.under_way)))

    def refuse(self, which: Callable[[Parcel], bool] = lambda _: True) -> None:
        """Refuses the whole of the next `send` that has such a parcel."""
        self._refusals.append(which)

    async def send(self, parcels: Sequence[Parcel], under: Span | None = None) -> Sent:
        """See `Sink.send`."""
        for parcel in parcels:
            if len(parcel) == 1 and not self.fits(parcel):
                raise DeliveryFailed(f"the output is larger than {parcel.topic} takes ({self.limit(parcel.topic)} bytes)")
        sent = Sent(1)
        if under is not None and not under.current:
            sent.settle(Lapsed())
            return sent
        refused = next((which for which in self._refusals if any(map(which, parcels))), None)
        if refused is not None:
            self._refusals.remove(refused)
            sent.settle(DeliveryFailed("refused, as requested"))
            return sent
        for parcel in parcels:
            partition = parcel.partition % self._memory.partitions if parcel.dead else parcel.partition
            for stamp, key, value, headers in parcel.records:
                record = Record(parcel.topic, value, key, tuple(headers), stamp, partition)
                if self._delaying:
                    sent.add()
                    self.under_way.setdefault((parcel.topic, partition), deque()).append((record, sent))
                else:
                    self._memory.append(record)
        if self._holding:
            self.held.append(sent)
        else:
            sent.settle()
        return sent


def _bytes(parcel: Parcel) -> int:
    size = _AROUND
    for _, key, value, headers in parcel.records:
        size += _AROUND + len(key or b"") + len(value or b"") + sum(len(name) + len(text or b"") + 10 for name, text in headers)
    return size
