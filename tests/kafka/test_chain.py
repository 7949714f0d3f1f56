"""A chain of three stages in one topology on a real Kafka: each reads what the one before writes, re-keyed, in JSON and in Avro."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from aiokafka.partitioner import murmur2

from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import Broker, create_topics, produce, read_all, unique, wait_for
from penstock.testing.models import linear

pytestmark = pytest.mark.broker

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


def test_last_sink_has_each_event_once_through_every_stage(broker: Broker, tmp_path: Path) -> None:
    """What cannot be read by a stage goes to that stage's dead letters."""
    topics = {name: unique(name) for name in ("orders", "priced", "taxed", "finals")}
    (tmp_path / "schemas").mkdir()
    for name, fields in SCHEMAS.items():
        declared = [{"name": field, "type": kind} for field, kind in fields.items()]
        (tmp_path / f"schemas/{name}.avsc").write_text(json.dumps({"type": "record", "name": name, "fields": declared}))
    registry = DirectoryRegistry(tmp_path / "models")
    registry.publish("double", linear([2.0]), version="1")
    registry.publish("half", linear([0.5]), version="1")
    file = tmp_path / "orders.yaml"
    file.write_text(TOPOLOGY.format(**topics))
    create_topics(broker, {topics["orders"]: PARTITIONS})
    environment = {**os.environ, "PENSTOCK_BROKERS": broker.bootstrap, "PENSTOCK_APPLICATION": unique("app")}

    def penstock(*words: str) -> str:
        command = [sys.executable, "-m", "penstock", *words, str(file)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    made = penstock("topics", "create")
    assert made.count("created with 3 partitions") == 6, "four written topics, two of them read as well, and three of dead letters"
    assert f"{topics['priced']} " in made
    assert "source priced, sink prices" in made

    orders = [{"id": f"o{number}", "customer": f"c{number % CUSTOMERS}", "amount": float(number)} for number in range(EVENTS)]
    produce(broker, [Record(topics["orders"], json.dumps(one).encode(), partition=at % PARTITIONS) for at, one in enumerate(orders)])
    produce(broker, [Record(topics["orders"], b"not an order"), Record(topics["priced"], b"not a price", b"k")])
    log = tmp_path / "log"
    with log.open("wb") as out:
        worker = subprocess.Popen(
            [sys.executable, "-m", "penstock", "run", str(file)], cwd=tmp_path, env=environment, stdout=out, stderr=out
        )
    try:
        wait_for(lambda: len(read_all(broker, topics["finals"])) >= EVENTS or worker.poll() is not None, f"all\n{log.read_text()}", 60)
        worker.terminate()
        assert worker.wait(30) == 0, log.read_text()
    finally:
        worker.kill()
        worker.wait()

    finals = [json.loads(record.value or b"") for record in read_all(broker, topics["finals"])]
    assert Counter(one["id"] for one in finals) == Counter(one["id"] for one in orders)
    amounts = {f"o{number}": float(number) for number in range(EVENTS)}
    assert all(one["final"] == 2 * amounts[one["id"]] for one in finals), "doubled, halved and doubled"
    for record in read_all(broker, topics["finals"]):
        number = int(json.loads(record.value or b"")["id"][1:])
        assert record.key == b"c%d" % (number % CUSTOMERS), "the key that the first stage gave it"
        assert record.partition == (murmur2(record.key) & 0x7FFFFFFF) % PARTITIONS
    letters = {name: [letter.value for letter in read_all(broker, f"{topics[name]}.dead-letter")] for name in ("orders", "priced", "taxed")}
    assert letters == {"orders": [b"not an order"], "priced": [b"not a price"], "taxed": []}
