"""Which offset is next, which batches are under way, and what may be committed: the truth about positions.

The rules, one assignment at a time:

1. `expected[tp]` is the next offset to take. A batch is taken only from there; whoever holds other records has been
   moved by somebody else and must go back. So nothing is skipped and nothing is taken twice.
2. A gap in the log (compaction, transaction markers, aborted records) is part of the batch that was read across it:
   a span is the half-open range of positions [start, end), whatever number of records it holds.
3. A span is finished when everything that it caused was acknowledged by the broker. There are no partial finishes.
4. What may be committed is the end of the contiguous run of finished spans, never more.
5. Who drains the tracker lets nothing more be started: what is done after its last commit would be done twice.
6. A new assignment is a new epoch. Spans of an earlier epoch are forgotten: finishing one changes nothing, because
   another worker may own the partition, and this one will read again from the committed offset.

Pure: no I/O, no clock, no Kafka. `tests/properties/test_tracker.py` holds the laws.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

__all__ = ["Partition", "Span", "Tracker"]

Partition = tuple[str, int]


@dataclass(slots=True, eq=False)
class Span:
    """Positions [start, end) of a partition that were taken together, and their size in bytes."""

    partition: Partition
    start: int
    end: int
    size: int
    epoch: int
    started: bool = False
    finished: bool = False


@dataclass(slots=True)
class _Line:
    """One partition: the next position to take, and the spans under way in the order in which they were taken."""

    expected: int
    safe: int
    committed: int
    spans: deque[Span] = field(default_factory=deque)


class Tracker:
    """Positions of all partitions assigned to this worker."""

    def __init__(self) -> None:
        self.epoch = 0
        self.in_flight = 0
        self.in_flight_bytes = 0
        self._lines: dict[Partition, _Line] = {}
        self._draining = False

    def assign(self, positions: Mapping[Partition, int], fresh: Collection[Partition] = ()) -> None:
        """A new assignment: each partition starts at its position. All earlier spans are forgotten.

        The positions of those in `fresh` are not the broker's yet, so they are committable as they stand: a group that
        starts at the end of a topic must find that place again, also when it stops before the first event.
        """
        self.epoch += 1
        self.in_flight = self.in_flight_bytes = 0
        self._draining = False
        self._lines = {partition: _Line(at, at, -1 if partition in fresh else at) for partition, at in positions.items()}

    def drain(self) -> None:
        """Nothing more may be started until the next assignment."""
        self._draining = True

    def revoke(self) -> None:
        """Nothing is assigned any more."""
        self.assign({})

    @property
    def partitions(self) -> tuple[Partition, ...]:
        return tuple(self._lines)

    def expected(self, partition: Partition) -> int | None:
        """The next position to take, None when the partition is not assigned."""
        line = self._lines.get(partition)
        return None if line is None else line.expected

    def take(self, partition: Partition, start: int, end: int, size: int = 0) -> Span:
        """Takes [start, end). Raises ValueError unless `start` is the expected position and the range is not empty."""
        line = self._lines.get(partition)
        if line is None or start != line.expected or end <= start:
            expected = "nothing: it is not assigned" if line is None else str(line.expected)
            raise ValueError(f"{partition}: took [{start}, {end}), expected {expected}")
        span = Span(partition, start, end, size, self.epoch)
        line.expected = end
        line.spans.append(span)
        self.in_flight += 1
        self.in_flight_bytes += size
        return span

    def skip(self, partition: Partition, start: int, end: int) -> None:
        """Takes and finishes [start, end), which holds no record to process (markers, aborted or compacted records)."""
        self.finish(self.take(partition, start, end))

    def start(self, span: Span) -> bool:
        """Marks the span as being worked on. False, and nothing to do, when its assignment has passed or is being drained."""
        span.started = self.current(span) and not self._draining
        return span.started

    def current(self, span: Span) -> bool:
        """Whether the span's assignment still holds."""
        return span.epoch == self.epoch

    def finish(self, span: Span) -> None:
        """Everything that the span caused is acknowledged. Ignored when its assignment has passed."""
        if span.epoch != self.epoch or span.finished:
            return
        span.finished = True
        self.in_flight -= 1
        self.in_flight_bytes -= span.size
        line = self._lines[span.partition]
        while line.spans and line.spans[0].finished:
            line.safe = line.spans.popleft().end

    @property
    def working(self) -> int:
        """Spans that somebody has started and not finished; what a drain has to wait for."""
        return sum(span.started and not span.finished for line in self._lines.values() for span in line.spans)

    def committable(self) -> dict[Partition, int]:
        """For each partition that has moved, the position up to which everything is finished."""
        return {partition: line.safe for partition, line in self._lines.items() if line.safe > line.committed}

    def committed(self, offsets: Mapping[Partition, int], epoch: int) -> None:
        """The broker has stored `offsets`, which `committable` gave in `epoch`."""
        if epoch != self.epoch:
            return
        for partition, offset in offsets.items():
            line = self._lines[partition]
            line.committed = max(line.committed, offset)
