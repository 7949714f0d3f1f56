"""What windows remember, in the delivery loop, under any order of arrivals, acknowledgements, refusals, commits, rebalances and crashes.

Two workers share the partitions. A changelog is a topic in memory, which outlives them; the states of a worker do not. What a worker has
sent may be under way when it is gone, and arrive later, or never: so does what a frozen worker had written to its sockets. The laws: every
event is answered, first with the features that it has in a run without faults, to the bit; and so is what is remembered in the end.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock import runtime
from penstock.nodes import WindowNode
from penstock.parcel import Parcel
from penstock.pipeline import AtLeastOnce, Chunk, Delivery, Fixed, Pace, Pipeline, Program
from penstock.pipeline.remember import Remember
from penstock.record import Record
from penstock.state import Keyed, States
from penstock.topology.parse import parse_text
from penstock.transports.memory import Memory, MemorySink, MemorySource
from penstock.transports.tracker import Partition
from penstock.windows import open_partition

TOPOLOGY: Final = """
topology: cards
sources: {payments: {topic: payments, schema: payment.avsc, id: id, time: at}}
nodes:
  large: {kind: rule, outputs: {is: "coalesce(amount, 0.0) > 50"}MATERIALIZE}
  tiles:
    {kind: window, by: card, over: [1s, 4s], hops: 4, lateness: 2s, features: {n: count, sum: sum(amount), large: count where large.is}}
  events:
    kind: window
    by: card
    over: [2s]
    exact: true
    hops: 4
    include_self: true
    late: update
    lateness: 1s
    features: {mean: mean(amount), spread: variance(amount), last: "last_k(amount, 2)", first: first(amount)}
  risk: {kind: rule, outputs: {y: "tiles.sum_4s / (tiles.n_1s + 1) - coalesce(events.mean_2s, 0.0)"}}
sinks:
  out:
    topic: out
    key: id
    fields:
      {id: id, n: tiles.n_1s, sum: tiles.sum_4s, large: tiles.large_4s, late: tiles.late, mean: events.mean_2s, spread: events.spread_2s,
       last: "events.last_2s[1]", first: events.first_2s, y: risk.y}
