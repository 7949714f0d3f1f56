"""Joins under any order of arrivals, deadlines, repetitions, late members, acknowledgements, crashes and rebalances.

The model keeps the rules one record at a time. The world is the rest: topics with offsets, a clock, what was committed, and outputs that
were sent and not acknowledged. A crash and a rebalance are the same for a join: another one begins at the committed offsets. What was
freed beyond them is read again, or skipped where the commit names it (`skips`).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from penstock.joins import END, Bounds, Quorum, present
from penstock.joins.groups import Decided, Groups, enough
from penstock.joins.rows import DEADLINE, MASK, OVERDUE, Rows
from penstock.schema import Column

NAMES = ("a", "b", "c")
MEMBERS = range(len(NAMES))
WITHIN = 10
FAR = 10**9
WIDE = Bounds()
LONGEST = 30  # ms, and so turns, for which one record may hold back all others: `within` and `retain`, and some turns to read
Answer = tuple[int, int, int, tuple[int, ...]]  # the members, the deadline, those used after it, the offsets

quorums = st.builds(
    Quorum,
    members=st.just(NAMES),
    need=st.integers(1, 3),
    within=st.just(WITHIN),
    require=st.frozensets(st.sampled_from(NAMES), max_size=2),
    retain=st.sampled_from([0, 15]),
)
bounds = st.builds(Bounds, wait=st.integers(1, 8), held=st.integers(1, 8), step=st.integers(1, 3))


def columns(name: str) -> list[Column]:
    """Those of a member."""
    score, pair = f"{name}.score", f"{name}.pair"
    return [Column("id", "id", "string"), Column(score, score, "float64"), Column(pair, pair, "float32", (2,))]


@dataclass
class Group:
    """What the model knows of an id."""

    deadline: int
    offsets: dict[int, int] = field(default_factory=dict)
    came: set[int] = field(default_factory=set)
    overdue: set[int] = field(default_factory=set)
    decided: bool = False
    acked: bool = False
    ended: bool = False


class Model:
    """The rules of `penstock.joins.quorum`, without numpy."""

    def __init__(self, quorum: Quorum) -> None:
        self.quorum = quorum
        self.groups: dict[str, Group] = {}
        self.freed: set[tuple[int, int]] = set()
        self.late, self.repeated = [0] * 3, [0] * 3

    def add(self, member: int, records: Sequence[tuple[str, int, int]], now: int) -> tuple[list[int], dict[str, Answer]]:
        """Returns the rows that wait or have fired, and the answers."""
        kept, fired = [], {}
        for row, (id, stamp, offset) in enumerate(records):
            stamp = min(stamp, now)
            group = self.groups.setdefault(id, Group(stamp + WITHIN))
            if member in group.came:
                self.repeated[member] += 1
                self.freed.add((member, offset))
                continue
            group.came.add(member)
            if group.decided:
                self.late[member] += 1
                self.freed.add((member, offset))
                group.ended |= len(group.came) == len(NAMES)
                continue
            kept.append(row)
            group.offsets[member] = offset
            if stamp > group.deadline:
                group.overdue.add(member)
            names = {NAMES[one] for one in group.came}
            if len(names) >= self.quorum.need and names >= self.quorum.require:
                fired[id] = self.decide(group)
        self.sweep()
        return kept, fired

    def due(self, now: int, read_to: Sequence[int]) -> dict[str, Answer]:
        def due(group: Group, time: int) -> bool:
            return now > time and all(read_to[one] > time for one in MEMBERS if one not in group.came)

        for group in self.groups.values():
            group.ended |= group.decided and due(group, group.deadline + self.quorum.retain)
        failed = {id: self.decide(one) for id, one in self.groups.items() if not one.decided and due(one, one.deadline)}
        self.sweep()
        return failed

    def decide(self, group: Group) -> Answer:
        group.decided = True
        group.ended = len(group.came) == len(NAMES)
        offsets = tuple(group.offsets.get(one, -1) for one in MEMBERS)
        return sum(1 << one for one in group.came), group.deadline, sum(1 << one for one in group.overdue), offsets

    def acknowledge(self, ids: Sequence[str]) -> None:
        for id in ids:
            self.groups[id].acked = True
        self.sweep()

    def sweep(self) -> None:
        for id, group in [*self.groups.items()]:
            if group.acked and group.ended:
                self.freed.update(group.offsets.items())
                del self.groups[id]


class World:
    """One join beside its model, between topics whose timestamps do not go back, and a group that commits."""

    def __init__(self, quorum: Quorum, bounds: Bounds = WIDE, *, skips: bool = False) -> None:
        self.quorum, self.bounds, self.skips = quorum, bounds, skips
        self.topics: list[list[tuple[str, int]]] = [[], [], []]  # id and timestamp
        self.free: list[set[int]] = [set(), set(), set()]
        self.now = 100
        self.crashes = 0
        self.answered: set[str] = set()  # ids with an answer that was acknowledged
        self.masks: list[int] = []  # of all answers
        self.used: Counter[tuple[int, int]] = Counter()  # how many answers each record is part of
        self.begin()

    def begin(self) -> None:
        self.groups = Groups(self.quorum, self.bounds)
        self.rows = Rows(self.quorum, [columns(name) for name in NAMES])
        self.model = Model(self.quorum)
        self.sent: list[Decided] = []
        self.at = [self.committed(member) for member in MEMBERS]
        if not self.skips:
            self.free = [set(range(at)) for at in self.at]
        self.begun = [set(free) for free in self.free]

    def committed(self, member: int) -> int:
        return next(at for at in itertools.count() if at not in self.free[member])

    # -- what happens ----------------------------------------------------------------------------------------------

    def produce(self, member: int, id: str, stamp: int) -> None:
        topic = self.topics[member]
        topic.append((id, max(stamp, topic[-1][1] if topic else 0)))

    def read(self, member: int, most: int) -> int:
        """Reads as much as there is room for; returns how much that was."""
        topic, start = self.topics[member], self.at[member]
        end = min(start + most, start + self.groups.room(member), len(topic))
        if end <= start:
            return 0
        self.at[member] = end
        offsets = [at for at in range(start, end) if at not in self.begun[member]]
        records = [(*topic[at], at) for at in offsets]
        ids = [id for id, _, _ in records]
        added = self.groups.add(member, ids, _ints(stamp for _, stamp, _ in records), _ints(offsets), self.now)
        scores = np.array(offsets, np.float64) + 1000 * member
        name, pairs = NAMES[member], np.stack([scores, -scores], 1).astype("f4")
        self.rows.put(member, added.rows, added.slots, {"id": np.array(ids, object), f"{name}.score": scores, f"{name}.pair": pairs})
        kept, fired = self.model.add(member, records, self.now)
        assert added.rows.tolist() == kept
        assert _answers(added.fired) == fired
        assert enough(self.quorum, added.fired.masks).all()
        self.send(added.fired)
        return end - start

    def due(self) -> Decided:
        read_to = [self.topics[one][self.at[one] - 1][1] if self.at[one] else 0 for one in MEMBERS]
        read_to = [END if self.at[one] == len(self.topics[one]) else read_to[one] for one in MEMBERS]
        failed = self.groups.due(self.now, read_to)
        assert _answers(failed) == self.model.due(self.now, read_to)
        assert not enough(self.quorum, failed.masks).any()
        for id, mask, deadline in zip(failed.ids, failed.masks.tolist(), failed.deadlines.tolist(), strict=True):
            assert self.now > deadline
            unread = [self.topics[one][self.at[one] :] for one in MEMBERS if not mask >> one & 1]
            assert not any(one == id and stamp <= deadline for topic in unread for one, stamp in topic)
        self.send(failed)
        return failed

    def send(self, decided: Decided) -> None:
        """Checks the batch of what was decided; its outputs are on their way."""
        batch = self.rows.take(decided)
        rows = range(batch.size) if batch.rows is None else batch.rows.tolist()
        for at, row in enumerate(rows):
            row = {name: column[at] for name, column in batch.columns.items()} | {"offsets": decided.offsets[:, row], "row": row}
            assert row["id"] == decided.ids[row["row"]]
            assert (row[MASK], row[DEADLINE], row[OVERDUE]) == tuple(
                int(one[row["row"]]) for one in (decided.masks, decided.deadlines, decided.overdue)
            )
            for member, name in enumerate(NAMES):
                offset = int(row["offsets"][member])
                score = 0.0 if offset < 0 else offset + 1000.0 * member
                assert row[present(name)] == (offset >= 0)
                assert (row[f"{name}.score"], row[f"{name}.pair"].tolist()) == (score, [score, -score])
        assert len(rows) + len(batch.failures) == len(decided.ids)
        if decided:
            self.sent.append(decided)
            self.masks += decided.masks.tolist()
            self.used.update((member, at) for member in MEMBERS for at in decided.offsets[member].tolist() if at >= 0)

    def acknowledge(self, which: int) -> None:
        decided = self.sent.pop(which)
        self.groups.acknowledge(decided.tickets)
        self.model.acknowledge(decided.ids)
        self.answered.update(decided.ids)

    def crash(self) -> None:
        """Another join begins, with what was committed; nothing that was sent before is acknowledged by it."""
        self.settle()
        self.crashes += 1
        self.begin()

    # -- the laws --------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Frees what the join reports, which is what the model has freed, and checks the counts."""
        freed = [(member, at) for member, those in enumerate(self.groups.freed()) for at in those.tolist()]
        assert len(freed) == len(set(freed)), "an offset is free once"
        assert set(freed) == self.model.freed
        self.model.freed.clear()
        for member, at in freed:
            self.free[member].add(at)
        groups = self.model.groups.values()
        assert self.groups.waiting.tolist() == [sum(not one.decided and member in one.came for one in groups) for member in MEMBERS]
        assert self.groups.held.tolist() == [sum(member in one.offsets for one in groups) for member in MEMBERS]
        assert self.groups.late.tolist() == self.model.late
        assert self.groups.repeated.tolist() == self.model.repeated
        assert all(count <= 1 + self.crashes for count in self.used.values()), "at most once more per crash"

    def nothing_is_lost(self) -> None:
        """What is committed belongs to an answered id, or to one that is answered after any crash: it has records that are not free."""
        held = {self.topics[one][at][0] for one in MEMBERS for at in range(len(self.topics[one])) if at not in self.free[one]}
        for member in MEMBERS:
            assert {self.topics[member][at][0] for at in self.free[member]} <= self.answered | held

    def drain(self) -> None:
        """Time passes and everything is read and acknowledged: then all ids are answered, and everything is free."""
        for _ in range(LONGEST * (sum(map(len, self.topics)) + 2)):
            self.due()
            while self.sent:
                self.acknowledge(0)
            self.settle()
            if all(at == len(topic) for at, topic in zip(self.at, self.topics, strict=True)):
                if not self.model.groups:
                    break
                self.now += FAR
            for member in MEMBERS:
                self.read(member, 2)
            self.now += 1
        assert [len(topic) for topic in self.topics] == self.at, "no bound stops it"
        assert [set(range(len(topic))) for topic in self.topics] == self.free
        assert {id for topic in self.topics for id, _ in topic} <= self.answered
        assert not self.model.groups


