"""The pairs of one stage, chunk by chunk: what is a dead letter, what is bounded, and what runs a second time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from penstock import runtime
from penstock.engine.observe import Observers
from penstock.errors import SchemaWanted, TransportUnavailable
from penstock.parcel import Parcel
from penstock.pipeline import AtLeastOnce, Chunk, Delivery, Fixed, Pace, Pipeline, Program
from penstock.pipeline.delivery import EXPIRED
from penstock.pipeline.matching import Matching
from penstock.pipeline.ports import Port
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.state import States
from penstock.telemetry import Metrics
from penstock.testing import models
from penstock.topology.parse import parse_text
from penstock.transports.memory import Memory, MemorySink, MemorySource

TOPOLOGY = """
topology: shop
sources:
  orders: {topic: orders, schema: order.avsc, id: id, time: at}
  payments: {topic: payments, schema: payment.avsc}
  paid:
    match: {left: orders, right: payments, by: {orders: [id, shop], payments: [order, shop]}, within: 10s, OPTIONS}
nodes:
  twice: {kind: model, model: double@1, inputs: {x: paid.orders.x}}
sinks:
  out: {topic: out, fields: {id: paid.orders.id, method: paid.payments.method, y: twice}}
"""
NOW = 1_700_000_000_000
Make = Callable[[str], Program]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    time = {"type": "long", "logicalType": "timestamp-micros"}
    order = [{"name": "id", "type": ["null", "string"]}, {"name": "shop", "type": "boolean"}, {"name": "x", "type": "float"}]
    order.append({"name": "at", "type": ["null", time]})
    payment = [{"name": "order", "type": "string"}, {"name": "shop", "type": "boolean"}, {"name": "method", "type": "string"}]
    for name, fields in (("order", order), ("payment", payment)):
        (tmp_path / f"{name}.avsc").write_text(json.dumps({"type": "record", "name": name, "fields": fields}))
    DirectoryRegistry(tmp_path / "models").publish("double", models.linear([2.0]), version="1")

    def made(options: str) -> Program:
        topology = parse_text(TOPOLOGY.replace("OPTIONS", options))
        (share,) = runtime.shares(runtime.load(topology, models=tmp_path / "models", schemas=tmp_path), "app").values()
        return runtime.prepare(share)

    return made


def order(offset: int, id: str | None, at: int | None = 0, **more: Any) -> Record:
    event = {"id": id, "shop": True, "x": float(offset), "at": None if at is None else (NOW + at) * 1000, **more}
    return Record("orders", json.dumps(event).encode(), b"key", (), NOW, 0, offset)


def payment(offset: int, order: str, at: int = 0, **more: Any) -> Record:
    event = {"order": order, "shop": True, "method": f"m{offset}", **more}
    return Record("payments", json.dumps(event).encode(), b"key", (), NOW + at, 0, offset)


class Bench:
    """A stage with the state of partition 0."""

    def __init__(self, program: Program, observers: Observers | None = None) -> None:
        self.metrics, self.states = Metrics(), States(lambda: NOW / 1000)
        sink = MemorySink(Memory(1))
        self.pipeline = Pipeline(program, "paid", sink=sink, chunk_rows=4, metrics=self.metrics, observers=observers)
        self.matching = Matching(self.pipeline, self.metrics)
        self.largest = 0

    def take(self, *records: Record) -> list[Parcel]:
        chunk = Chunk(records, ((records[0].topic, 0, len(records)),))
        passes = [*self.matching.take(chunk, self.states, NOW)]
        self.largest = max([self.largest, *(one.chunk.rows for one in passes)])
        return [parcel for one in passes for parcel in self.pipeline.complete(one)]

    def over(self, left: int, right: int) -> list[Parcel]:
        passes = self.matching.over(self.states, 0, (NOW + left, NOW + right), 100)
        return [parcel for one in passes or () for parcel in self.pipeline.complete(one)]

    def rows(self, mark: str) -> float:
        return self.metrics.match_rows.labels("paid", mark).value


def outputs(parcels: Iterable[Parcel]) -> list[tuple[str, str | None]]:
    found = [json.loads(value or b"") for parcel in parcels if not parcel.dead for _, _, value, _ in parcel.records]
    return [(one["id"], one["method"]) for one in found]


def letters(parcels: Iterable[Parcel]) -> list[tuple[str, str]]:
    headers = [(parcel.topic, dict(each)) for parcel in parcels if parcel.dead for _, _, _, each in parcel.records]
    return [(topic, (one["__streams.errors.message"] or b"").decode()) for topic, one in headers]


def test_all_fields_of_the_key_are_equal(make: Make) -> None:
    bench = Bench(make("unmatched: drop"))
    bench.take(order(0, "a"), order(1, "b"), order(2, "a", shop=False))
    found = bench.take(payment(0, "a"), payment(1, "c"), payment(2, "b", 10_000), payment(3, "b", 10_001), payment(4, "a", shop=False))
    assert outputs(found) == [("a", "m0"), ("b", "m2"), ("a", "m4")]


def test_what_has_no_key_or_no_time_is_a_dead_letter(make: Make) -> None:
    bench = Bench(make("unmatched: keep, ahead: 1m"))
    found = bench.take(order(0, None), order(1, "a", None), order(2, "b", 60_001), order(3, "c", 60_000))
    assert [(topic, text.partition(",")[0]) for topic, text in letters(found)] == [
        ("orders.dead-letter", "field 'id' is null"),
        ("orders.dead-letter", "field 'at' is null"),
        ("orders.dead-letter", "the event is 60 s ahead of the clock"),
    ]
    assert letters(bench.take(Record("payments", b"{", None, (), NOW, 0, 0)))[0][0] == "payments.dead-letter"
    assert outputs(bench.take(payment(1, "c", 60_000))) == [("c", "m1")]
    assert not bench.take(order(3, "c", 60_000)), "a replay"
    assert bench.rows("replayed") == 1


def test_the_key_may_be_that_of_the_records(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        f"{__name__}.TOPOLOGY", TOPOLOGY.replace("{orders: [id, shop], payments: [order, shop]}", "{orders: id, payments: key}")
    )
    bench = Bench(make("unmatched: drop"))
    bench.take(order(0, "key"), order(1, "a"))
    assert outputs(bench.take(payment(0, "a"), payment(1, "b")._replace(key=b"a"))) == [("key", "m0"), ("a", "m1")]
    assert "key" in letters(bench.take(payment(2, "a")._replace(key=None)))[0][1]


def test_many_partners_go_through_the_models_in_chunks(make: Make) -> None:
    bench = Bench(make("unmatched: drop"))
    bench.take(*(order(at, "a") for at in range(10)))
    assert [id for id, _ in outputs(bench.take(payment(0, "a"), payment(1, "a")))] == ["a"] * 20
    assert (bench.largest, bench.rows("pairs")) == (4, 20)


def test_a_left_event_goes_on_alone_once_and_only_without_a_partner(make: Make) -> None:
    bench = Bench(make("unmatched: keep"))
    bench.take(order(0, "a"), order(1, "b"), order(2, "b", 5))
    bench.take(payment(0, "b", 1))
    assert not outputs(bench.over(50_000, 10_000))
    assert outputs(bench.over(50_000, 10_001)) == [("a", None)]
    assert outputs(bench.over(50_000, 10_006)) == [("b", None)], "the payment was before it"
    assert not outputs(bench.take(payment(1, "a")))
    assert bench.matching.over(bench.states, 0, (NOW + 50_000, NOW + 50_000), 100) is not None
    assert len(bench.states) == 0


def test_more_keys_than_may_be_kept(make: Make) -> None:
    """The oldest go, as if their time were over."""
    bench = Bench(make("unmatched: keep, max_keys: 2"))
    bench.take(order(0, "a", 3), order(1, "b", 1), order(2, "c", 2), order(3, "d", 4))
    assert outputs(bench.over(0, 0)) == [("b", None), ("c", None)]
    assert (bench.rows("evicted"), len(bench.states)) == (2, 2)


def test_a_partner_that_a_release_cannot_read(make: Make) -> None:
    """What is kept is read again by what is active: the pair is a dead letter of its left record."""
    bench = Bench(make("unmatched: keep"))
    bench.take(payment(0, "a"))
    side = bench.states.at("paid.right", 0, bench.matching._makes[1])
    (row,) = side.partners(b"\x92\xa1a\xc3", NOW, NOW)
    side.remove(b"\x92\xa1a\xc3")
    side.add(b"\x92\xa1a\xc3", row._replace(body=row.body.replace(b'"method"', b'"methud"')))
    found = bench.take(order(0, "a"), order(1, "b"))
    assert not outputs(found)
    ((topic, text),) = letters(found)
    assert (topic, "method" in text) == ("orders.dead-letter", True)


class Seen:
    """An observer that keeps the chunks, as those that run them again do."""

    name = "seen"

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []

    def saw(self, stage: Any, batch: Any, failures: Any, *, generation: int) -> None:
        self.chunks.append(Chunk(batch.origin.records, tuple(batch.origin.places), batch.origin.recalled))


def test_rows_run_again_with_the_columns_that_they_had(make: Make) -> None:
    program, seen = make("unmatched: keep"), Seen()
    bench = Bench(program, Observers([seen], Metrics()))
    bench.take(order(0, "a"), order(1, "b"))
    first = [*bench.take(payment(0, "a")), *bench.over(50_000, 50_000)]
    twin = Pipeline(program, "paid", sink=MemorySink(Memory(1)))
    assert all(map(twin.knows, seen.chunks))
    again = [parcel for chunk in seen.chunks for parcel in twin.process(chunk)]
    assert outputs(again) == outputs(first) == [("a", "m0"), ("b", None)]
    assert [list(one.records) for one in again] == [list(one.records) for one in first]


def test_the_side_that_is_ahead_waits_for_the_other(make: Make) -> None:
    """A backlog of one side would fill the memory with events of the other; at the end of its topic nothing waits for it."""
    program = make("unmatched: drop, lateness: 1s")

    async def main() -> None:
        memory = Memory(1)
        source = MemorySource(memory, ["orders", "payments"])
        delivery = Delivery(
            source,
            MemorySink(memory),
            AtLeastOnce(source),
            stages={"orders": "paid", "payments": "paid"},
            serving=lambda: Fixed(program),
            fail=lambda error: pytest.fail(str(error)),
            wall=lambda: NOW / 1000 + 3600,
        )
        for at in range(3):
            memory.append(order(at, "a", at * 20_000))
            memory.append(payment(at, "a", at * 20_000))
        source.assign()
        spans = await source.take(1)
        for one in (span for span in spans if span.partition[0] == "payments"):
            await delivery.submit([one])
        withheld = source.withheld
        assert withheld is not None
        assert [withheld((topic, 0)) for topic in ("orders", "payments")] == [False, True]
        for one in (span for span in spans if span.partition[0] == "orders"):
            await delivery.submit([one])
        assert [withheld((topic, 0)) for topic in ("orders", "payments")] == [False, False]
        assert len(memory.records("out")) == 3
        delivery.terminate()

    asyncio.run(main())


def test_a_lookup_of_a_pair_reads_its_table(make: Make, tmp_path: Path) -> None:
    """Rows that are put together have the tables of the stream, as others have."""
    make("unmatched: drop")
    method = {"type": "record", "name": "Method", "fields": [{"name": "name", "type": "string"}, {"name": "fee", "type": "double"}]}
    (tmp_path / "method.avsc").write_text(json.dumps(method))
    text = TOPOLOGY.replace("OPTIONS", "unmatched: drop").replace(
        "nodes:", "tables: {fees: {topic: fees, schema: method.avsc, key: name}}\nnodes:"
    )
    text = text.replace("sinks:", "  fee: {kind: lookup, table: fees, by: paid.payments.method}\nsinks:").replace(
        "y: twice", "y: twice, fee: fee.fee"
    )
    (share,) = runtime.shares(runtime.load(parse_text(text), models=tmp_path / "models", schemas=tmp_path), "app").values()
    program, reader = runtime.prepare(share), runtime.readers(share)["fees"]
    reader.apply([Record("fees", b'{"name": "m0", "fee": 0.5}')])
    states = States(lambda: NOW / 1000, tables={"fees": reader.rows})

    async def main() -> None:
        memory = Memory(1)
        source = MemorySource(memory, ["orders", "payments"])
        delivery = Delivery(
            source,
            MemorySink(memory),
            AtLeastOnce(source),
            stages={"orders": "paid", "payments": "paid"},
            serving=lambda: Fixed(program),
            fail=lambda error: pytest.fail(str(error)),
            states=lambda: states,
        )
        for at, id in enumerate("ab"):
            memory.append(order(at, id))
            memory.append(payment(at, id))
        source.assign()
        for span in await source.take(10):
            await delivery.submit([span])
        found = {one["id"]: one["fee"] for one in (json.loads(record.value or b"") for record in memory.records("out"))}
        assert found == {"a": 0.5, "b": None}
        delivery.terminate()

    asyncio.run(main())


def test_an_event_ahead_of_the_clock_ends_no_wait(make: Make) -> None:
    """A payment from a fast clock is counted, and does not say that the payments are read up to its time."""
    bench = Bench(make("unmatched: keep, lateness: 1s"))
    bench.take(payment(0, "x", 3_000_000))
    bench.take(order(0, "a"))
    assert bench.matching.newest(bench.states, ("payments", 0)) == NOW
    (letter,) = letters(bench.take(payment(1, "a")._replace(timestamp=-1)))
    assert letter == ("payments.dead-letter", "-1 ms is not a time of events")


def test_what_expires_is_bounded_and_ends_with_the_assignment(make: Make) -> None:
    """Orders that go on alone wait for the acknowledgement of those before them, and none goes on when a drain has begun."""
    program = make("unmatched: keep, lateness: 1s")
    now = NOW / 1000

    async def main() -> None:
        memory = Memory(1)
        source, sink = MemorySource(memory, ["orders", "payments"]), MemorySink(memory)
        delivery = Delivery(
            source,
            sink,
            AtLeastOnce(source),
            stages={"orders": "paid", "payments": "paid"},
            serving=lambda: Fixed(program),
            fail=lambda error: pytest.fail(str(error)),
            pace=Pace(in_flight=2),
            wall=lambda: now,
        )
        for at in range(3 * EXPIRED):
            memory.append(order(at, f"o{at}"))
        source.assign()
        while spans := await source.take(4096):
            await delivery.submit(spans)
        now_later(60)
        sink.delay()
        await delivery.tick()
        assert len(memory.records("out")) == 0
        begun = delivery._forwarded
        assert 0 < begun <= 2
        source.positions.drain()
        await delivery.tick()
        assert delivery._forwarded == begun
        delivery.terminate()

    def now_later(seconds: float) -> None:
        nonlocal now
        now += seconds

    asyncio.run(main())


def test_what_waits_is_kept_while_its_schema_is_fetched(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart on another host may not know the schema of what was restored: it is fetched, and the order goes on alone then."""
    program = make("unmatched: keep, lateness: 1s")
    now, known = NOW / 1000, False
    asked: list[float] = []

    def fetch() -> None:
        nonlocal known
        asked.append(now)
        if len(asked) == 1:
            raise TransportUnavailable("no answer")
        known = True

    async def main() -> None:
        nonlocal now
        memory = Memory(1)
        source = MemorySource(memory, ["orders", "payments"])
        delivery = Delivery(
            source,
            MemorySink(memory),
            AtLeastOnce(source),
            stages={"orders": "paid", "payments": "paid"},
            serving=lambda: Fixed(program),
            fail=lambda error: pytest.fail(str(error)),
            wall=lambda: now,
            clock=lambda: now,
        )
        memory.append(order(0, "a"))
        source.assign()
        for span in await source.take(10):
            await delivery.submit([span])
        decode = Port.decode

        def wants(self: Port, records: Any) -> Any:
            if not known:
                raise SchemaWanted("the schema 7", fetch)
            return decode(self, records)

        monkeypatch.setattr(Port, "decode", wants)
        now += 60
        for _ in range(3):
            await delivery.tick()
        assert (len(asked), memory.records("out")) == (1, [])
        assert "orders waits for the schema 7" in delivery.waiting["orders"]
        now += 60
        await delivery.tick()
        assert (len(asked), delivery.waiting) == (2, {})
        assert [json.loads(one.value or b"")["id"] for one in memory.records("out")] == ["a"]
        delivery.terminate()

    asyncio.run(main())


