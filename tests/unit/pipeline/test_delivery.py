"""The loop's promises one by one, over the memory transport: back-pressure, acknowledgements, swaps, the end of an assignment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from penstock import runtime
from penstock.errors import DeliveryFailed, SettingsError
from penstock.parcel import Parcel
from penstock.pipeline import AtLeastOnce, Delivery, Fixed, Pace, Program
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models
from penstock.transports.base import Abilities, Lapsed, Sent
from penstock.transports.memory import Memory, MemorySink, MemorySource
from penstock.transports.throttle import Throttle
from penstock.transports.tracker import Span

TOPOLOGY = """\
topology: table
sources: {items: {topic: items, schema: item.avsc, id: name}}
nodes: {price: {kind: model, model: table@1, inputs: {x: item}}}
sinks: {prices: {topic: prices, fields: {item: item, price: price}}}
"""
FIELDS = [{"name": "item", "type": "long"}, {"name": "name", "type": ["null", "string"], "default": None}]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    folder = tmp_path_factory.mktemp("delivery")
    (folder / "item.avsc").write_text(json.dumps({"type": "record", "name": "Item", "fields": FIELDS}))
    (folder / "table.yaml").write_text(TOPOLOGY)
    DirectoryRegistry(folder / "models").publish("table", models.gather([10, 20, 30]))
    return runtime.prepare(runtime.load(folder / "table.yaml", models=folder / "models", schemas=Path(folder)))


@dataclass
class Worker:
    """A loop over a broker in memory; `errors` is what has ended it."""

    program: Program
    pace: Pace = field(default_factory=Pace)
    limits: dict[str, int] = field(default_factory=dict)
    errors: list[BaseException] = field(default_factory=list)
    sink_type: type[MemorySink] = MemorySink
    now: float = 0.0
    partitions: int = 1
    throttle: Throttle | None = None

    def __post_init__(self) -> None:
        self.memory = Memory(self.partitions)
        self.source = MemorySource(self.memory, ["items"])
        self.sink = self.sink_type(self.memory, limits=self.limits)
        self.serving: Any = Fixed(self.program)
        self.delivery = Delivery(
            self.source,
            self.sink,
            AtLeastOnce(self.source),
            stages={"items": "items"},
            serving=lambda: self.serving,
            fail=self.errors.append,
            pace=self.pace,
            clock=lambda: self.now,
            throttle=self.throttle,
        )
        self.source.assign()

    def send(self, *events: dict[str, Any]) -> None:
        for event in events:
            self.memory.append(Record("items", json.dumps(event).encode()))

    async def step(self) -> None:
        await self.delivery.submit(await self.source.take(self.delivery.rows))

    @property
    def prices(self) -> list[Record]:
        return self.memory.records("prices")

    @property
    def stored(self) -> int:
        return self.memory.stored.get(("items", 0), 0)


def scenario(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def test_a_position_is_stored_when_the_outputs_before_it_are_acknowledged_and_not_before(program: Program) -> None:
    async def main() -> None:
        worker = Worker(program)
        worker.sink.hold()
        worker.send({"item": 0})
        await worker.step()
        worker.send({"item": 1}, {"item": 2})
        await worker.step()
        assert len(worker.prices) == 3
        first, second = worker.sink.held
        second.settle()
        assert not await worker.delivery.poll()
        first.settle()
        assert await worker.delivery.poll()
        assert worker.stored == 3

    scenario(main)


def test_no_more_is_taken_than_may_be_in_flight(program: Program) -> None:
    async def main() -> None:
        worker = Worker(program, Pace(in_flight=2))
        worker.sink.hold()
        for number in range(2):
            worker.send({"item": number})
            await worker.step()
        assert not worker.delivery.has_room()
        waiting = asyncio.ensure_future(worker.delivery.room())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
        worker.sink.held.pop(0).settle()
        await waiting

    scenario(main)


def test_a_refused_output_ends_the_loop_and_nothing_past_it_is_stored(program: Program) -> None:
    async def main() -> None:
        worker = Worker(program)
        worker.send({"item": 0})
        await worker.step()
        worker.sink.refuse()
        worker.send({"item": 1})
        await worker.step()
        (error,) = worker.errors
        assert isinstance(error, DeliveryFailed)
        worker.send({"item": 2})
        await worker.step()
        await worker.delivery.poll()
        assert worker.stored == 1

    scenario(main)


def test_a_swap_shows_from_the_next_group_on(program: Program) -> None:
    """A group sees one generation from its first row to its last, also when models are swapped while it is scored."""

    async def main() -> None:
        worker = Worker(program, Pace(chunk_rows=1))
        worker.send(*({"item": 0} for _ in range(4)))
        working = asyncio.ensure_future(worker.step())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        worker.serving = Fixed(program, generation=1)
        await working
        worker.send({"item": 0})
        await worker.step()
        assert [dict(record.headers)["penstock-generation"] for record in worker.prices] == [b"0"] * 4 + [b"1"]

    scenario(main)


def test_close_waits_for_acknowledgements_and_stores_them(program: Program) -> None:
    async def main() -> None:
        worker = Worker(program)
        worker.sink.hold()
        worker.send({"item": 0})
        await worker.step()
        closing = asyncio.ensure_future(worker.delivery.close(60))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not closing.done()
        worker.sink.release()
        await closing
        assert worker.stored == 1

    scenario(main)


def test_nothing_begins_while_the_loop_is_closed_until_the_next_assignment(program: Program) -> None:
    async def main() -> None:
        worker = Worker(program)
        worker.send({"item": 0})
        spans = await worker.source.take(10)
        await worker.delivery.close(0)
        await worker.delivery.submit(spans)
        assert worker.prices == []
        worker.source.assign()
        await worker.step()
        assert len(worker.prices) == 1

    scenario(main)


def test_a_loop_that_is_terminated_waits_for_nothing(program: Program) -> None:
    async def main() -> None:
        worker = Worker(program)
        worker.sink.hold()
        worker.send({"item": 0})
        await worker.step()
        worker.delivery.terminate()
        await worker.delivery.close(3600)
        assert worker.stored == 0

    scenario(main)


def test_while_the_lease_does_not_hold_nothing_is_scored_or_sent_and_what_was_taken_waits(program: Program) -> None:
    async def main() -> None:
        worker = Worker(program, Pace(chunk_rows=1))
        worker.send(*({"item": 0} for _ in range(3)))
        working = asyncio.ensure_future(worker.step())
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # between two chunks
        worker.source.lease(False)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not working.done()
        assert worker.prices == []
        worker.source.lease(True)
        await working
        assert len(worker.prices) == 3

    scenario(main)


def test_outputs_that_wait_for_the_lease_are_dropped_with_their_assignment(program: Program) -> None:
    async def main() -> None:
        worker = Worker(program)
        worker.send({"item": 0})
        spans = await worker.source.take(10)
        worker.source.lease(False)
        working = asyncio.ensure_future(worker.delivery.submit(spans))
        for _ in range(5):
            await asyncio.sleep(0)
        await asyncio.wait_for(worker.delivery.close(3600), 5)  # what cannot finish is not waited for
        worker.source.revoke()
        await working
        assert worker.prices == []
        assert worker.errors == []
        worker.source.lease(True)
        worker.source.assign()
        await worker.step()
        assert len(worker.prices) == 1

    scenario(main)


def test_an_assignment_that_ends_in_the_middle_of_a_group_does_not_end_the_next(program: Program) -> None:
    async def main() -> None:
        worker = Worker(program, Pace(chunk_rows=1))
        worker.send(*({"item": 0} for _ in range(3)))
        working = asyncio.ensure_future(worker.step())
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # between two chunks
        worker.source.revoke()
        await working
        assert worker.prices == []
        worker.source.assign()
        await worker.step()
        assert len(worker.prices) == 3

    scenario(main)


def test_outputs_that_the_sink_has_dropped_are_no_error(program: Program) -> None:
    """Their assignment ended while they waited for room: the next owner makes them."""

    class Late(MemorySink):
        async def send(self, parcels: Sequence[Parcel], under: Span | None = None) -> Sent:
            worker.source.revoke()
            sent = Sent(1)
            sent.settle(Lapsed())
            return sent

    worker = Worker(program, sink_type=Late)

    async def main() -> None:
        worker.send({"item": 0})
        await worker.step()
        assert worker.errors == []
        assert worker.delivery.metrics.records_out.value == 0

    scenario(main)


def test_what_is_not_committed_is_limited_in_rows_and_the_limit_commits_by_itself(program: Program) -> None:
    async def main() -> None:
        worker = Worker(program, Pace(uncommitted_rows=3))
        worker.send(*({"item": 0} for _ in range(3)))
        await worker.step()
        assert worker.stored == 0
        assert await worker.delivery.room()
        assert worker.stored == 3

    scenario(main)


@pytest.mark.parametrize("pace", [Pace(uncommitted_rows=3), Pace(uncommitted_seconds=5)])
def test_nothing_more_is_taken_until_a_commit_succeeds(program: Program, pace: Pace) -> None:
    async def main() -> None:
        worker = Worker(program, pace)
        worker.source.storing = False
        worker.send(*({"item": 0} for _ in range(3)))
        await worker.step()
        worker.now += 6
        assert "no commit has succeeded for 6 s (3 records" in worker.delivery.uncommitted()
        waiting = asyncio.ensure_future(worker.delivery.room())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
        worker.source.storing = True
        assert await worker.delivery.poll()  # the runner's timer
        assert await waiting
        assert worker.delivery.uncommitted() == ""

    scenario(main)


def test_full_of_what_is_in_flight_is_no_lack_of_commits(program: Program) -> None:
    """Nothing of it could be committed, so the worker stays ready, and what hangs counts as a stall."""

    async def main() -> None:
        worker = Worker(program, Pace(uncommitted_rows=3))
        worker.send(*({"item": 0} for _ in range(3)))
        await worker.source.take(10)
        worker.now += 60
        assert not worker.delivery.has_room()
        assert worker.delivery.uncommitted() == ""

    scenario(main)


def test_full_for_a_moment_is_no_lack_of_commits(program: Program) -> None:
    """However long ago the last commit was: with a long commit interval, the next one comes when as much is not committed as may be."""

    async def main() -> None:
        worker = Worker(program, Pace(uncommitted_rows=3, uncommitted_seconds=60))
        worker.send({"item": 0})
        await worker.step()
        worker.now += 20
        assert worker.delivery.uncommitted() == ""
        worker.send({"item": 0}, {"item": 0})
        await worker.step()
        assert not worker.delivery.has_room()
        assert worker.delivery.uncommitted() == ""
        worker.now += 2
        assert "no commit has succeeded for 22 s (3 records" in worker.delivery.uncommitted()

    scenario(main)


def test_an_idle_worker_has_nothing_to_commit_and_may_take(program: Program) -> None:
    async def main() -> None:
        worker = Worker(program, Pace(uncommitted_seconds=5))
        worker.now += 3600
        assert worker.delivery.uncommitted() == ""
        assert await worker.delivery.room()

    scenario(main)


def test_close_has_one_bound_for_the_wait_and_the_commit(program: Program) -> None:
    """A commit that hangs, be it the timer's that holds the lock, does not hold up a rebalance."""

    async def main() -> None:
        worker = Worker(program)
        worker.source.store = hang  # type: ignore[method-assign,assignment]
        worker.send({"item": 0})
        await worker.step()
        timer = asyncio.ensure_future(worker.delivery.poll())
        await asyncio.sleep(0)
        await asyncio.wait_for(worker.delivery.close(3600, 0.01), 10)
        timer.cancel()

    async def hang(_: object) -> bool:
        return await asyncio.Event().wait()

    scenario(main)


