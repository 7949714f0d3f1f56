"""A stage that joins, in the delivery loop, under any order of arrivals, deadlines, commits, acknowledgements, rebalances and crashes.

Between the source and the loop is a queue, as on Kafka: what was taken is not joined yet.
"""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock import runtime
from penstock.joins import Bounds
from penstock.pipeline import AtLeastOnce, Chunk, Delivery, Fixed, Pace, Pipeline, Program
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.testing.models import linear
from penstock.topology.parse import parse_text
from penstock.transports.memory import Memory, MemorySink, MemorySource
from penstock.transports.tracker import Span

TOPOLOGY = """
topology: sums
sources: {events: {topic: events, schema: event.avsc, id: id}}
nodes:
  double: {kind: model, model: double@1, materialize: true}
  half: {kind: model, model: half@1, materialize: true}
  total: {kind: rule, outputs: {y: double + half}, join: JOIN}
sinks:
  totals: {topic: totals, fields: {id: id, y: total.y, double: double, half: half}}
"""
EVENTS = 12
BEGIN = 1_700_000_000  # seconds: the time of all events
HOUR = 3600
MEMBERS = ("double", "half")
WIDE, QUICK = Bounds(), Pace()
ALL, ONE = "{within: 1h}", "{need: 1, require: [double], within: 1h, missing: {half: 0.5}}"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Program, dict[str, list[Record]]]]:
    """The program of the stage that joins, and the records of its topics, each event with x = its number."""
    folder: Path = tmp_path_factory.mktemp("joining")
    fields = [{"name": "id", "type": "string"}, {"name": "x", "type": "double"}]
    (folder / "event.avsc").write_text(json.dumps({"type": "record", "name": "Event", "fields": fields}))
    for name, factor in (("double", 2.0), ("half", 0.5)):
        DirectoryRegistry(folder / "models").publish(name, linear([factor]), version="1")

    @cache
    def made(join: str) -> tuple[Program, dict[str, list[Record]]]:
        loaded = runtime.load(parse_text(TOPOLOGY.replace("JOIN", join)), models=folder / "models", schemas=folder)
        programs = {name: runtime.prepare(share) for name, share in runtime.shares(loaded, "app").items()}
        events = [Record("events", json.dumps({"id": f"e{at}", "x": at}).encode(), None, (), BEGIN * 1000, 0, at) for at in range(EVENTS)]
        topics = {}
        for name in MEMBERS:
            chunk = Chunk(events, (("events", 0, EVENTS),))
            (parcel,) = Pipeline(programs[name], name, sink=MemorySink(Memory(1))).process(chunk)
            topics[parcel.topic] = [Record(parcel.topic, value, key, tuple(h), stamp) for stamp, key, value, h in parcel.records]
        return programs["totals"], topics

    return made


