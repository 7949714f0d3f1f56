"""The laws of adaptive batching, under any sequence of requests, runs and time."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from penstock.errors import CallRefused, Overloaded, TooLarge, TooLate
from penstock.serving.batching import OVERHEAD, Batcher, Cost, Waiting

LANES = ("a", "b")
NEVER = 1e9


class Batching(RuleBasedStateMachine):
    """A batcher with a clock of its own, and what it was given."""

    @initialize(max_rows=st.integers(1, 8), room=st.integers(1, 12))
    def begin(self, max_rows: int, room: int) -> None:
        self.now = 0.0
        self.batcher: Batcher[Waiting] = Batcher(max_rows=max_rows, max_bytes=room * (OVERHEAD + 10))
        self.waiting: dict[str, list[Waiting]] = defaultdict(list)
        self.ran = False
        self.retries: list[float] = []

    @rule(lane=st.sampled_from(LANES), rows=st.integers(1, 9), within=st.sampled_from([0.01, 1.0, 60.0, NEVER]))
    def offer(self, lane: str, rows: int, within: float) -> None:
        one = Waiting(rows=rows, bytes=10, deadline=self.now + within)
        try:
            self.batcher.offer(lane, one, self.now)
        except TooLarge:
            assert rows > self.batcher.max_rows
        except TooLate:
            assert self.ran, "nothing is too late by an estimate before the first run"
        except Overloaded as error:
            self.retries.append(error.retry_after)
            full = self.batcher.bytes + OVERHEAD + 10 > self.batcher.max_bytes
            assert full or self.ran
        else:
            assert rows <= self.batcher.max_rows
            self.waiting[lane].append(one)

    @rule(took=st.floats(0.0001, 2))
    def run(self, took: float) -> None:
        oldest = min((lane[0].since for lane in self.waiting.values() if lane), default=None)
        batch = self.batcher.take(self.now)
        if batch is None:
            assert oldest is None
            return
        lane = self.waiting[str(batch.lane)]
        assert lane[0].since == oldest, "the lane whose first request has waited longest is next"
        taken = len(batch.members) + len(batch.late)
        assert taken >= 1
        assert sorted(map(id, (*batch.members, *batch.late))) == sorted(map(id, lane[:taken])), "first in, first out"
        places = [lane.index(one) for one in batch.members]
        assert places == sorted(places)
        assert sum(one.rows for one in batch.members) == batch.rows <= self.batcher.max_rows
        assert not batch.late or self.ran or all(one.deadline < self.now for one in batch.late)
        del lane[:taken]
        self.now += took
        if batch.members:
            self.batcher.ran(batch.lane, batch.rows, took, self.now)
            self.ran = True

    @rule(seconds=st.floats(0, 30))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def what_waits_is_counted(self) -> None:
        if not hasattr(self, "batcher"):
            return
        left = [one for lane in self.waiting.values() for one in lane]
        assert self.batcher.rows == sum(one.rows for one in left)
        assert self.batcher.bytes == sum(one.bytes + OVERHEAD for one in left) <= self.batcher.max_bytes
        assert len(self.batcher) == len(left)
        assert bool(self.batcher) == bool(left)
        assert all(seconds > 0 for seconds in self.retries)


TestBatching = Batching.TestCase


@given(
    per_row=st.floats(1e-6, 1e-2), fixed=st.floats(0, 1e-1),
    runs=st.lists(st.integers(1, 2048), min_size=30, max_size=60).filter(lambda runs: max(runs) > 2 * min(runs)),
)  # fmt: skip
def test_the_cost_model_finds_the_line(per_row: float, fixed: float, runs: list[int]) -> None:
    """Durations on a line are predicted on it."""
    cost = Cost()
    for rows in runs:
        cost.ran(rows, per_row * rows + fixed)
    last = runs[-20:]
    if max(last) > 2 * min(last):
        for rows in last:
            assert cost.of(rows) == pytest.approx(per_row * rows + fixed, rel=0.05)


@given(rows=st.integers(1, 100), seconds=st.floats(1e-6, 10))
def test_runs_of_one_size_promise_no_more_for_larger_ones(rows: int, seconds: float) -> None:
    """What is not known is taken as proportional."""
    cost = Cost()
    for _ in range(5):
        cost.ran(rows, seconds)
    assert cost.of(rows) == pytest.approx(seconds)
    assert cost.of(10 * rows) == pytest.approx(10 * seconds)


def test_one_slow_run_does_not_refuse_for_ever() -> None:
    """A process that was paused answers again."""
    batcher: Batcher[Waiting] = Batcher(max_rows=8, max_bytes=1 << 20)
    batcher.ran("a", 1, 0.001, 0.0)  # a lane that it does not know
    batcher.offer("a", Waiting(rows=1, bytes=1, deadline=NEVER), 0.0)
    assert batcher.take(0.0) is not None
    batcher.ran("a", 1, 3600.0, 3600.0)
    refused = 0
    while True:
        try:
            batcher.offer("a", Waiting(rows=1, bytes=1, deadline=3601.0), 3600.0)
            break
        except CallRefused:
            refused += 1
    assert 0 < refused < 200


def test_a_batch_is_no_larger_than_its_deadlines_allow() -> None:
    """The next request waits for the next batch when both together would be late."""
    batcher: Batcher[Waiting] = Batcher(max_rows=100, max_bytes=1 << 20)
    batcher.offer("a", Waiting(rows=10, bytes=1, deadline=NEVER), 0.0)
    batcher.take(0.0)
    batcher.ran("a", 10, 1.0, 1.0)  # 0.1 s a row
    first, second = Waiting(rows=10, bytes=1, deadline=2.5), Waiting(rows=10, bytes=1, deadline=60.0)
    batcher.offer("a", first, 1.0)
    batcher.offer("a", second, 1.0)
    taken = batcher.take(1.0)
    assert taken is not None
    assert taken.members == [first]