def test_very_many_pairs_of_a_key_are_made_piece_by_piece(make: Make) -> None:
    """100 orders with 40 payments each: no more rows at once than a chunk has, and each pair once."""
    bench = Bench(make("unmatched: keep"))
    bench.take(*(order(at, "a") for at in range(100)))
    payments = [payment(at, "a") for at in range(40)]
    taken = bench.matching.take(Chunk(payments, (("payments", 0, 40),)), bench.states, NOW)
    first = next(taken)
    assert first.chunk.rows == 4
    assert bench.rows("pairs") == 0, "the others are not made yet, and a schema may be wanted for them"
    assert sum(one.chunk.rows for one in taken) == 3_996
    assert bench.rows("pairs") == 4_000
    assert outputs(bench.take(*payments)) == [], "they are counted"


def test_the_loop_goes_on_while_pairs_are_made_and_nothing_expires_before_all_are(make: Make) -> None:
    program = make("unmatched: drop, lateness: 1s")

    async def main() -> None:
        memory = Memory(1)
        source = MemorySource(memory, ["orders", "payments"])
        delivery = Delivery(
            source,
            MemorySink(memory),
            AtLeastOnce(source),
            stages={"orders": "paid", "payments": "paid"},
            serving=lambda: Fixed(program),
            fail=lambda error: pytest.fail(str(error)),
            pace=Pace(chunk_rows=4),
            wall=lambda: NOW / 1000 + 3600,
        )

        async def deliver() -> None:
            for span in await source.take(100):
                await delivery.submit([span])

        for at in range(100):
            memory.append(order(at, "a"))
        memory.append(payment(0, "b", 60_000))  # every order is over, and none is removed yet
        source.assign()
        await deliver()
        for at in range(4):
            memory.append(payment(at + 1, "a"))
        working, turns = asyncio.ensure_future(deliver()), 0
        ticking = None
        while not working.done():
            await asyncio.sleep(0)
            turns += 1
            if turns == 10:
                ticking = asyncio.ensure_future(delivery.tick())
        await working
        assert turns > 50
        assert ticking is not None
        await ticking
        assert len(memory.records("out")) == 400
        memory.append(payment(5, "a"))
        await deliver()
        assert len(memory.records("out")) == 400, "the tick has removed the orders, when it was its turn"
        delivery.terminate()

    asyncio.run(main())
