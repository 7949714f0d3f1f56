"""Which offset is next, which spans are under way, and what may be committed: the only record of positions, for every transport.

The rules, one assignment at a time:

1. `expected[tp]` is the next offset to take. A span is taken only from there; records that begin elsewhere are dropped and
   fetched again. So nothing is skipped and nothing is taken twice.
2. A gap in the log (compaction, transaction markers, aborted records) is part of the span that was read across it:
   a span is the half-open range of positions [start, end), whatever number of records it holds.
3. A span is finished when everything that it caused was acknowledged. There are no partial finishes.
4. What may be committed is the end of the contiguous run of finished spans, never more.
   A span may be kept instead of finished: its records wait for those of other partitions. It is under way no more, and has no records;
   the loop names the first position that is not free, and nothing from there on is committed.
5. A span that is abandoned is read again: the partition returns to its start, and the spans taken after it are dropped.
6. While draining, no new span begins: work finished after the final commit would be repeated by the next owner.
7. Nothing is worked on or sent while the `lease` does not hold: another worker may own the partitions by then. What was taken waits
   until it holds again, or until the assignment ends.
8. A new assignment is a new epoch. Spans of an earlier epoch are dropped: finishing one changes nothing, because
   another worker may own the partition, and this one reads again from the committed offset.

Pure: no I/O, no clock, no Kafka. `tests/properties/test_tracker.py` tests these rules.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from penstock.record import RecordLike

__all__ = ["ENDLESS", "Partition", "Span", "Tracker"]

Partition = tuple[str, int]
ENDLESS: Final = 1 << 63  # a position after all others


def _unheard() -> None:
    """The hook of a tracker that has no listener."""


def _always() -> bool:
    """The lease of a source that no other worker can replace."""
    return True


@dataclass(slots=True, eq=False)
class Span:
    """Positions [start, end) of a partition that were taken together, with their records and their acknowledgement.

    `records` are encoded records, or the rows of a `batch.Table`, which are columns already. `size` is in bytes.
    The holder of a span calls `begin` first, and `finish` or `abandon` in the end.
    """

    partition: Partition
    start: int
    end: int
    records: Sequence[RecordLike]
    size: int
    epoch: int
    _tracker: Tracker
    begun: bool = False
    finished: bool = False
    dropped: bool = False
    kept: bool = False

    def begin(self) -> bool:
        """Marks the span as being worked on. Returns False and does nothing when it was dropped, or the tracker drains."""
        return self._tracker.begin(self)

    @property
    def current(self) -> bool:
        """Returns whether the assignment under which it was taken still holds."""
        return self._tracker.current(self)

    @property
    def held(self) -> bool:
        """Returns whether outputs may be sent for it now: its assignment holds, and so does the lease."""
        return self._tracker.current(self) and self._tracker.lease()

    def keep(self, until: int) -> None:
        """Keeps the span, after those before it: its records wait for others, as long as that takes, and nothing waits for it.

        Of its partition, no position from `until` on is committed. Called again when that, or what is free beyond it, has changed.
        Ignored when it was dropped.
        """
        self._tracker.keep(self, until)

    def finish(self) -> None:
        """Finishes the span: everything that it caused is acknowledged. Ignored when it was dropped."""
        self._tracker.finish(self)

    def abandon(self) -> None:
        """Abandons the span: its records are read again. Ignored when it was dropped."""
        self._tracker.abandon(self)


@dataclass(slots=True)
class _Line:
    """One partition: the next position to take, and the spans under way in the order in which they were taken.

    `ended` is the end of the contiguous run of spans that were finished or kept; `until` ends what may be committed of it, where spans are
    kept. `changes` counts when what is free beyond that has changed, and `stored` is that count as of the last commit. `fresh`: its
    position is not stored anywhere yet.
    """

    expected: int
    safe: int
    committed: int
    fresh: bool = False
    spans: deque[Span] = field(default_factory=deque)
    ended: int = 0
    until: int = ENDLESS
    changes: int = 0
    stored: int = 0

    def advance(self) -> None:
        """Passes over the spans that have ended."""
        while self.spans and (self.spans[0].finished or self.spans[0].kept):
            self.ended = self.spans.popleft().end
        self.safe = max(self.safe, min(self.ended, self.until))


class Tracker:
    """Positions of all partitions assigned to this worker.

    `changed` is called when a span ends, at each assignment, and by a source whose `lease` holds again or was lost. `lease`
    returns whether this worker may act for its partitions now.
    """

    def __init__(self) -> None:
        self.changed: Callable[[], None] = _unheard
        self.lease: Callable[[], bool] = _always
        self.epoch = 0
        self.in_flight = 0
        self.in_flight_bytes = 0
        self._lines: dict[Partition, _Line] = {}
        self._rewound: set[Partition] = set()
        self._draining = False

    def assign(self, positions: Mapping[Partition, int], fresh: Collection[Partition] = ()) -> None:
        """Starts a new assignment: each partition starts at its position. Drops all earlier spans.

        The positions of those in `fresh` are not stored anywhere yet, so they are committable as they are: a group that
        starts at the end of a topic must find that position again, also when it stops before the first event.
        """
        self.epoch += 1
        self.in_flight = self.in_flight_bytes = 0
        self._draining = False
        self._rewound.clear()
        self._lines = {partition: _Line(at, at, at, partition in fresh, ended=at) for partition, at in positions.items()}
        self.changed()

    def drain(self) -> None:
        """Lets no span begin until the next assignment."""
        self._draining = True

    @property
    def draining(self) -> bool:
        """Whether no span begins until the next assignment."""
        return self._draining

    def revoke(self) -> None:
        """Ends the assignment."""
        self.assign({})

    @property
    def partitions(self) -> tuple[Partition, ...]:
        return tuple(self._lines)

    def expected(self, partition: Partition) -> int | None:
        """Returns the next position to take, None when the partition is not assigned."""
        line = self._lines.get(partition)
        return None if line is None else line.expected

    def take(self, partition: Partition, start: int, end: int, records: Sequence[RecordLike] = (), size: int = 0) -> Span:
        """Takes [start, end). Raises ValueError unless `start` is the expected position and the range is not empty."""
        line = self._lines.get(partition)
        if line is None or start != line.expected or end <= start:
            expected = "nothing: it is not assigned" if line is None else str(line.expected)
            raise ValueError(f"{partition}: took [{start}, {end}), expected {expected}")
        span = Span(partition, start, end, records, size, self.epoch, self)
        line.expected = end
        line.spans.append(span)
        self.in_flight += 1
        self.in_flight_bytes += size
        return span

    def here(self, partition: Partition) -> Span:
        """Returns a span of this assignment without positions, under which outputs are sent that no record causes."""
        at = self._lines[partition].expected if partition in self._lines else 0
        return Span(partition, at, at, (), 0, self.epoch, self)

    def skip(self, partition: Partition, start: int, end: int) -> None:
        """Takes and finishes [start, end), which holds no record to process (markers, aborted or compacted records)."""
        self.finish(self.take(partition, start, end))

    def begin(self, span: Span) -> bool:
        """See `Span.begin`."""
        span.begun = self.current(span) and not span.dropped and not self._draining
        return span.begun

    def current(self, span: Span) -> bool:
        """See `Span.current`."""
        return span.epoch == self.epoch

    def keep(self, span: Span, until: int) -> None:
        """See `Span.keep`. Raises ValueError when a span before it has not ended."""
        if span.epoch != self.epoch or span.finished or span.dropped:
            return
        line = self._lines[span.partition]
        line.until = until
        if span.kept:
            line.changes += 1
        elif not line.spans or line.spans[0] is not span:
            raise ValueError(f"{span.partition}: [{span.start}, {span.end}) is kept before the spans that were taken before it have ended")
        else:
            self._leaves(span)
            span.kept, span.records = True, ()
        line.advance()
        self.changed()

    def finish(self, span: Span) -> None:
        """See `Span.finish`."""
        if span.epoch != self.epoch or span.finished or span.dropped or span.kept:
            return
        span.finished = True
        self._leaves(span)
        self._lines[span.partition].advance()
        self.changed()

    def abandon(self, span: Span) -> None:
        """See `Span.abandon`."""
        if span.epoch != self.epoch or span.finished or span.dropped or span.kept:
            return
        line = self._lines[span.partition]
        while line.spans and line.expected > span.start:
            last = line.spans.pop()
            last.dropped = True
            line.expected = last.start
            if not last.finished:
                self._leaves(last)
        self._rewound.add(span.partition)
        self.changed()

    def rewound(self) -> dict[Partition, int]:
        """Returns the partitions that were set back since the last call, and their next positions: the source seeks there."""
        found = {partition: self._lines[partition].expected for partition in self._rewound if partition in self._lines}
        self._rewound.clear()
        return found

    def _leaves(self, span: Span) -> None:
        self.in_flight -= 1
        self.in_flight_bytes -= span.size

    @property
    def working(self) -> int:
        """The number of spans that were begun and have not ended: a drain waits for them."""
        return sum(span.begun and not span.finished for line in self._lines.values() for span in line.spans)

    def unfinished(self) -> list[Span]:
        """Returns the spans that were taken and have not ended."""
        return [span for line in self._lines.values() for span in line.spans if not span.finished]

    def committable(self) -> dict[Partition, int]:
        """Returns the position up to which everything is finished, for each partition where it, or what is free beyond it, has changed."""
        return {
            partition: line.safe
            for partition, line in self._lines.items()
            if line.safe > line.committed or line.fresh or line.changes > line.stored
        }

    def finished(self) -> dict[Partition, int]:
        """Returns, for each partition, the position up to which everything is finished."""
        return {partition: line.safe for partition, line in self._lines.items()}

    @property
    def uncommitted(self) -> int:
        """The positions that were taken and are not stored: what another worker would repeat if this one ended now.

        Without those that wait in spans that are kept: the loop bounds them by their `reach`, and no commit frees them.
        """
        return sum(line.expected - line.ended + line.safe - line.committed for line in self._lines.values())

    def under_way(self, partition: Partition) -> bool:
        """Returns whether records of the partition were taken and not finished or kept yet."""
        return bool(self._lines[partition].spans) if partition in self._lines else False

    def reach(self, partition: Partition) -> int:
        """Returns how many positions there are from the first that is not finished to the next to take."""
        line = self._lines.get(partition)
        return 0 if line is None else line.expected - line.safe

    def changes(self) -> dict[Partition, int]:
        """Returns, for each partition, how often what is free beyond its position has changed: `committed` takes it."""
        return {partition: line.changes for partition, line in self._lines.items()}

    def committed(self, offsets: Mapping[Partition, int], epoch: int, changes: Mapping[Partition, int] | None = None) -> None:
        """Records that the offsets, which `committable` returned in `epoch`, are stored, and what was free then."""
        if epoch != self.epoch:
            return
        for partition, offset in offsets.items():
            line = self._lines[partition]
            line.committed = max(line.committed, offset)
            line.stored = max(line.stored, (changes or {}).get(partition, 0))
            line.fresh = False