class World:
    """Workers, one after the other, over topics in memory."""

    def __init__(
        self, program: Program, topics: dict[str, list[Record]], orders: dict[str, list[int]], bounds: Bounds = WIDE, pace: Pace = QUICK
    ) -> None:
        self.program, self.topics, self.bounds, self.pace = program, topics, bounds, pace
        self.now = float(BEGIN)
        self.queue: list[Span] = []  # taken, and not with the loop yet
        self.decided: set[str] = set()
        self.left = {topic: [records[at] for at in order] for (topic, records), order in zip(topics.items(), orders.values(), strict=True)}
        self.memory = Memory(1)
        self.errors: list[BaseException] = []
        self.crashes = 0
        self.begin()

    def begin(self) -> None:
        self.source, self.sink = MemorySource(self.memory, self.topics), MemorySink(self.memory)
        self.delivery = Delivery(
            self.source,
            self.sink,
            AtLeastOnce(self.source),
            stages=dict.fromkeys(self.topics, "totals"),
            serving=lambda: Fixed(self.program),
            fail=self.errors.append,
            pace=self.pace,
            wall=lambda: self.now,
            bounds=self.bounds,
        )
        self.source.assign()

    async def work(self, spans: int) -> None:
        """Hands on the first spans of the queue."""
        for span in self.queue[:spans]:
            await self.delivery.submit([span])
        del self.queue[:spans]

    async def do(self, what: str) -> None:
        """Does it, and checks that no event has become a dead letter all whose records were in the topics, unless it was decided before."""
        await self._do(what)
        letters = {_id(one) for topic in self.topics for one in self.memory.records(f"{topic}.dead-letter")}
        whole = set.intersection(*({_id(one) for one in self.memory.records(topic)} for topic in self.topics))
        assert not letters & whole - self.decided
        self.decided |= letters | {_id(one) for one in self.memory.records("totals")}

    async def _do(self, what: str) -> None:
        if what.startswith("send"):
            topic = [*self.topics][int(what[-1])]
            for record in self.left[topic][:2]:
                self.memory.append(record)
            del self.left[topic][:2]
        elif what == "fetch":
            self.queue += await self.source.take(2)
        elif what == "work":
            await self.work(1)
        elif what == "wait":
            self.now += HOUR / 2
        elif what == "tick":
            await self.delivery.tick()
        elif what == "hold":
            self.sink.hold()
        elif what == "release":
            self.sink.release()
        elif what == "store":
            await self.delivery.poll()
        else:
            self.crashes += 1
            self.queue.clear()
            if what == "rebalance":
                self.source.revoke()
                self.source.assign()
            else:
                self.delivery.terminate()
                self.begin()


def _id(record: Record) -> str:
    return (dict(record.headers)["penstock-id"] or b"").decode()


def answered(world: World, join: str) -> set[str]:
    """The events that were answered: each by a quorum that its header names, and once, unless a worker has crashed."""
    answers = [(json.loads(one.value or b""), dict(one.headers)) for one in world.memory.records("totals")]
    for answer, headers in answers:
        number = float(answer["id"][1:])
        used = (headers["penstock-join"] or b"").decode().partition(";")[0]
        if used == "used=double,half":
            assert (answer["double"], answer["half"], answer["y"]) == (number * 2, number / 2, number * 2.5)
        else:
            assert (join, used) == (ONE, "used=double")
            assert (answer["double"], answer["half"], answer["y"]) == (number * 2, None, number * 2 + 0.5)
        assert headers["penstock-id"] == answer["id"].encode()
    times = Counter(answer["id"] for answer, _ in answers)
    assert world.crashes or max(times.values(), default=1) == 1
    return {*times}


ROUND = ["fetch", "work", "work", "work", "work", "tick"]  # one after which everything that was sent is joined, where there is room
STEPS = ["send 0", "send 1", "fetch", "work", "tick", "hold", "release", "store", "crash", "rebalance"]
orders = st.permutations(range(EVENTS))
steps = st.lists(st.sampled_from(STEPS), min_size=20, max_size=60)  # without a least number, most have five


