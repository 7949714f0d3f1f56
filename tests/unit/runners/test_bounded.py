"""The bounded runner over the memory transport: every topic's records go through their own stage, and a refused output ends the run."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from penstock import runtime
from penstock.errors import DeliveryFailed
from penstock.pipeline import Pace, Program
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.runners.bounded import run
from penstock.testing import models
from penstock.transports.memory import Memory, MemorySink, MemorySource

TOPOLOGY = """\
topology: two
sources:
  left: {topic: left, schema: item.avsc}
  right: {topic: right, schema: item.avsc}
nodes:
  first: {kind: model, model: table@1, inputs: {x: left.item}}
  second: {kind: model, model: table@1, inputs: {x: right.item}}
sinks:
  lefts: {topic: lefts, fields: {price: first.y}}
  rights: {topic: rights, fields: {price: second.y}}
"""
STAGES = {"left": "left", "right": "right"}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    folder = tmp_path_factory.mktemp("bounded")
    (folder / "item.avsc").write_text(json.dumps({"type": "record", "name": "Item", "fields": [{"name": "item", "type": "long"}]}))
    (folder / "two.yaml").write_text(TOPOLOGY)
    DirectoryRegistry(folder / "models").publish("table", models.gather([10, 20, 30]))
    return runtime.prepare(runtime.load(folder / "two.yaml", models=folder / "models", schemas=Path(folder)))


def source_of(memory: Memory, *topics: str) -> MemorySource:
    """A source that has one event of each topic, as often as it is named."""
    for topic in topics:
        memory.append(Record(topic, b'{"item":1}'))
    source = MemorySource(memory, dict.fromkeys(topics))
    source.assign()
    return source


def test_records_that_are_taken_together_go_through_the_stage_of_their_own_topic(program: Program) -> None:
    memory = Memory()
    source = source_of(memory, "left", "right")
    ran = asyncio.run(run(program, source, MemorySink(memory), stages=STAGES))
    assert ran == (2, 2, 0, True)
    assert (len(memory.records("lefts")), len(memory.records("rights"))) == (1, 1)


@pytest.mark.parametrize("in_flight", [2, 100], ids=["while-it-waits-for-room", "while-it-waits-for-the-last-acknowledgements"])
def test_output_that_is_refused_late_ends_the_run(program: Program, in_flight: int) -> None:
    async def main() -> None:
        memory = Memory()
        source, sink = source_of(memory, *["left"] * 4), MemorySink(memory)
        sink.hold()
        running = asyncio.create_task(run(program, source, sink, stages=STAGES, pace=Pace(group_rows=1, in_flight=in_flight)))
        while len(sink.held) < min(in_flight, 4):  # noqa: ASYNC110  the sink has no event
            await asyncio.sleep(0)
        for _ in range(5):  # it waits by now
            await asyncio.sleep(0)
        sink.held[0].settle(DeliveryFailed("refused"))
        with pytest.raises(DeliveryFailed):
            await asyncio.wait_for(running, 10)

    asyncio.run(main())
