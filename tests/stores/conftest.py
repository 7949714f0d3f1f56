"""A topology with precomputed answers, in a folder of its own: an order's price is its amount times a factor, which a model version has."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.main import main
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models
from tests.stores import servers
from tests.stores.servers import Server
from tests.unit.cli.done import Done, Run

SCHEMA = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "order_id", "type": "string"},
        {"name": "customer", "type": "long"},
        {"name": "amount", "type": "float"},
        {"name": "discount", "type": ["null", "double"], "default": None},
        {"name": "country", "type": "string", "default": "DE"},
        {"name": "placed", "type": {"type": "long", "logicalType": "timestamp-millis"}, "default": 0},
    ],
}
TOPOLOGY = """\
topology: prices
sources: {{orders: {{topic: orders, schema: order.avsc}}}}
nodes:
  price: {{kind: model, model: factor@{version}, inputs: {{x: amount}}}}
  rules: {{kind: rule, outputs: {{reduced: "price * (1 - coalesce(discount, 0))"}}}}
sinks:
  prices: {{topic: prices, fields: {{order_id: order_id, price: price, reduced: rules.reduced, country: country}}}}
precomputed: {section}
"""
ENTITY = "{entity: customer}"
INPUTS = "{inputs: [amount, discount], decimals: {amount: 1, discount: 2}}"


def order(amount: float = 10.0, **fields: Any) -> dict[str, Any]:
    """Returns an order of customer 1, with these fields."""
    return {"order_id": f"o{amount}", "customer": 1, "amount": amount, "discount": None, "country": "DE", "placed": 0, **fields}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("schemas").mkdir()
    Path("schemas/order.avsc").write_text(json.dumps(SCHEMA))
    registry = DirectoryRegistry(tmp_path / "models")
    for factor in (2, 3):
        registry.publish("factor", models.up_to(1000, factor))
    write(ENTITY)
    return tmp_path


def write(section: str = ENTITY, *, version: int = 1, text: str = TOPOLOGY) -> None:
    """Writes the topology file, with this section and this version of the model."""
    Path("prices.yaml").write_text(text.format(section=section, version=version))


def events(orders: Sequence[dict[str, Any] | str], path: str = "in.ndjson") -> None:
    """Writes orders, and lines of text, to a file."""
    Path(path).write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in orders))


@pytest.fixture
def run(folder: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str, store: str = "sqlite:///answers.db") -> Done:
        code = main(["precompute", "prices.yaml", *(["--store", store] if store else []), *arguments])
        return Done(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    server = servers.redis()
    try:
        server.start()
        yield server
    finally:
        server.stop()