def _ints(values: object) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.fromiter(values, np.int64)  # type: ignore[call-overload, no-any-return]  # any iterable of int


def _answers(decided: Decided) -> dict[str, Answer]:
    columns = decided.masks.tolist(), decided.deadlines.tolist(), decided.overdue.tolist(), map(tuple, decided.offsets.T.tolist())
    return dict(zip(decided.ids, zip(*columns, strict=True), strict=True))


class Joins(RuleBasedStateMachine):
    """Any order of what may happen."""

    @initialize(quorum=quorums, bounds=bounds, skips=st.booleans())
    def begin(self, quorum: Quorum, bounds: Bounds, skips: bool) -> None:
        self.world = World(quorum, bounds, skips=skips)

    @rule(member=st.sampled_from(MEMBERS), ids=st.lists(st.sampled_from("uvwxyz"), min_size=1, max_size=6), age=st.integers(-5, 30))
    def produce(self, member: int, ids: list[str], age: int) -> None:
        for id in ids:
            self.world.produce(member, id, self.world.now - age)

    @rule(member=st.sampled_from(MEMBERS), most=st.integers(1, 6))
    def read(self, member: int, most: int) -> None:
        self.world.read(member, most)

    @rule(ms=st.integers(1, 20))
    def wait(self, ms: int) -> None:
        self.world.now += ms

    @rule()
    def due(self) -> None:
        self.world.due()

    @rule(which=st.integers(0, 10))
    def acknowledge(self, which: int) -> None:
        if self.world.sent:
            self.world.acknowledge(which % len(self.world.sent))

    @rule()
    def crash(self) -> None:
        self.world.crash()

    @invariant()
    def laws(self) -> None:
        if hasattr(self, "world"):
            self.world.settle()
            self.world.nothing_is_lost()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.drain()


