"""A stage that matches two streams, in the delivery loop, under any order of arrivals, batches, acknowledgements, rebalances and crashes.

Producers send an event at most `lateness` after its time; everything else may take any time. Between the source and the loop is a queue per
topic, as on Kafka: what was taken is not counted yet.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock import runtime
from penstock.parcel import Parcel
from penstock.pipeline import AtLeastOnce, Delivery, Fixed, Pace, Program
from penstock.pipeline.matching import sides
from penstock.pipeline.remember import Remember
from penstock.record import Record
from penstock.state import States
from penstock.topology.parse import parse_text
from penstock.topology.wiring import Matched
from penstock.transports.base import Sent
from penstock.transports.memory import Memory, MemorySink, MemorySource
from penstock.transports.tracker import Span

TOPOLOGY = """
topology: shop
sources:
  orders: {topic: orders, schema: order.avsc, id: id, time: at}
  payments: {topic: payments, schema: payment.avsc, time: at}
  paid:
    match: {left: orders, right: payments, by: {orders: key, payments: order}, within: 10m, before: 1m, lateness: 2m, unmatched: UNMATCHED}
nodes:
  sum: {kind: rule, outputs: {of: 'paid.orders.x + coalesce(paid.payments.x, 0.0)'}}
sinks:
  out: {topic: out, fields: {id: paid.orders.id, payment: paid.payments.id, y: sum.of}}
