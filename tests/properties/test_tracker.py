"""Positions under any order of taking, finishing, committing and rebalancing, against a model that is a log and three sets.

The world is the other half of the model: a broker that stores commits, requests that are lost, answers that come late
or in another order, and another worker that goes on where the broker says while a partition is away. The law that all of
this is for: whatever the broker has stored, every position below it was finished by somebody. Nothing is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from penstock.transports.tracker import Partition, Span, Tracker

PARTITIONS: list[Partition] = [("t", 0), ("t", 1), ("u", 0)]
partitions = st.sampled_from(PARTITIONS)
lengths = st.integers(1, 5)


@dataclass
class Line:
    """What the model knows of a partition: what the broker stored, which positions anybody has finished, and our assignment of it."""

    stored: int = 0
    done: set[int] = field(default_factory=set)
    ours: bool = False
    begin: int = 0  # where our assignment began
    next: int = 0
    acked: int = 0  # the highest commit whose answer has reached us
    finished: set[int] = field(default_factory=set)  # in this assignment, or kept and free
    kept: set[int] = field(default_factory=set)  # and not free

    def prefix(self) -> int:
        """The first position of this assignment that is not finished."""
        at = self.begin
        while at in self.finished:
            at += 1
        return at

    def ended(self) -> int:
        """The first position that is neither finished nor kept."""
        at = self.begin
        while at in self.finished or at in self.kept:
            at += 1
        return at


@dataclass(frozen=True)
class Commit:
    """A commit that the broker has stored, and whose answer is still under way."""

    offsets: Mapping[Partition, int]
    epoch: int
    changes: Mapping[Partition, int]


class Positions(RuleBasedStateMachine):
    """One worker's tracker, the broker, and the rest of its group."""

    spans: Bundle[Span] = Bundle("spans")
    commits: Bundle[Commit] = Bundle("commits")

    def __init__(self) -> None:
        super().__init__()
        self.tracker = Tracker()
        self.lines = {partition: Line() for partition in PARTITIONS}
        self.alive: dict[int, Span] = {}  # taken in this assignment and not finished
        self.started: set[int] = set()
        self.rewound: set[Partition] = set()
        self.last: dict[Partition, Span] = {}  # that was kept
        self.changed: set[Partition] = set()  # what is free beyond its position, and not stored

    # -- rebalances ------------------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        """Most runs would otherwise begin with nothing to do."""
        self.rebalance(set(PARTITIONS[:2]))

    @rule(ours=st.sets(partitions))
    def rebalance(self, ours: set[Partition]) -> None:
        """A new assignment, each partition from where the broker says, whatever is under way."""
        self.alive.clear()
        self.started.clear()
        self.rewound.clear()
        self.last.clear()
        self.changed.clear()
        for partition, line in self.lines.items():
            line.kept.clear()
            line.ours = partition in ours
            line.begin = line.next = line.acked = line.stored
            line.finished.clear()
        positions = {partition: self.lines[partition].stored for partition in ours}
        if positions:
            self.tracker.assign(positions)
        else:
            self.tracker.revoke()

    @rule(partition=partitions, length=lengths)
    def another_worker_goes_on(self, partition: Partition, length: int) -> None:
        """While the partition is not ours, its owner finishes and commits."""
        line = self.lines[partition]
        if not line.ours:
            line.done.update(range(line.stored, line.stored + length))
            line.stored += length

    # -- batches ---------------------------------------------------------------------------------------------------

    @rule(target=spans, partition=partitions, length=lengths, size=st.integers(0, 100))
    def take(self, partition: Partition, length: int, size: int) -> Span:
        line = self.lines[partition]
        if not line.ours:
            assert self.tracker.expected(partition) is None
            with pytest.raises(ValueError, match="not assigned"):
                self.tracker.take(partition, line.next, line.next + length, size=size)
            return Span(partition, line.next, line.next + length, (), size, -1, self.tracker)  # of no assignment: as late as can be
        span = self.tracker.take(partition, line.next, line.next + length, size=size)
        line.next += length
        self.alive[id(span)] = span
        return span

    @rule(partition=partitions, off=st.integers(-5, 5), length=st.integers(-1, 5))
    def take_from_elsewhere(self, partition: Partition, off: int, length: int) -> None:
        """A fetch that raced with a seek, or read twice: it changes nothing."""
        line = self.lines[partition]
        if line.ours and (off or length < 1):
            with pytest.raises(ValueError, match="expected"):
                self.tracker.take(partition, line.next + off, line.next + off + length)

    @rule(partition=partitions, length=lengths)
    def skip(self, partition: Partition, length: int) -> None:
        """Positions without a record are finished as they are taken; that is no loss."""
        line = self.lines[partition]
        if line.ours:
            self.tracker.skip(partition, line.next, line.next + length)
            skipped = range(line.next, line.next + length)
            line.finished.update(skipped)
            line.done.update(skipped)
            line.next += length

    @rule(span=spans)
    def start(self, span: Span) -> None:
        known = id(span) in self.alive
        finished = span.finished
        assert span.begin() == (span.epoch == self.tracker.epoch and not span.dropped)
        if known and not finished:
            self.started.add(id(span))

    @rule(span=spans)
    def finish(self, span: Span) -> None:
        """In any order, several times, and long after the partition went away."""
        span.finish()
        if self.alive.pop(id(span), None) is not None:
            self.started.discard(id(span))
            positions = range(span.start, span.end)
            self.lines[span.partition].finished.update(positions)
            self.lines[span.partition].done.update(positions)

    @rule(partition=partitions)
    def keep(self, partition: Partition) -> None:
        """The first span that has not ended: it is under way no more, and nothing of it may be committed until it is free."""
        line = self.lines[partition]
        span = min((one for one in self.alive.values() if one.partition == partition), key=lambda one: one.start, default=None)
        if span is not None:
            line.kept.update(range(span.start, span.end))
            span.keep(min(line.kept))
            del self.alive[id(span)]
            self.started.discard(id(span))
            self.last[partition] = span
            assert not span.records

    @rule(partition=partitions, which=st.integers(0, 20))
    def free(self, partition: Partition, which: int) -> None:
        """A position of those that are kept, in any order."""
        line = self.lines[partition]
        if line.kept:
            at = sorted(line.kept)[which % len(line.kept)]
            line.kept.discard(at)
            line.finished.add(at)
            line.done.add(at)
            self.last[partition].keep(min(line.kept, default=1 << 62))
            self.changed.add(partition)

    @rule(span=spans)
    def abandon(self, span: Span) -> None:
        """The partition goes back to the span's start; what was taken behind it is read again as well."""
        known = id(span) in self.alive
        span.abandon()
        if not known:
            return
        line = self.lines[span.partition]
        line.next = span.start
        line.finished.difference_update([at for at in line.finished if at >= span.start])
        for one in [one for one in self.alive.values() if one.partition == span.partition and one.start >= span.start]:
            assert one.dropped
            del self.alive[id(one)]
            self.started.discard(id(one))
        self.rewound.add(span.partition)

    @rule()
    def seek(self) -> None:
        """The source learns where to read again, once."""
        assert self.tracker.rewound() == {partition: self.lines[partition].next for partition in self.rewound}
        self.rewound.clear()

    # -- commits ---------------------------------------------------------------------------------------------------

    @rule(target=commits, arrives=st.booleans())
    def commit(self, arrives: bool) -> Commit:
        """What may be committed is sent; the broker stores it, or the request is lost. It never tells the broker to go back."""
        offsets, changes = self.tracker.committable(), self.tracker.changes()
        if not arrives:
            return Commit({}, self.tracker.epoch, {})
        for partition, offset in offsets.items():
            line = self.lines[partition]
            assert offset >= line.stored
            line.stored = offset
        return Commit(offsets, self.tracker.epoch, changes)

    @rule(commit=consumes(commits))
    def hear(self, commit: Commit) -> None:
        """The answer, in whatever order, perhaps after another rebalance."""
        self.tracker.committed(commit.offsets, commit.epoch, commit.changes)
        if commit.epoch == self.tracker.epoch:
            for partition, offset in commit.offsets.items():
                if commit.changes[partition] == self.tracker.changes()[partition]:
                    self.changed.discard(partition)
                line = self.lines[partition]
                line.acked = max(line.acked, offset)

    # -- the laws --------------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_lost(self) -> None:
        """Every position below what the broker stored was finished, by us while it was ours or by another."""
        for line in self.lines.values():
            assert line.done.issuperset(range(line.stored))

    @invariant()
    def committable_is_the_finished_prefix(self) -> None:
        ours = {partition: line for partition, line in self.lines.items() if line.ours}
        expected = {one: line.prefix() for one, line in ours.items() if line.prefix() > line.acked or one in self.changed}
        assert self.tracker.committable() == expected
        assert self.tracker.uncommitted == sum(line.next - line.ended() + line.prefix() - line.acked for line in ours.values())
        for partition, line in ours.items():
            assert self.tracker.reach(partition) == line.next - line.prefix()
            assert self.tracker.under_way(partition) == (line.ended() < line.next)

    @invariant()
    def positions_are_the_models(self) -> None:
        for partition, line in self.lines.items():
            assert self.tracker.expected(partition) == (line.next if line.ours else None)
        assert set(self.tracker.partitions) == {partition for partition, line in self.lines.items() if line.ours}

    @invariant()
    def what_is_in_flight_is_counted(self) -> None:
        assert self.tracker.in_flight == len(self.alive)
        assert self.tracker.in_flight_bytes == sum(span.size for span in self.alive.values())
        assert self.tracker.working == len(self.started)


Positions.TestCase.settings = settings(stateful_step_count=40)
TestPositions = Positions.TestCase