Joins.TestCase.settings = settings(stateful_step_count=40)
TestJoins = Joins.TestCase

STEPS = ("a", "b", "c", "a again", "deadline", "crash")


@pytest.mark.parametrize("prompt", [True, False], ids=["acknowledged at once", "acknowledged at the end"])
@pytest.mark.parametrize(
    "quorum",
    [Quorum(NAMES, 3, WITHIN), Quorum(NAMES, 2, WITHIN, retain=5), Quorum(NAMES, 2, WITHIN, frozenset("c"), 5), Quorum(NAMES, 1, WITHIN)],
    ids=["all", "two", "two and c", "one"],
)
def test_every_order_of_one_event(quorum: Quorum, prompt: bool) -> None:
    """All 720 orders of three members, a repetition, a deadline and a crash: the answer is never lost, and given at most twice."""
    for order in itertools.permutations(STEPS):
        world = World(quorum)
        for step in order:
            if step == "crash":
                world.crash()
                for member in MEMBERS:
                    world.read(member, 2)
            elif step == "deadline":
                world.now += WITHIN + quorum.retain + 1
                world.due()
            else:
                world.produce(NAMES.index(step[0]), "x", world.now)
                world.read(NAMES.index(step[0]), 1)
            while prompt and world.sent:
                world.acknowledge(0)
            world.settle()
            world.nothing_is_lost()
        world.drain()


