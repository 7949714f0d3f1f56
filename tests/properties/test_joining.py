"""A stage that joins, in the delivery loop, under any order of arrivals, commits, acknowledgements and crashes."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock import runtime
from penstock.pipeline import AtLeastOnce, Chunk, Delivery, Fixed, Pipeline, Program
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.testing.models import linear
from penstock.topology.parse import parse_text
from penstock.transports.memory import Memory, MemorySink, MemorySource

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
LATER = 4_102_444_800_000  # ms: in 2100, so that no deadline passes here
MEMBERS = ("double", "half")
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
        events = [Record("events", json.dumps({"id": f"e{at}", "x": at}).encode(), None, (), LATER, 0, at) for at in range(EVENTS)]
        topics = {}
        for name in MEMBERS:
            chunk = Chunk(events, (("events", 0, EVENTS),))
            (parcel,) = Pipeline(programs[name], name, sink=MemorySink(Memory(1))).process(chunk)
            topics[parcel.topic] = [Record(parcel.topic, value, key, tuple(h), stamp) for stamp, key, value, h in parcel.records]
        return programs["totals"], topics

    return made


class World:
    """Workers, one after the other, over topics in memory."""

    def __init__(self, program: Program, topics: dict[str, list[Record]], orders: dict[str, list[int]]) -> None:
        self.program, self.topics = program, topics
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
        )
        self.source.assign()

    async def read(self) -> None:
        by_topic: dict[str, list[Any]] = {}
        for span in await self.source.take(3):
            by_topic.setdefault(span.partition[0], []).append(span)
        for spans in by_topic.values():
            await self.delivery.submit(spans)

    async def do(self, what: str) -> None:
        if what.startswith("send"):
            topic = [*self.topics][int(what[-1])]
            for record in self.left[topic][:2]:
                self.memory.append(record)
            del self.left[topic][:2]
            await self.read()
        elif what == "hold":
            self.sink.hold()
        elif what == "release":
            self.sink.release()
        elif what == "store":
            await self.delivery.poll()
        else:
            self.delivery.terminate()
            self.crashes += 1
            self.begin()
            await self.read()


orders = st.permutations(range(EVENTS))
steps = st.lists(st.sampled_from(["send 0", "send 1", "hold", "release", "store", "crash"]), max_size=30)


@pytest.mark.parametrize("join", [ALL, ONE], ids=["all", "one"])
@given(first=orders, second=orders, actions=steps)
@example(first=[*range(EVENTS)], second=[5, *range(5), *range(6, EVENTS)], actions=["send 0", "send 1", "send 1", "store", "crash"])
@settings(max_examples=300, deadline=None)
def test_every_event_is_answered(prepared: Any, join: str, first: list[int], second: list[int], actions: list[str]) -> None:
    """By a quorum that its header names, and without a dead letter; once, unless a worker has crashed."""
    program, topics = prepared(join)

    async def main() -> None:
        world = World(program, topics, {"double": first, "half": second})
        for one in [*actions, "release", *["send 0", "send 1"] * (EVENTS // 2)]:
            await world.do(one)
            assert not world.errors
        await world.delivery.poll()
        world.delivery.terminate()
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
        assert times.keys() == {f"e{at}" for at in range(EVENTS)}
        assert world.crashes or max(times.values()) == 1
        for topic in topics:
            assert not world.memory.records(f"{topic}.dead-letter")
            if join == ALL:
                assert world.memory.stored[topic, 0] == EVENTS

    asyncio.run(main())