@pytest.mark.parametrize("join", [ALL, ONE], ids=["all", "one"])
@given(first=orders, second=orders, actions=steps)
@example(
    first=[*range(EVENTS)],
    second=[5, *range(5), *range(6, EVENTS)],
    actions=["send 0", *ROUND, "send 1", *ROUND, "send 1", *ROUND, "store", "crash", "store", "crash"],
)
@settings(max_examples=300, deadline=None)
def test_every_event_is_answered(prepared: Any, join: str, first: list[int], second: list[int], actions: list[str]) -> None:
    """By a quorum that its header names, and without a dead letter; once, unless a worker has crashed."""
    program, topics = prepared(join)

    async def main() -> None:
        world = World(program, topics, {"double": first, "half": second})
        for one in [*actions, "release", *["send 0", "send 1", *ROUND] * (EVENTS // 2), *ROUND * 4]:
            await world.do(one)
            assert not world.errors
        await world.delivery.poll()
        world.delivery.terminate()
        assert answered(world, join) == {f"e{at}" for at in range(EVENTS)}
        for topic in topics:
            assert not world.memory.records(f"{topic}.dead-letter")
            if join == ALL:
                assert world.memory.stored[topic, 0] == EVENTS

    asyncio.run(main())


@pytest.mark.parametrize("join", [ALL, ONE], ids=["all", "one"])
@given(
    first=orders,
    second=orders,
    actions=st.lists(st.sampled_from([*STEPS, "wait"]), min_size=20, max_size=80),
    bounds=st.sampled_from([WIDE, Bounds(wait=2, held=3, step=1, reach=4), Bounds(wait=2, held=8, step=1, reach=2)]),
    size=st.sampled_from([1 << 20, 1]),
)
@example(
    first=[*range(EVENTS)],
    second=[*range(EVENTS)],
    actions=["send 0", "fetch", "work", "send 1", "fetch", "wait", "wait", "wait", "tick"],
    bounds=WIDE,
    size=1 << 20,
)
@example(first=[*range(EVENTS)], second=[*range(EVENTS)], actions=["send 0", "send 1", "fetch", "work"], bounds=WIDE, size=1)
@settings(max_examples=300, deadline=None)
def test_no_deadline_and_no_bound_takes_an_answer_away(
    prepared: Any, join: str, first: list[int], second: list[int], actions: list[str], bounds: Bounds, size: int
) -> None:
    """An event fails only while a record of it is not in the topics. In the end each is decided, and everything is committed."""
    program, topics = prepared(join)

    async def main() -> None:
        world = World(program, topics, {"double": first, "half": second}, bounds, Pace(in_flight_bytes=size))
        for one in [*actions, "release", *["send 0", "send 1"] * EVENTS, *[*ROUND, "wait", "tick"] * (4 * EVENTS), "store"]:
            await world.do(one)
            assert not world.errors
        world.delivery.terminate()
        assert world.decided == {f"e{at}" for at in range(EVENTS)}
        assert answered(world, join) <= world.decided
        assert world.memory.stored == {(topic, 0): EVENTS for topic in topics}
        assert set(dict(world.delivery.metrics.join_waiting).values()) == {0}

    asyncio.run(main())


class Seen(str):
    """A header's name, whose end can be seen."""

    __slots__ = ("__weakref__",)


def test_what_waits_behind_one_record_is_bounded(prepared: Any) -> None:
    """What was answered is released, although nothing behind the record that waits can be committed, and at last nothing more is read."""
    program, topics = prepared(ALL)
    seen: list[weakref.ref[Seen]] = []

    async def main() -> None:
        reach = 200
        world = World(program, topics, {"double": [], "half": []}, Bounds(reach=reach))
        ((first, one), *_), ((second, other), *_) = ([(topic, one) for one in records[:1]] for topic, records in topics.items())
        taken = 0
        for number in range(2 * reach):
            for record in (one, other) if number else (one,):
                headers = [header for header in record.headers if header[0] != "penstock-id"]
                name = Seen("about")
                seen.append(weakref.ref(name))
                world.memory.append(record._replace(headers=(*headers, ("penstock-id", b"%d" % number), (name, b""))))
                del name
            if number == reach:
                assert world.source.withheld is not None
                assert [world.source.withheld((topic, 0)) for topic in (first, second)] == [True, False]
            await world.do("fetch")
            taken = max(taken, world.source.positions.reach((first, 0)))
            await world.work(len(world.queue))
            if number < reach:
                assert len(world.memory.records("totals")) == (number > 0)
            world.memory.clear()
            if number == reach - 1:
                del record
                gc.collect()
                assert [at for at, name in enumerate(seen) if name() is not None] == [0]
        assert taken == reach
        world.now += 2 * HOUR
        await world.do("tick")
        assert [_id(one) for one in world.memory.records(f"{first}.dead-letter")] == ["0"]
        assert world.source.withheld is not None
        assert not world.source.withheld((first, 0))
        world.delivery.terminate()

    asyncio.run(main())