@given(
    st.lists(st.tuples(st.sampled_from(MEMBERS), st.integers(0, 20), st.integers(0, 3)), max_size=80),
    quorums,
    st.sampled_from([Bounds(1, 1, 1), Bounds(1, 8, 1), Bounds(4, 2, 1)]),
    st.sampled_from([0, FAR]),
)
def test_no_bound_stops_a_join(records: list[tuple[int, int, int]], quorum: Quorum, bounds: Bounds, behind: int) -> None:
    """Members have their events in different orders, in the present or long ago, and wait for each other with the least room."""
    world = World(quorum, bounds)
    world.now += behind
    stamp = 90
    for member, id, later in records:
        stamp += later
        world.produce(member, str(id), stamp)
    world.drain()


STEP = st.sampled_from(["read a", "read b", "read c", "due", "acknowledge", "crash"])


@given(st.tuples(*[st.permutations("xyz")] * 3), st.lists(STEP, min_size=10, max_size=40))
def test_restart_that_skips_what_is_free_contradicts_no_answer(orders: tuple[list[str], ...], steps: list[str]) -> None:
    """The offsets of a group are free together. By positions alone, a part of an answered group may be read again, and fail."""
    world = World(Quorum(NAMES, 3, WITHIN), skips=True)
    for member, ids in enumerate(orders):
        for id in ids:
            world.produce(member, id, world.now)
    world.now += FAR
    for step in [*steps, "crash", "due"]:
        if step == "crash":
            world.crash()
        elif step == "due":
            assert not world.due()
        elif step != "acknowledge":
            world.read(NAMES.index(step[-1]), 1)
        elif world.sent:
            world.acknowledge(0)
    world.drain()
    assert not any(world.quorum.all & ~mask for mask in world.masks)


@given(st.lists(st.tuples(st.sampled_from(MEMBERS), st.integers(0, 9)), max_size=60), quorums, st.lists(st.integers(0, 5), max_size=20))
def test_backlog_fails_no_event_whose_members_came_in_time(records: list[tuple[int, int]], quorum: Quorum, reads: list[int]) -> None:
    """However late they are read, and in whatever turns: an event with records of all members by its deadline is answered."""
    world = World(quorum)
    for at, (member, id) in enumerate(records):
        world.produce(member, str(id), 90 + at // 8)
    world.now += FAR
    whole = set.intersection(*({id for id, _ in topic} for topic in world.topics))
    failed: set[str] = set()
    for turn, most in enumerate(reads):
        world.read(turn % 3, most)
        failed.update(world.due().ids)
    for member in MEMBERS:
        world.read(member, 100)
        failed.update(world.due().ids)
    assert not failed & whole
