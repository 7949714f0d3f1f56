"""A shop: two sources, an array, a value that may be missing, a model with a poison, two sinks of one source, one with a key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models
from penstock.testing.driver import TopologyDriver

TOPOLOGY = """\
topology: shop
sources:
  orders: {topic: orders, schema: order.avsc, id: id}
  returns: {topic: returns, schema: return.avsc, dead_letter: lost-returns}
nodes:
  weight: {kind: feature, model: weigh@1, inputs: {x: embedding}}
  base: {kind: model, model: table@1, inputs: {x: item}}
  total: {kind: ensemble, model: sum@live, inputs: {a: {field: amount, missing: 5}, b: weight}}
  refund: {kind: model, model: double@1, inputs: {x: refunded}}
sinks:
  scores: {topic: scores, fields: {id: orders.id, base: base, total: total, embedding: embedding}}
  by_item: {topic: by-item, key: item, fields: {total: total}}
  refunds: {topic: refunds, fields: {id: returns.id, amount: refund}}
"""

ORDER = [
    {"name": "id", "type": "string"},
    {"name": "item", "type": "long"},
    {"name": "amount", "type": ["null", "float"], "default": None},
    {"name": "embedding", "type": {"type": "array", "items": "float", "size": 3}},
]
RETURN = [{"name": "id", "type": "string"}, {"name": "refunded", "type": "float"}]

Event = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with shop.yaml, schemas/ and models/."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "schemas").mkdir()
    for name, fields in {"order": ORDER, "return": RETURN}.items():
        (folder / f"schemas/{name}.avsc").write_text(json.dumps({"type": "record", "name": name, "fields": fields}))
    registry = DirectoryRegistry(folder / "models")
    registry.publish("weigh", models.linear([1, 2, 3]))
    registry.publish("table", models.gather([10, 20, 30]))
    registry.publish("double", models.linear([2]))
    registry.publish("sum", models.add())
    registry.alias("sum", "live", "1")
    (folder / "shop.yaml").write_text(TOPOLOGY)
    return folder


@pytest.fixture(scope="session")
def shared_driver(shop: Path) -> TopologyDriver:
    return TopologyDriver(shop / "shop.yaml", models=shop / "models", schemas=shop / "schemas", partitions=3, chunk_rows=4)


@pytest.fixture
def driver(shared_driver: TopologyDriver) -> TopologyDriver:
    """Three partitions a topic, four rows a chunk, and nothing in any topic; offsets go on counting."""
    shared_driver.clear()
    return shared_driver


@pytest.fixture
def order() -> Event:
    """An order that is scored: base 10, total 11."""
    return lambda **fields: {"id": "o", "item": 0, "amount": 5, "embedding": [1, 1, 1]} | fields