"""
BEGIN = 1_700_000_000  # seconds
MINUTE = 60
WITHIN, BEFORE, LATENESS = 10 * MINUTE, MINUTE, 2 * MINUTE
TOPICS = ("orders", "payments")
LOGS = {"paid.left": "changelog-left", "paid.right": "changelog-right"}


class Event(NamedTuple):
    """An event of a side (0: left), its key, its time in seconds after BEGIN, and how many seconds later it is sent."""

    side: int
    key: int
    time: int
    delay: int


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Program]:
    folder: Path = tmp_path_factory.mktemp("matching")
    at = {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}}
    for name, key, type in (("order", "key", "int"), ("payment", "order", "long")):
        fields = [{"name": "id", "type": "string"}, {"name": key, "type": type}, {"name": "x", "type": "double"}, at]
        (folder / f"{name}.avsc").write_text(json.dumps({"type": "record", "name": name, "fields": fields}))

    @cache
    def made(unmatched: str) -> Program:
        loaded = runtime.load(parse_text(TOPOLOGY.replace("UNMATCHED", unmatched)), models=folder, schemas=folder)
        shares = runtime.shares(loaded, "app")
        assert [*shares] == ["paid"]
        return runtime.prepare(shares["paid"])

    return made


class Sink(MemorySink):
    """A sink that loses what is sent to the topic `loses`, and does not acknowledge it: the worker has to crash then."""

    def __init__(self, memory: Memory) -> None:
        super().__init__(memory)
        self.loses, self.lost = "", False

    async def send(self, parcels: Sequence[Parcel], under: Span | None = None) -> Sent:
        lost = [one for one in parcels if one.topic == self.loses]
        self.lost |= bool(lost)
        sent = await super().send([one for one in parcels if one not in lost], under)
        return Sent(1) if lost else sent


class World:
    """Workers, one after the other, over topics in memory."""

    def __init__(self, program: Program, events: Sequence[Event]) -> None:
        self.program, self.memory = program, Memory(1)
        self.left = sorted(enumerate(events), key=lambda one: one[1].time + one[1].delay)
        self.now = float(BEGIN)
        self.workers: list[object] = []  # that have crashed: what they wait for must not be collected
        self.crashes = 0
        self.begin()

    def begin(self) -> None:
        """A worker that restores what the changelogs have."""
        self.errors: list[BaseException] = []
        self.queues: dict[str, list[Span]] = {topic: [] for topic in TOPICS}
        self.source, self.sink, self.states = MemorySource(self.memory, TOPICS), Sink(self.memory), States(lambda: self.now)
        gather = self.program.plan.stages["paid"].wired.gather
        assert isinstance(gather, Matched)
        for (node, topic), make in zip(LOGS.items(), sides(gather), strict=True):
            state = make()
            state.restore((one.key or b"", one.value) for one in self.memory.records(topic))
            self.states.put(node, 0, state)
        self.delivery = Delivery(
            self.source,
            self.sink,
            AtLeastOnce(self.source),
            stages=dict.fromkeys(TOPICS, "paid"),
            serving=lambda: Fixed(self.program),
            fail=self.errors.append,
            pace=Pace(chunk_rows=2, group_rows=3),
            states=lambda: self.states,
            remember=Remember(self.sink, LOGS),
            wall=lambda: self.now,
        )
        self.source.assign()

    async def do(self, what: str) -> None:
        if self.sink.lost and what in ("release", "store"):
            what = "crash"
        await self._do(what)
        for _ in range(8):
            await asyncio.sleep(0)  # what is remembered follows the acknowledgements
        assert not self.errors

    async def _do(self, what: str) -> None:  # noqa: C901, PLR0912  a case per step
        match what.split():
            case ["send"]:
                for number, one in self.left[:3]:
                    self.now = max(self.now, float(BEGIN + one.time + one.delay))
                    key = "order" if one.side else "key"
                    event = {"id": f"{'op'[one.side]}{number}", key: one.key, "x": number, "at": (BEGIN + one.time) * 1000}
                    self.memory.append(Record(TOPICS[one.side], json.dumps(event).encode(), b"k", (("h", b"1"),), 7, 0))
                del self.left[:3]
            case ["fetch"]:
                for span in await self.source.take(2):
                    self.queues[span.partition[0]].append(span)
            case ["work", side]:
                queue = self.queues[TOPICS[int(side)]]
                for span in queue[:1]:
                    await self.delivery.submit([span])
                del queue[:1]
            case ["wait"]:
                self.now += 60 * MINUTE
            case ["tick"]:
                await self.delivery.tick()
            case ["hold"]:
                self.sink.hold()
            case ["lose", topic]:
                self.sink.loses = topic
            case ["release"]:
                self.sink.loses = ""
                self.sink.release()
            case ["store"]:
                await self.delivery.poll()
            case _:
                self.crashes += 1
                self.delivery.terminate()
                self.workers.append((self.delivery, self.sink))
                self.begin()


def oracle(events: Sequence[Event], unmatched: str) -> Counter[tuple[str, str | None]]:
    found: Counter[tuple[str, str | None]] = Counter()
    for number, one in enumerate(events):
        partners = [
            f"p{at}"
            for at, other in enumerate(events)
            if other.side == 1 and other.key == one.key and -BEFORE <= other.time - one.time <= WITHIN
        ]
        if one.side == 0:
            found.update((f"o{number}", partner) for partner in partners)
            if not partners and unmatched == "keep":
                found[f"o{number}", None] += 1
    return found


ROUND = ["fetch", "work 0", "work 1", "work 0", "work 1", "tick"]
STEPS = ["send", "fetch", "work 0", "work 1", "tick", "hold", "lose changelog-left", "lose changelog-right", "release", "store", "crash"]
one_event = st.builds(Event, st.integers(0, 1), st.integers(0, 2), st.integers(0, 60 * MINUTE), st.sampled_from([0, 0, 30, LATENESS - 1]))
some = st.lists(one_event, max_size=24)


@pytest.mark.parametrize("unmatched", ["keep", "drop"])
@given(events=some, actions=st.lists(st.sampled_from(STEPS), max_size=60))
@example(
    events=[Event(0, 0, 0, 0), Event(1, 0, 5, 0)],
    actions=["send", "fetch", "work 0", "lose changelog-left", "work 1", "crash", *ROUND],
)
@example(  # the right event is taken, and not counted yet
    events=[Event(0, 0, 0, 0), Event(1, 0, 5, 0), Event(0, 1, 60 * MINUTE, 0)],
    actions=["send", "fetch", "work 0", "tick"],
)
@example(  # its mark was lost with the worker, and the left event is not forgotten before that of an hour later has come
    events=[Event(0, 0, 0, 0), Event(1, 0, 5, 0), Event(1, 1, 6, 0), Event(1, 1, 20 * MINUTE, 0)],
    actions=["send", "fetch", "work 0", "lose changelog-left", "work 1", "crash", *ROUND],
)
@settings(max_examples=400, deadline=None)
def test_every_pair_and_no_other(prepared: Any, unmatched: str, events: list[Event], actions: list[str]) -> None:
    """Each once, unless a worker has crashed; and a left event alone only where it has no partner."""
    program = prepared(unmatched)

    async def main() -> None:
        world = World(program, events)
        for one in [*actions, "release", *["send", *ROUND, *ROUND] * 10, *ROUND * 10, "wait", *ROUND * 3, "store"]:
            await world.do(one)
        world.delivery.terminate()
        answers = [(json.loads(one.value or b""), one) for one in world.memory.records("out")]
        found = Counter((answer["id"], answer["payment"]) for answer, _ in answers)
        wanted = oracle(events, unmatched)
        assert found.keys() == wanted.keys()
        assert world.crashes or found == wanted
        places = {json.loads(one.value or b"")["id"]: f"payments/0/{one.offset}" for one in world.memory.records("payments")}
        for answer, record in answers:
            headers = dict(record.headers)
            assert answer["y"] == float(answer["id"][1:]) + float((answer["payment"] or "p0")[1:])
            assert (record.key, record.timestamp, headers["h"], headers["penstock-id"]) == (b"k", 7, b"1", answer["id"].encode())
            assert headers["penstock-match"] == places.get(answer["payment"], "").encode()
        assert not any(world.memory.records(f"{topic}.dead-letter") for topic in TOPICS)
        assert len(world.states) == 0, "nothing is kept that no partner can come for"
        counts = Counter((TOPICS[one.side], 0) for one in events)
        assert world.memory.stored == dict(counts)

    asyncio.run(main())
