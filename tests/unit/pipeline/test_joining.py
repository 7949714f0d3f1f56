"""A stage that joins, in the delivery loop: what is committed, released, counted and slowed; `tests/properties` has any order of it."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from penstock import runtime
from penstock.errors import DeliveryFailed
from penstock.pipeline import AtLeastOnce, Chunk, Delivery, Fixed, Pipeline, Program
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.testing.models import linear
from penstock.topology.parse import parse_text
from penstock.transports.memory import Memory, MemorySink, MemorySource
from penstock.transports.throttle import Throttle
from penstock.transports.tracker import Span

TOPOLOGY = """
topology: sums
sources: {events: {topic: events, schema: event.avsc, id: id}}
nodes:
  double: {kind: model, model: double@1, inputs: {x: x}, materialize: true}
  half: {kind: model, model: half@1, inputs: {x: x}, materialize: true}
  total: {kind: rule, outputs: {y: TOTAL}, join: JOIN}
sinks:
  totals: {topic: totals, fields: {id: id, y: total.y, note: note, count: count}}
  doubles: {topic: doubles, fields: {x: x, double: double, note: note, count: count}}
  halves: {topic: halves, fields: {x: x, half: half, note: note, count: count}}
"""
ALL, ONE = "{within: 1h}", "{need: 1, require: [double], within: 1h, missing: {half: 0.5}}"
BEGIN = 1_700_000_000  # seconds
HOUR = 3600
EVENTS = 6
FIRST, SECOND = "app.double", "app.half"
Make = Callable[..., Program]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes the program of a stage; the topics between the stages are the same for all of them."""
    folder: Path = tmp_path_factory.mktemp("joining")
    fields = [("id", "string"), ("x", "double"), ("note", ["null", "string"]), ("count", ["null", "long"])]
    schema = {"type": "record", "name": "Event", "fields": [{"name": name, "type": kind} for name, kind in fields]}
    (folder / "event.avsc").write_text(json.dumps(schema))
    for name, factor in (("double", 2.0), ("half", 0.5)):
        DirectoryRegistry(folder / "models").publish(name, linear([factor]), version="1")

    def made(join: str = ALL, total: str = "double + half", stage: str = "totals", text: str = TOPOLOGY) -> Program:
        topology = parse_text(text.replace("JOIN", join).replace("TOTAL", total))
        shares = runtime.shares(runtime.load(topology, models=folder / "models", schemas=folder), "app")
        return runtime.prepare(shares[stage])

    return made


def records(make: Make, stage: str, events: Sequence[int], text: str = TOPOLOGY) -> list[Record]:
    """What a stage writes for the events, each with x = its number; every other one has neither note nor count."""
    values = [{"id": f"e{at}", "x": at, "note": f"n{at}" if at % 2 else None, "count": at if at % 2 else None} for at in events]
    came = [Record("events", json.dumps(one).encode(), None, (), BEGIN * 1000, 0, at) for at, one in zip(events, values, strict=True)]
    (parcel,) = Pipeline(make(stage=stage, text=text), stage, sink=MemorySink(Memory())).process(Chunk(came, (("events", 0, len(came)),)))
    return [Record(parcel.topic, value, key, tuple(headers), stamp) for stamp, key, value, headers in parcel.records]


class Worker:
    """One after the other, over topics in memory, with a clock that is moved by hand."""

    def __init__(self, program: Program, throttle: Throttle | None = None) -> None:
        self.serving, self.throttle = Fixed(program), throttle
        self.memory, self.now = Memory(), float(BEGIN)
        self.errors: list[BaseException] = []
        self.begin()

    def begin(self) -> None:
        self.source, self.sink = MemorySource(self.memory, (FIRST, SECOND)), MemorySink(self.memory)
        self.delivery = Delivery(
            self.source,
            self.sink,
            AtLeastOnce(self.source),
            stages=dict.fromkeys((FIRST, SECOND), "totals"),
            serving=lambda: self.serving,
            fail=self.errors.append,
            throttle=self.throttle,
            wall=lambda: self.now,
        )
        self.source.assign()

    def restart(self) -> None:
        self.delivery.terminate()
        self.begin()

    async def read(self, *came: Record) -> None:
        for one in came:
            self.memory.append(one)
        spans: Sequence[Span] = await self.source.take(10)
        for span in spans:
            await self.delivery.submit([span])

    def letters(self, topic: str = FIRST) -> list[Record]:
        return self.memory.records(f"{topic}.dead-letter")

    @property
    def answers(self) -> list[dict[str, object]]:
        return [json.loads(one.value or b"") for one in self.memory.records("totals")]


def test_what_is_free_beyond_a_position_is_stored_although_no_position_has_moved(make: Make) -> None:
    """And stays stored: by a worker that commits before it has read anything, too."""
    first, second = (records(make, stage, range(EVENTS)) for stage in ("double", "half"))

    async def job() -> None:
        worker = Worker(make())
        await worker.read(*first, *second[1:])
        assert len(worker.answers) == EVENTS - 1
        assert await worker.delivery.poll()
        assert worker.memory.stored == {(FIRST, 0): 0, (SECOND, 0): EVENTS - 1}
        assert not await worker.delivery.poll(), "nothing has changed"
        for _ in range(2):
            worker.restart()
            assert await worker.source.store({})
        await worker.read(second[0])
        assert [one["id"] for one in worker.answers] == ["e1", "e2", "e3", "e4", "e5", "e0"]
        assert await worker.delivery.poll()
        assert worker.memory.stored == {(FIRST, 0): EVENTS, (SECOND, 0): EVENTS}
        worker.delivery.terminate()

    asyncio.run(job())