"""
FIELDS: Final = [
    {"name": "id", "type": "string"},
    {"name": "card", "type": "string"},
    {"name": "amount", "type": ["null", "double"]},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
]
BEGIN: Final = 1_700_000_000_000  # ms: the time of the first event
NOW: Final = BEGIN / 1000 + 600  # seconds: what comes an hour later is of the future
PARTITIONS: Final = 2
NODES: Final = {"tiles": "log.tiles", "events": "log.events"}
WHERE: Final = ["first", "behind"]
PACE: Final = Pace(chunk_rows=2, group_rows=3, offload_after=1e9)


class Case(NamedTuple):
    """A stage with windows: its program, its topic, and what makes records for it of events and their partitions."""

    program: Program
    stage: str
    topic: str
    records: Callable[[Sequence[tuple[dict[str, Any], int]]], list[Record]]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    """The stage that reads the source, and one behind another stage, which may write its records again."""
    folder: Path = tmp_path_factory.mktemp("remembering")
    (folder / "payment.avsc").write_text(json.dumps({"type": "record", "name": "Payment", "fields": FIELDS}))

    def load(materialize: str) -> runtime.Loaded:
        return runtime.load(parse_text(TOPOLOGY.replace("MATERIALIZE", materialize)), models=folder, schemas=folder)

    def written(events: Sequence[tuple[dict[str, Any], int]]) -> list[Record]:
        return [
            Record("payments", json.dumps(event).encode() if event else b"none", timestamp=event.get("at", BEGIN), partition=to, offset=at)
            for at, (event, to) in enumerate(events)
        ]

    known, out = (runtime.prepare(one) for one in runtime.shares(load(", materialize: {key: card}"), "app").values())
    between = "app.large"

    def passed_on(events: Sequence[tuple[dict[str, Any], int]]) -> list[Record]:
        records, made = written([one for one in events if one[0]]), []
        pipeline = Pipeline(known, "large", sink=MemorySink(Memory(PARTITIONS)))
        for at, record in enumerate(records):
            (parcel,) = pipeline.process(Chunk([record], (("payments", at % 2, 1),)))
            ((stamp, key, value, headers),) = parcel.records
            made.append(Record(between, value, key, tuple(headers), stamp, record.partition))
        return made

    first = runtime.prepare(load(""))
    found = {"first": Case(first, "payments", "payments", written), "behind": Case(out, "out", between, passed_on)}
    return lambda where: found[where]


class Worker:
    """The loop of one worker. What it remembers is restored from the changelogs in its assignment, as on Kafka."""

    def __init__(self, case: Case, memory: Memory) -> None:
        self.case, self.memory = case, memory
        self.states = States(clock=lambda: NOW)
        self.ends: dict[tuple[str, int], int] = {}  # of the changelogs, when the states were put
        self.errors: list[BaseException] = []
        self.source, self.sink = MemorySource(memory, [case.topic]), MemorySink(memory)
        self.delivery = Delivery(
            self.source,
            self.sink,
            AtLeastOnce(self.source),
            stages={case.topic: case.stage},
            serving=Fixed(case.program),
            fail=self.errors.append,
            pace=PACE,
            states=lambda: self.states,
            remember=Remember(self.sink, NODES),
            clock=lambda: 0.0,
            wall=lambda: NOW,
        )

    def assign(self, partitions: Sequence[int]) -> None:
        before, ends = self.states, self.ends
        self.states, self.ends = States(clock=lambda: NOW), {}
        for node in NODES:
            for number in partitions:
                at, end = (node, number), self.memory.end((NODES[node], number))
                kept = before.kept(node, number)
                if kept is not None and at in ends and ends[at] + kept[1] == end:
                    self.states.put(node, number, *kept)
                    self.ends[at] = ends[at]
                else:
                    self.states.put(node, number, restored(self.case, self.memory, node, number))
                    self.ends[at] = end
        self.source.assign([(self.case.topic, one) for one in partitions])

    async def step(self, rows: int) -> None:
        """Takes what has arrived, and delivers it."""
        if self.delivery.has_room():
            await self.delivery.submit(await self.source.take(rows))


def restored(case: Case, memory: Memory, node: str, number: int) -> Keyed:
    """Returns what the changelog of a node has of a partition."""
    (found,) = (one for one in case.program.plan.stages[case.stage].nodes if isinstance(one, WindowNode) and one.name == node)
    state = open_partition(found.definition)
    state.restore([(one.key or b"", one.value) for one in memory.read((NODES[node], number), 0)])
    return state


class World:
    """Two workers over topics in memory, and what workers that are gone had sent."""

    def __init__(self, case: Case, records: Sequence[Record]) -> None:
        self.case, self.left, self.sent = case, [*records], list[Record]()
        self.memory = Memory(PARTITIONS)
        self.lost: list[MemorySink] = []
        self.owners = [0, 0]
        self.workers = [Worker(case, self.memory), Worker(case, self.memory)]
        self.place()

    def place(self) -> None:
        """A new assignment for both."""
        for at, worker in enumerate(self.workers):
            worker.assign([number for number, owner in enumerate(self.owners) if owner == at])

    async def do(self, what: str, who: int = 0, number: int = 0) -> None:
        """Does one of the steps below, of a worker; `number` says which or how many, where there is a choice."""
        await getattr(self, what.replace(" ", "_"))(self.workers[who], number)
        for one in [one for one in self.workers if one.errors]:
            await self.crash(one)

    async def send(self, _: Worker, number: int) -> None:
        for record in self.left[: number + 1]:
            self.sent.append(self.memory.append(record))
        del self.left[: number + 1]

    async def again(self, _: Worker, number: int) -> None:
        """The stage before was killed, and writes records once more."""
        for record in self.sent[-number - 1 :] if self.case.stage == "out" else ():
            self.memory.append(record)

    async def work(self, worker: Worker, number: int) -> None:
        await worker.step(number + 1)

    async def turn(self, *_: object) -> None:
        await turns()

    async def hold(self, worker: Worker, _: int) -> None:
        worker.sink.hold()

    async def delay(self, worker: Worker, _: int) -> None:
        worker.sink.delay()

    async def release(self, worker: Worker, _: int) -> None:
        worker.sink.release()

    async def acknowledge(self, worker: Worker, number: int) -> None:
        if worker.sink.held:
            worker.sink.held.pop(number % len(worker.sink.held)).settle()

    async def arrive(self, worker: Worker, number: int) -> None:
        arrive(worker.sink, number)

    async def outputs_arrive(self, worker: Worker, number: int) -> None:
        """Those of one partition. What has changed may be sent to the changelogs then."""
        while ("out", number % PARTITIONS) in worker.sink.under_way:
            worker.sink.arrive(("out", number % PARTITIONS))
        await turns()

    async def changelogs_arrive(self, worker: Worker, _: int) -> None:
        while there := [one for one in worker.sink.under_way if one[0] != "out"]:
            worker.sink.arrive(there[0])
        await turns()

    async def arrive_late(self, _: Worker, number: int) -> None:
        """Of a worker that is gone."""
        if self.lost:
            arrive(self.lost[-1 - number % len(self.lost)], number)

    async def refuse(self, worker: Worker, number: int) -> None:
        worker.sink.refuse(partial(_of, "out" if number % 2 else "log"))

    async def store(self, worker: Worker, _: int) -> None:
        await worker.delivery.poll()

    async def hand_on(self, _: Worker, number: int) -> None:
        """A rebalance. What was under way is finished, if it is acknowledged by then."""
        for one in self.workers:
            await one.delivery.close(0.0)
        await self.lose(_, number)

    async def lose(self, _: Worker, number: int) -> None:
        for one in self.workers:
            one.source.revoke()
        self.owners = [number % 2, number // 2 % 2]
        self.place()

    async def crash(self, gone: Worker, _: int = 0) -> None:
        """Ends a worker without notice: everything in its memory is gone. Another one is started in its place."""
        which = self.workers.index(gone)
        gone.delivery.terminate()
        gone.source.revoke()  # were it only frozen, it would find this when it goes on
        self.lost.append(gone.sink)
        self.workers[which] = Worker(self.case, self.memory)
        self.workers[which].assign([number for number, owner in enumerate(self.owners) if owner == which])

    async def peace(self) -> World:
        """What is still under way never arrives. One worker is left in peace until it has answered everything."""
        for record in self.left:
            self.memory.append(record)
        self.left, self.owners = [], [0, 0]
        for one in [*self.workers]:
            await self.crash(one)
        worker = self.workers[0]
        while spans := await worker.source.take(3):
            await worker.delivery.submit(spans)
            await turns()
        await worker.delivery.poll()
        assert not worker.errors
        assert all(self.memory.stored.get(one, 0) == self.memory.end(one) for one in worker.source.positions.partitions)
        return self

    def answers(self) -> dict[str, bytes]:
        """The first answer of each event, to the byte."""
        found: dict[str, bytes] = {}
        for one in self.memory.records("out"):
            found.setdefault(json.loads(one.value or b"")["id"], one.value or b"")
        return found

    def letters(self) -> set[tuple[str, bytes | None]]:
        """The events that have no answer."""
        dead = self.memory.records(f"{self.case.topic}.dead-letter")
        return {(str(dict(one.headers)["penstock-id"]), one.value) for one in dead}

    def remembers(self) -> dict[tuple[str, int], Any]:
        """What the changelogs have in the end, without what no event can see; the states of the worker are the same."""
        found = {}
        for node in NODES:
            for number in range(PARTITIONS):
                state, live = restored(self.case, self.memory, node, number), self.workers[0].states.kept(node, number)
                found[node, number] = state.standing, _whole(state)
                assert live is not None
                assert (live[0].standing, _whole(live[0])) == found[node, number]
        return found


def _of(prefix: str, parcel: Parcel) -> bool:
    return parcel.topic.startswith(prefix)


def _whole(state: Keyed) -> dict[bytes, bytes]:
    return {key: value for key, value in state.checkpoint(whole=True) if value is not None}


async def turns() -> None:
    """Whatever may go on goes on."""
    for _ in range(8):
        await asyncio.sleep(0)


def arrive(sink: MemorySink, number: int) -> None:
    """Some of what is under way to one partition arrives."""
    places: list[Partition] = sorted(sink.under_way)
    if places:
        place = places[number % len(places)]
        for _ in range(number // 2 + 1):
            if place in sink.under_way:
                sink.arrive(place)


ADVANCES: Final = [0, 100, 100, 300, 700, -200, -1500, -4000, 6000]  # ms: many ties, some behind, some late, and pauses that end windows


@st.composite
def payments(draw: st.DrawFn) -> list[tuple[dict[str, Any], int]]:
    """Events of two cards per partition, some of which are none or of the future."""
    made, at = list[tuple[dict[str, Any], int]](), 0
    for number in range(draw(st.integers(1, 14))):
        at += draw(st.sampled_from(ADVANCES))
        card, amount = draw(st.integers(0, 3)), draw(st.none() | st.integers(-9, 99) | st.floats(-1, 1, width=32))
        event = {"id": str(number), "card": f"c{card}", "amount": None if amount is None else float(amount), "at": BEGIN + at}
        kind = draw(st.sampled_from(["event"] * 12 + ["none", "future"]))
        made.append(({} if kind == "none" else {**event, "at": BEGIN + 10**8} if kind == "future" else event, card % PARTITIONS))
    return made


Steps = list[tuple[str, int, int]]
WORK: Final = ["turn", "turn", "send", "send", "work", "work", "acknowledge", "arrive", "outputs arrive", "changelogs arrive", "store"]
TROUBLE: Final = [
    "hold",
    "delay",
    "delay",
    "release",
    "refuse",
    "refuse",
    "again",
    "crash",
    "hand on",
    "lose",
    "arrive late",
    "arrive late",
]
ROUND: Final = [("work", 0, 3), ("turn", 0, 0), ("work", 0, 3), ("turn", 0, 0)]


def steps() -> st.SearchStrategy[Steps]:
    """Ordinary work is most of a run, and the first worker does most of it. A run that is found shrinks to turns, which do nothing."""
    return st.lists(st.tuples(st.sampled_from(WORK * 2 + TROUBLE), st.sampled_from([0, 0, 1]), st.integers(0, 3)), min_size=30, max_size=50)


def event(number: int, at: int, card: int = 0) -> tuple[dict[str, Any], int]:
    return {"id": str(number), "card": f"c{card}", "amount": 1.0, "at": BEGIN + at}, card % PARTITIONS


OUT: Final = [("outputs arrive", 0, number) for number in range(PARTITIONS)]
LATE: Final = [*[("arrive late", 0, 3)] * 4, ("crash", 0, 0)]


@pytest.mark.parametrize("where", WHERE)
@given(events=payments(), actions=steps())
@example(  # the standing of a worker that was frozen comes behind that of its successor
    events=[event(0, 0), event(1, 6000), event(2, 1000), event(3, 6100), event(4, 1100)],
    actions=[("send", 0, 0), ("delay", 0, 0), ("work", 0, 0), *OUT, ("crash", 0, 0),
             ("send", 0, 0), *ROUND, ("store", 0, 0), *LATE],
)  # fmt: skip
@example(  # it has removed a key, which its successor has as well, and has again
    events=[event(0, 0), event(1, 60000, 2), event(2, 60000), event(3, 60100), event(4, 60200)],
    actions=[("send", 0, 0), *ROUND, ("store", 0, 0), ("send", 0, 0), ("delay", 0, 0), ("work", 0, 0), *OUT,
             ("crash", 0, 0), ("send", 0, 0), *ROUND, ("store", 0, 0), *LATE],
)  # fmt: skip
@example(  # the changelog does not take what the first group has changed, and the second one, of a late event, changes the standing alone
    events=[event(0, 0), event(1, 0), event(2, 0), event(3, -4000)],
    actions=[("send", 0, 3), ("refuse", 0, 0), ("work", 0, 0), ("turn", 0, 0)],
)
@example(  # the outputs of a group are refused, and the next group has one of its events again
    events=[event(0, 0), event(1, 0), event(2, 0)],
    actions=[("send", 0, 2), ("refuse", 0, 1), ("again", 0, 0), ("work", 0, 0)],
)
@example(  # the outputs of the second group arrive alone, as they have another partition, and those of the first are lost
    events=[event(1, 0), event(2, 0), event(3, 0), event(4, 0)],
    actions=[("send", 0, 3), ("delay", 0, 0), ("work", 0, 0), ("outputs arrive", 0, 0), ("changelogs arrive", 0, 0), ("crash", 0, 0)],
)
@example(  # the changelog has the keys of a checkpoint and what it marks as seen, and nothing behind them
    events=[event(0, 0)],
    actions=[("send", 0, 0), ("work", 0, 0), ("delay", 0, 0), ("turn", 0, 0), ("arrive", 0, 2)],
)
@settings(max_examples=150)
def test_first_answers_and_what_is_remembered_are_those_of_a_run_without_faults(
    prepared: Callable[[str], Case], where: str, events: list[tuple[dict[str, Any], int]], actions: Steps
) -> None:
    case = prepared(where)

    async def main() -> None:
        records = case.records(events)
        world = World(case, records)
        for one in actions:
            await world.do(*one)
        await world.peace()
        calm = World(case, [one for at in range(PARTITIONS) for one in world.memory.read((case.topic, at), 0)])
        await calm.peace()
        assert world.answers() == calm.answers() == (await World(case, records).peace()).answers()
        assert world.letters() == calm.letters()
        assert len(calm.answers()) + len(calm.letters()) == len(records)
        assert world.remembers() == calm.remembers()

    asyncio.run(main())
