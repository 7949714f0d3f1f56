"""What a node remembers beside the loop: nothing of a group that failed, and nothing of an assignment that has ended, is counted."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from penstock import runtime
from penstock.batch import Array
from penstock.errors import DeliveryFailed
from penstock.nodes import ModelNode, Runs, WindowNode
from penstock.parcel import Parcel
from penstock.pipeline import AtLeastOnce, Delivery, Fixed, Pace, Program
from penstock.pipeline.remember import Remember
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.settings import Settings
from penstock.state import States
from penstock.testing import models
from penstock.transports.base import Sent
from penstock.transports.memory import Memory, MemorySink, MemorySource
from penstock.transports.tracker import Span
from penstock.windows import Partition, open_partition

TOPOLOGY = """\
topology: cards
sources: {payments: {topic: payments, schema: payment.avsc, id: id, time: at}}
nodes:
  double: {kind: model, model: double@1, inputs: {x: amount}}
  lately: {kind: window, by: card, over: [1h], features: {n: count, total: sum(double)}}
sinks: {out: {topic: out, fields: {id: id, n: lately.n_1h}}}
"""
SCHEMA = {
    "type": "record",
    "name": "Payment",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "card", "type": "string"},
        {"name": "amount", "type": "float"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
}
BEGIN = 1_700_000_000_000
SMALL = Pace(chunk_rows=4, group_rows=4)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    (tmp_path / "payment.avsc").write_text(json.dumps(SCHEMA))
    DirectoryRegistry(tmp_path / "models").publish("double", models.linear([2.0]), version="1")
    (tmp_path / "cards.yaml").write_text(TOPOLOGY)
    return runtime.prepare(runtime.load(tmp_path / "cards.yaml", models=tmp_path / "models", schemas=tmp_path), Settings())


class Loop:
    """The loop of one worker over topics in memory, whose changelog is the topic `log`."""

    def __init__(self, program: Program, topics: Memory, sink: MemorySink | None = None, pace: Pace = SMALL) -> None:
        self.topics, self.program = topics, program
        self.states = States()
        self.errors: list[BaseException] = []
        self.source = MemorySource(topics, ["payments"])
        sink = sink or MemorySink(topics)
        self.delivery = Delivery(
            self.source,
            sink,
            AtLeastOnce(self.source),
            stages={"payments": "payments"},
            serving=Fixed(program),
            fail=self.errors.append,
            pace=pace,
            states=lambda: self.states,
            remember=Remember(sink, {"lately": "log"}),
        )

    def assign(self, *partitions: int) -> None:
        """A new assignment, with the states that the changelog has."""
        self.states = States()
        for partition in partitions:
            self.states.put("lately", partition, self.restored(partition))
        self.source.assign([("payments", one) for one in partitions])

    def restored(self, partition: int) -> Partition:
        (node,) = [one for one in self.program.plan.stages["payments"].nodes if isinstance(one, WindowNode)]
        state = open_partition(node.definition)
        state.restore([(one.key or b"", one.value) for one in self.topics.records("log") if one.partition == partition])
        return state

    async def run(self, rows: int = 100) -> None:
        await self.delivery.submit(await self.source.take(rows))
        await quiet()


async def quiet() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def pay(topics: Memory, cards: str, begin: int = 0, partition: int = 0) -> None:
    for at, card in enumerate(cards, begin):
        event = {"id": str(at), "card": card, "amount": 1.0, "at": BEGIN + at * 1000}
        topics.append(Record("payments", json.dumps(event).encode(), card.encode(), timestamp=BEGIN, partition=partition))


def answers(topics: Memory) -> dict[str, int]:
    """The first answer to each event."""
    found: dict[str, int] = {}
    for one in topics.records("out"):
        answer = json.loads(one.value or b"")
        found.setdefault(answer["id"], answer["n"])
    return found


class FirstFails(MemorySink):
    """Acknowledges all outputs but the first, which it keeps."""

    first: Sent | None = None

    async def send(self, parcels: Sequence[Parcel], under: Span | None = None) -> Sent:
        if self.first is None and any(one.topic == "out" for one in parcels):
            self.first = Sent(1)
            return self.first
        return await super().send(parcels, under)


def test_nothing_behind_a_group_that_failed_is_written(program: Program) -> None:
    async def run() -> dict[str, int]:
        topics = Memory(1)
        sink = FirstFails(topics)
        worker = Loop(program, topics, sink)
        worker.assign(0)
        pay(topics, "aaaabbbb")
        await worker.run(4)
        assert sink.first is not None
        sink.first.settle(DeliveryFailed("no leader"))
        await quiet()
        assert len(worker.errors) == 1
        assert topics.records("log") == []
        after = Loop(program, topics)
        after.assign(0)
        pay(topics, "aa", 8)
        await after.run()
        return answers(topics)

    found = asyncio.run(run())
    assert [found[str(at)] for at in (0, 1, 2, 3, 8, 9)] == [0, 1, 2, 3, 4, 5]


class Slow:
    """A model that waits in its thread."""

    def __init__(self, inner: Runs) -> None:
        self.inner, self.waits, self.go, self.inside = inner, False, threading.Event(), threading.Event()

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        if self.waits:
            self.inside.set()
            self.go.wait(30)
        return self.inner.run(outputs, feeds)


@pytest.mark.parametrize("own", [True, False])
def test_a_thread_that_outlives_its_assignment_counts_nowhere(program: Program, own: bool) -> None:
    """The partition is assigned again to the same worker, or to another one, while the thread is in a model before the window."""
    slow: list[Slow] = []

    def choose(node: ModelNode) -> Runs:
        slow.append(Slow(node.model))
        return slow[-1]

    slowed = runtime.with_models(program, choose)

    async def run() -> Any:
        topics = Memory(2)
        worker = Loop(slowed, topics, pace=Pace(chunk_rows=8, group_rows=8, offload_after=0.0))
        worker.assign(0, 1)
        pay(topics, "aaaa")
        await worker.run()
        await worker.delivery.poll()
        slow[0].waits = True
        pay(topics, "aaaa", 4)
        working = asyncio.create_task(worker.run())
        await asyncio.to_thread(slow[0].inside.wait, 30)
        await worker.delivery.close(0.01)
        worker.source.revoke()
        other = worker if own else Loop(program, topics)
        other.assign(0)
        if not own:
            worker.assign(1)
        slow[0].waits = False
        slow[0].go.set()
        await working
        await other.run()
        if not own:
            pay(topics, "bb", 20, partition=1)
            await worker.run()
        return answers(topics), other.restored(0).standing.offset, [one.partition for one in topics.records("log")]

    found, standing, written = asyncio.run(run())
    assert [found[str(at)] for at in range(8)] == list(range(8))
    assert standing == 7
    assert written.count(0) == 4, "the key and the standing, of two groups"


def test_a_state_that_a_thread_still_counts_in_is_not_handed_on(program: Program) -> None:
    states = States()
    made: list[str] = []

    def work() -> None:
        made.append("done")

    states.put("lately", 0, Loop(program, Memory(1)).restored(0))
    assert states.kept("lately", 0) is not None
    running: Callable[[], None] = states.counting(work)
    assert states.kept("lately", 0) is None
    running()
    assert made == ["done"]
    assert states.kept("lately", 0) is not None


class Small(MemorySink):
    """Its changelog takes records of 50 bytes."""

    def limit(self, topic: str) -> int:
        return 50 if topic == "log" else super().limit(topic)

    def fits(self, parcel: Parcel) -> bool:
        return parcel.topic != "log" or all(len(value or b"") <= 50 for value in parcel.values)


def test_a_key_that_is_larger_than_a_record_ends_the_loop_with_its_name(program: Program) -> None:
    async def run() -> list[BaseException]:
        topics = Memory(1)
        worker = Loop(program, topics, Small(topics))
        worker.assign(0)
        pay(topics, "aa")
        await worker.run()
        assert topics.records("log") == []
        return worker.errors

    (error,) = asyncio.run(run())
    assert "nodes.lately: log does not take what is remembered of the key b'a'" in str(error)
    assert "Raise its max.message.bytes" in str(error)