def test_nulls_that_are_passed_on_are_nulls_behind_a_join(make: Make) -> None:
    """Of texts and of numbers, whichever member has them."""
    first, second = (records(make, stage, range(2)) for stage in ("double", "half"))

    async def job() -> None:
        worker = Worker(make(ONE))
        await worker.read(*first, *second)
        assert [(one["note"], one["count"]) for one in worker.answers] == [(None, None), ("n1", 1)]
        worker.delivery.terminate()

    asyncio.run(job())


def test_what_waits_is_read_again_where_a_release_reads_other_columns(make: Make) -> None:
    first, second = (records(make, stage, range(EVENTS)) for stage in ("double", "half"))

    async def job() -> None:
        worker = Worker(make())
        await worker.read(*first)
        worker.serving = Fixed(make(total="double + half + x"), 1)
        await worker.read(*second)
        assert [one["y"] for one in worker.answers] == [at * 3.5 for at in range(EVENTS)]
        assert not worker.errors
        worker.delivery.terminate()

    asyncio.run(job())


def test_what_waits_and_a_release_cannot_read_is_a_dead_letter(make: Make) -> None:
    """The topics of the release hold other columns, and the file has not given them other names."""
    text = TOPOLOGY.replace("count: count", "")
    first, second = records(make, "double", range(2)), records(make, "half", range(2), text)

    async def job() -> None:
        worker = Worker(make())
        await worker.read(*first)
        worker.serving = Fixed(make(text=text), 1)
        await worker.read(*second)
        assert not worker.answers
        assert [dict(one.headers)["penstock-id"] for one in worker.letters()] == [b"e0", b"e1"]
        assert not worker.errors
        assert await worker.delivery.poll()
        assert worker.memory.stored == {(FIRST, 0): 2, (SECOND, 0): 2}
        worker.delivery.terminate()

    asyncio.run(job())


def test_late_records_are_counted_and_released(make: Make) -> None:
    class Seen(str):
        __slots__ = ("__weakref__",)

    first, second = (records(make, stage, range(2)) for stage in ("double", "half"))
    names = [Seen("about") for _ in second]
    seen = [weakref.ref(name) for name in names]
    second = [one._replace(headers=(*one.headers, (name, b""))) for one, name in zip(second, names, strict=True)]
    names.clear()

    async def job() -> None:
        worker = Worker(make(ONE))
        await worker.read(*first)
        assert [one["y"] for one in worker.answers] == [0.5, 2.5]
        await worker.read(*second)
        second.clear()
        worker.memory.clear()
        gc.collect()
        assert not any(name() for name in seen)
        assert {labels: cell.value for labels, cell in worker.delivery.metrics.join_late} == {
            ("totals", "double"): 0,
            ("totals", "half"): 2,
        }
        worker.delivery.terminate()

    asyncio.run(job())


def test_what_waits_is_counted_until_the_partitions_are_gone(make: Make) -> None:
    async def job() -> None:
        worker = Worker(make())
        await worker.read(*records(make, "double", range(EVENTS)))
        waiting = worker.delivery.metrics.join_waiting
        assert dict(waiting) == {("totals", "double"): EVENTS, ("totals", "half"): 0}
        worker.source.revoke()
        assert dict(waiting) == {("totals", "double"): 0, ("totals", "half"): 0}
        worker.delivery.terminate()

    asyncio.run(job())


def test_outputs_that_are_refused_end_the_loop_and_free_nothing(make: Make) -> None:
    first, second = (records(make, stage, range(EVENTS)) for stage in ("double", "half"))

    async def job() -> None:
        worker = Worker(make())
        worker.sink.refuse()
        await worker.read(*first, *second)
        (error,) = worker.errors
        assert isinstance(error, DeliveryFailed)
        assert worker.delivery.metrics.records_out.value == 0
        await worker.delivery.close(60)  # at once: nothing is under way
        assert worker.memory.stored == {}
        worker.delivery.terminate()

    asyncio.run(asyncio.wait_for(job(), 20))


def test_events_that_fail_for_want_of_a_member_slow_the_partition_that_has_them(make: Make) -> None:
    first = records(make, "double", range(EVENTS))

    async def job() -> None:
        worker = Worker(make(), Throttle(1.0, lambda: 0.0))
        await worker.read(*first)
        worker.now += 2 * HOUR
        await worker.delivery.tick()
        assert len(worker.letters()) == EVENTS
        assert worker.throttle is not None
        assert [worker.throttle.slowed((topic, 0)) for topic in (FIRST, SECOND)] == [True, False]
        await worker.read(*records(make, "double", [EVENTS]))
        assert worker.source.positions.expected((FIRST, 0)) == EVENTS, "it is read later"
        worker.delivery.terminate()

    asyncio.run(job())
