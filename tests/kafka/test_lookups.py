"""Lookups on a real Kafka: the table is whole before an event is scored, changes come while the worker runs, and kills lose nothing."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from penstock.record import Record
from penstock.testing import Broker, create_topics, produce, wait_for
from tests.kafka.operating import must_be_signed, penstock
from tests.kafka.running import Job, delete_topic, make_job

pytestmark = pytest.mark.broker

ORDER = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "item", "type": ["null", "string"]},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
}
ITEM = {
    "type": "record",
    "name": "Item",
    "fields": [
        {"name": "code", "type": "string"},
        {"name": "price", "type": "double"},
        {"name": "stock", "type": ["null", "long"]},
        {"name": "maker", "type": "string"},
        {"name": "at", "type": "long"},
    ],
}
EMPTY = {"code": "a", "stock": 1, "maker": "acme"}
MAKER = {"type": "record", "name": "Maker", "fields": [{"name": "country", "type": "string"}]}
TOPOLOGY = """\
topology: doubles
sources:
  orders: {{topic: {source}, schema: order.avsc, id: id, time: at, dead_letter: {dead}}}
tables:
  items: {{topic: {items}, schema: item.avsc, key: code{history}}}
  makers: {{topic: {makers}, schema: maker.avsc}}
nodes:
  found: {{kind: lookup, table: items, by: item}}
  maker: {{kind: lookup, table: makers, by: found.maker}}
  cost: {{kind: rule, outputs: {{twice: "coalesce(found.price, -1.0) * 2", known: "found.found and maker.found"}}}}
sinks:
  doubled:
    topic: {sink}
    fields:
      id: id
      price: found.price
      stock: found.stock
      country: maker.country
      twice: cost.twice
      known: cost.known
"""
BEGIN = 1_700_000_000_000
DAY = 86_400_000


class Shop:
    """A job with two tables."""

    def __init__(self, job: Job, history: str = "") -> None:
        self.job = job
        self.items, self.makers = f"{job.source}.items", f"{job.source}.makers"
        for name, schema in (("order", ORDER), ("item", ITEM), ("maker", MAKER)):
            (job.folder / "schemas" / f"{name}.avsc").write_text(json.dumps(schema))
        must_be_signed(job)
        names = {"source": job.source, "sink": job.sink, "dead": job.dead, "items": self.items, "makers": self.makers, "history": history}
        job.file.write_text(TOPOLOGY.format(**names))
        done = penstock(job, "topics", "create", str(job.file))
        assert done.code == 0, done.err
        assert f"{self.items:40} created with 2 partitions" in done.out

    def item(self, code: str, price: float, stock: int | None = 1, maker: str = "acme", *, key: str = "", at: int = BEGIN) -> Record:
        value = json.dumps({"code": code, "price": price, "stock": stock, "maker": maker, "at": at}).encode()
        return self.row(key or code, value, at)

    def row(self, key: str, value: bytes | None, at: int = BEGIN) -> Record:
        return Record(self.items, value, key.encode(), timestamp=at, partition=len(key) % 2)

    def maker(self, name: str, country: str) -> Record:
        return Record(self.makers, json.dumps({"country": country}).encode(), name.encode())

    def put(self, *records: Record) -> None:
        produce(self.job.broker, records)

    def order(self, *orders: tuple[int, str | None], at: int = BEGIN) -> None:
        events = [(number, json.dumps({"id": str(number), "item": item, "at": at}).encode()) for number, item in orders]
        self.put(*(Record(self.job.source, event, str(number).encode(), partition=number % 2) for number, event in events))

    def answers(self, count: int, log: object = "") -> dict[str, tuple[Any, ...]]:
        """Waits for answers. Returns the price, the stock, the maker's country, twice the price, and whether all was found."""
        wait_for(lambda: len(self.job.ids()) >= count, lambda: f"{count} answers\n{log}", 60, 0.1)
        found = (json.loads(one.value or b"") for one in self.job.answers())
        return {one["id"]: tuple(one[name] for name in ("price", "stock", "country", "twice", "known")) for one in found}


@pytest.fixture
def job(broker: Broker, tmp_path: Path) -> Job:
    return make_job(broker, tmp_path, partitions=2)


NONE = (None, None, None, -2.0, False)


def test_rows_are_there_before_the_first_event(job: Job) -> None:
    """Null and unknown keys have no row, a second table is read by a field of the first, and what is no row changes nothing."""
    shop = Shop(job)
    shop.order((0, "a"), (1, "b"), (2, "c"), (3, "none"), (4, None))
    shop.put(shop.maker("acme", "NL"), shop.item("a", 1.5), shop.item("b", 2.5, None), shop.item("c", 3.5, 7, "nobody"))
    shop.put(*(shop.item(f"other {number}", 1.0) for number in range(3000)), shop.row("a", b"{}"), shop.row("a", b"no JSON"))
    with job.run() as worker:
        assert shop.answers(5, worker.log_file) == {
            "0": (1.5, 1, "NL", 3.0, True),
            "1": (2.5, None, "NL", 5.0, True),
            "2": (3.5, 7, None, 7.0, False),
            "3": NONE,
            "4": NONE,
        }
        assert worker.stop() == 0, worker.log
    assert "read the tables: items 3,003, makers 1 rows" in worker.log
    assert worker.log.count("is no row, so its key keeps the row it had") == 2