def test_guilty_row_is_looked_for_beside_the_loop_and_the_chunk_is_decoded_once(program: Program) -> None:
    async def main() -> None:
        worker = Worker(program)
        worker.send({"item": 0}, {"item": 7}, {"item": 2})
        await worker.step()
        assert [json.loads(record.value or b"")["item"] for record in worker.prices] == [0, 2]
        assert len(worker.memory.records("items.dead-letter")) == 1
        assert (worker.delivery.metrics.splits.value, worker.delivery.metrics.offloaded.value) == (1, 1)

    scenario(main)


def test_output_larger_than_its_topic_takes_becomes_a_dead_letter_of_its_event(program: Program) -> None:
    async def main() -> None:
        worker = Worker(program, limits={"prices": 700})
        worker.send({"item": 0, "name": "a"}, {"item": 1, "name": "b" * 700}, {"item": 2, "name": "c"})
        await worker.step()
        assert [dict(record.headers)["penstock-id"] for record in worker.prices] == [b"a", b"c"]
        (letter,) = worker.memory.records("items.dead-letter")
        assert b"larger than prices takes (700 bytes" in (dict(letter.headers)["__streams.errors.message"] or b"")
        assert dict(letter.headers)["penstock-id"] == b"b" * 700
        assert await worker.delivery.poll()
        assert worker.stored == 3

    scenario(main)


