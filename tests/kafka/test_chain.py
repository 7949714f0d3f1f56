"""A chain of three stages in one topology on a real Kafka: each reads what the one before writes, re-keyed, in JSON and in Avro."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka.partitioner import murmur2

from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import Broker, create_topics, produce, read_all, unique, wait_for
from penstock.testing.models import linear

pytestmark = [pytest.mark.broker, pytest.mark.measured]

EVENTS, CUSTOMERS, PARTITIONS = 60, 7, 3
SCHEMAS = {
    "order": {"id": "string", "customer": "string", "amount": "float"},
    "priced": {"id": "string", "customer": "string", "price": "float"},
    "taxed": {"id": "string", "total": "double"},
}
TOPOLOGY = """\
topology: orders
sources:
  taxed: {{topic: {taxed}, schema: taxed.avsc, format: avro}}
  priced: {{topic: {priced}, schema: priced.avsc}}
  orders: {{topic: {orders}, schema: order.avsc, id: id}}
nodes:
  price: {{kind: model, model: double@1, inputs: {{x: orders.amount}}}}
  tax: {{kind: model, model: half@1, inputs: {{x: priced.price}}}}
  final: {{kind: model, model: double@1, inputs: {{x: taxed.total}}}}
sinks:
  finals: {{topic: {finals}, fields: {{id: taxed.id, final: final}}}}
  prices: {{topic: {priced}, key: orders.customer, fields: {{id: orders.id, customer: orders.customer, price: price.y}}}}
  taxes: {{topic: {taxed}, schema: taxed.avsc, format: avro, fields: {{id: priced.id, total: tax}}}}
"""


class Chain:
    """The topology above, on topics that it made with `penstock topics create`."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.broker = broker
        self.topics = {name: unique(name) for name in ("orders", "priced", "taxed", "finals")}
        self._folder = folder
        self._environment = {**os.environ, "PENSTOCK_BROKERS": broker.bootstrap, "PENSTOCK_APPLICATION": unique("app")}
        (folder / "schemas").mkdir()
        for name, fields in SCHEMAS.items():
            declared = [{"name": field, "type": kind} for field, kind in fields.items()]
            (folder / f"schemas/{name}.avsc").write_text(json.dumps({"type": "record", "name": name, "fields": declared}))
        registry = DirectoryRegistry(folder / "models")
        registry.publish("double", linear([2.0]), version="1")
        registry.publish("half", linear([0.5]), version="1")
        (folder / "orders.yaml").write_text(TOPOLOGY.format(**self.topics))
        create_topics(broker, {self.topics["orders"]: PARTITIONS})
        made = subprocess.run(
            self._command("topics", "create"), cwd=folder, env=self._environment, capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, made.stderr
        self.made = made.stdout

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "penstock", *words, str(self._folder / "orders.yaml")]

    @contextmanager
    def worker(self, count: int, **settings: str) -> Iterator[Path]:
        """A worker that is stopped once the last topic has `count` records; its log."""
        log = self._folder / f"{unique('worker')}.log"
        environment = {**self._environment, **{f"PENSTOCK_{name.upper()}": value for name, value in settings.items()}}
        with log.open("wb") as out:
            worker = subprocess.Popen(self._command("run"), cwd=self._folder, env=environment, stdout=out, stderr=out)
        try:
            yield log
            wait_for(lambda: len(self.read("finals")) >= count or worker.poll() is not None, lambda: f"all\n{log.read_text()}", 60)
            worker.terminate()
            assert worker.wait(30) == 0, log.read_text()
        finally:
            worker.kill()
            worker.wait()

    def read(self, topic: str) -> list[Record]:
        return read_all(self.broker, self.topics[topic])

    def finals(self) -> list[Any]:
        return [json.loads(record.value or b"") for record in self.read("finals")]


@pytest.fixture
def chain(broker: Broker, tmp_path: Path) -> Chain:
    return Chain(broker, tmp_path)


def test_last_sink_has_each_event_once_through_every_stage(broker: Broker, chain: Chain) -> None:
    """What a stage cannot read goes to the dead letters of that stage."""
    assert chain.made.count("created with 3 partitions") == 6, "three topics that sinks write, two of them read too; three of dead letters"
    assert "source priced, sink prices" in chain.made
    topics = chain.topics
    orders = [{"id": f"o{number}", "customer": f"c{number % CUSTOMERS}", "amount": float(number)} for number in range(EVENTS)]
    produce(broker, [Record(topics["orders"], json.dumps(one).encode(), partition=at % PARTITIONS) for at, one in enumerate(orders)])
    produce(broker, [Record(topics["orders"], b"not an order"), Record(topics["priced"], b"not a price", b"k")])
    with chain.worker(EVENTS):
        pass
    finals = chain.finals()
    assert Counter(one["id"] for one in finals) == Counter(one["id"] for one in orders)
    amounts = {f"o{number}": float(number) for number in range(EVENTS)}
    assert all(one["final"] == 2 * amounts[one["id"]] for one in finals), "doubled, halved and doubled"
    for record in chain.read("finals"):
        number = int(json.loads(record.value or b"")["id"][1:])
        assert record.key == b"c%d" % (number % CUSTOMERS), "the key that the first stage gave it"
        assert record.partition == (murmur2(record.key) & 0x7FFFFFFF) % PARTITIONS
    letters = {name: [letter.value for letter in read_all(broker, f"{topics[name]}.dead-letter")] for name in ("orders", "priced", "taxed")}
    assert letters == {"orders": [b"not an order"], "priced": [b"not a price"], "taxed": []}


def test_topic_between_two_stages_is_read_from_its_beginning(broker: Broker, chain: Chain) -> None:
    """With `start_from: latest` too: another worker may have written to it before this one had its partitions."""
    early = {"id": "early", "customer": "c", "price": 4.0}
    order = {"id": "before", "customer": "c", "amount": 8.0}
    produce(
        broker, [Record(chain.topics["priced"], json.dumps(early).encode()), Record(chain.topics["orders"], json.dumps(order).encode())]
    )
    with chain.worker(2, start_from="latest") as log:
        wait_for(lambda: "assigned " in log.read_text(), lambda: f"partitions\n{log.read_text()}", 60)
        produce(broker, [Record(chain.topics["orders"], json.dumps({**order, "id": "after"}).encode())])
    assert sorted((one["id"], one["final"]) for one in chain.finals()) == [("after", 16.0), ("early", 4.0)]