def test_a_table_is_followed(job: Job) -> None:
    """A row is replaced, removed, and given another key of the table; each order sees what was read before it."""
    shop = Shop(job)
    shop.put(shop.maker("acme", "NL"), shop.item("a", 1.0), shop.item("b", 2.0))
    with job.run() as worker:
        number = 0

        def sees(item: str, price: float | None) -> None:
            """Orders the item until it has this price."""

            def asked() -> bool:
                nonlocal number
                number += 1
                shop.order((number, item))
                return bool(shop.answers(number, worker.log_file)[str(number)][0] == price)

            wait_for(asked, lambda: f"{item} at {price}\n{worker.log}", 30, 0.05)

        sees("a", 1.0)
        shop.put(shop.item("a", 1.25))
        sees("a", 1.25)
        shop.put(shop.row("a", None))
        sees("a", None)
        shop.put(shop.item("new", 2.0, key="b"))
        sees("b", None)
        sees("new", 2.0)
        assert worker.stop() == 0, worker.log


def test_a_kill_never_makes_a_row_missing(job: Job) -> None:
    """Workers are killed and started again under load: each order has the row that was there before all of them."""
    shop = Shop(job)
    shop.put(shop.maker("acme", "NL"), *(shop.item(f"i{number}", float(number)) for number in range(5000)))
    for begin in range(0, 4000, 1000):
        with job.run(max_batch_rows="64", chunk_rows="32", commit_interval="0.5") as worker:
            shop.order(*((number, f"i{number}") for number in range(begin, begin + 1000)))
            shop.answers(begin + 200, worker.log_file)
            os.kill(worker.process.pid, signal.SIGKILL)
    with job.run() as worker:
        found = shop.answers(4000, worker.log_file)
        assert worker.stop() == 0, worker.log
    assert found == {str(number): (float(number), 1, "NL", 2.0 * number, True) for number in range(4000)}


def test_with_a_history_an_event_sees_the_row_of_its_time(job: Job) -> None:
    """So orders that are read again later are answered as they were."""
    shop = Shop(job, history=", history: 7d")
    shop.put(shop.maker("acme", "NL"))
    for day, price in enumerate((1.0, 2.0, 4.0)):
        shop.put(shop.item("a", price, at=BEGIN + day * DAY))
    shop.put(shop.row("a", None, BEGIN + 3 * DAY))
    wanted = {"0": None, "1": 1.0, "2": 1.0, "3": 2.0, "4": 4.0, "5": None}
    for number, at in enumerate((-1, 0, DAY - 1, DAY, 3 * DAY - 1, 3 * DAY)):
        shop.order((number, "a"), at=BEGIN + at)
    with job.run() as worker:
        assert {id: one[0] for id, one in shop.answers(6, worker.log_file).items()} == wanted
        assert worker.stop() == 0, worker.log


def test_a_missing_table_ends_the_start_and_one_that_forgets_is_reported(job: Job) -> None:
    shop = Shop(job, history=", history: 7d")
    delete_topic(job.broker, shop.items)
    with job.run() as worker:
        assert worker.process.wait(30) == 5
        assert f"no such topic: {shop.items}" in worker.log
    for config, said in (
        ({"cleanup.policy": "delete"}, "cleanup.policy=delete: rows of the table go when"),
        ({}, "min.compaction.lag.ms=0"),
    ):
        create_topics(job.broker, {shop.items: 2}, {"cleanup.policy": "compact", **config})
        done = penstock(job, "validate", "--live", str(job.file))
        assert said in " ".join(done.out.split()), done.out
        delete_topic(job.broker, shop.items)


def test_features_have_the_rows_of_the_stream(job: Job) -> None:
    """From the table's topic and from files: those of each event's time."""
    shop = Shop(job, history=", history: 7d, time: at")
    prices = [(0, 1.0), (DAY, 2.0), (2 * DAY, 4.0)]
    shop.put(shop.maker("acme", "NL"), *(shop.item("a", price, at=BEGIN + at) for at, price in prices))
    for number, at in enumerate((-1, 0, DAY - 1, DAY, 2 * DAY)):
        shop.order((number, "a"), at=BEGIN + at)
    with job.run() as worker:
        answers = shop.answers(5, worker.log_file)
        assert worker.stop() == 0, worker.log
    wanted = {id: (price, country) for id, (price, _, country, _, _) in answers.items()}
    assert [wanted[str(number)][0] for number in range(5)] == [None, 1.0, 1.0, 2.0, 4.0]
    rows = [json.dumps({**EMPTY, "price": price, "at": BEGIN + at}) for at, price in prices]
    (job.folder / "rows.ndjson").write_text("\n".join(rows))
    for table in ([], ["--table", f"items={job.folder / 'rows.ndjson'}"]):
        out = job.folder / f"out-{len(table)}.ndjson"
        done = penstock(job, "features", str(job.file), "--in", f"kafka://{job.source}", "--out", str(out), *table)
        assert done.code == 0, done.err
        found = [json.loads(line) for line in out.read_text().splitlines()]
        assert {one["id"]: (one["found_price"], one["maker_country"]) for one in found} == wanted
    refused = ["--out", str(job.folder / "none.ndjson"), "--table", "makers=rows.ndjson"]
    done = penstock(job, "features", str(job.file), "--in", f"kafka://{job.source}", *refused)
    assert done.code == 2
    assert "tables.makers: its key is that of its records, which files do not have (name the fields" in " ".join(done.err.split())