def test_id_field_that_is_null_gives_way_to_the_position(program: Program) -> None:
    async def main() -> None:
        worker = Worker(program)
        worker.send({"item": 0, "name": "a"}, {"item": 1, "name": None}, {"item": 1})
        await worker.step()
        assert [dict(record.headers)["penstock-id"] for record in worker.prices] == [b"a", b"items:0:1", b"items:0:2"]

    scenario(main)


def test_guarantee_that_the_transport_cannot_keep_is_refused(program: Program) -> None:
    worker = Worker(program)
    worker.source.abilities = Abilities(replay=False)
    with pytest.raises(SettingsError, match="AtLeastOnce needs replay, which MemorySource does not offer"):
        Delivery(
            worker.source,
            worker.sink,
            AtLeastOnce(worker.source),
            stages={},
            serving=Fixed(program),
            fail=worker.errors.append,
        )


# -- a flood of dead letters ----------------------------------------------------------------------------------------------


def test_partition_whose_records_fail_is_slowed_and_its_neighbour_goes_on(program: Program) -> None:
    now = 0.0
    worker = Worker(program, pace=Pace(chunk_rows=4, group_rows=4), partitions=2, throttle=Throttle(2.0, lambda: now))
    for number in range(40):
        worker.memory.append(Record("items", b"{", partition=0))
        worker.memory.append(Record("items", b'{"item":%d}' % (number % 3), partition=1))

    def written() -> tuple[int, int]:
        return len(worker.memory.records("items.dead-letter")), len(worker.prices)

    async def job() -> None:
        nonlocal now
        await worker.step()
        assert written() == (4, 40), "the first group is written whole, and the neighbour waits for nothing"
        while written()[0] < 40:
            before = written()[0]
            await worker.step()
            assert written()[0] - before <= 4
            assert written()[0] <= 4 + 2 * now + 2
            now += 0.5
        assert await worker.delivery.poll()

    asyncio.run(asyncio.wait_for(job(), 20))
    assert now >= (40 - 4 - 2 - 4) / 2
    assert not worker.errors
    assert worker.memory.stored == {("items", 0): 40, ("items", 1): 40}
    assert [one.offset for one in map(headers_offset, worker.memory.records("items.dead-letter"))] == list(range(40))


def headers_offset(letter: Record) -> Record:
    return letter._replace(offset=int(dict(letter.headers)["__streams.errors.offset"] or b"-1"))
