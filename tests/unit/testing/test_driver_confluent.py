"""Confluent's frames in the documented layout: the schemas of every source and sink beside each other, and all ids in one folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.main import main
from penstock.errors import TopologyError
from penstock.registry.directory import DirectoryRegistry
from penstock.runtime import load
from penstock.testing import models
from penstock.testing.driver import TopologyDriver

TOPOLOGY = """\
topology: shop
sources:
  orders: {topic: orders, format: avro-confluent, schema: order.avsc, id: id}
  returns: {topic: returns, format: avro-confluent, schema: return.avsc, id: id}
nodes:
  price: {kind: model, model: table@1, inputs: {x: item}}
  refund: {kind: model, model: double@1, inputs: {x: refunded}}
sinks:
  prices: {topic: prices, format: avro-confluent, schema: price.avsc, fields: {id: orders.id, price: price}}
  refunds: {topic: refunds, fields: {id: returns.id, amount: refund}}
"""
CASES = """\
cases:
  - name: an order has a price
    given: {orders: [{id: a, item: 1}, {base64: AAAAAAk=}]}
    expect:
      prices: [{id: a, price: 20}]
      dead_letters: {orders: [{message: "schema id 9 is that of shop.Return, the source reads shop.Order"}]}
"""
ID, NOTE = {"name": "id", "type": "string"}, {"name": "note", "type": "string", "default": ""}
ORDER, OLD_ORDER = [ID, {"name": "item", "type": "long"}, NOTE], [{"name": "item", "type": "int"}, ID]
RETURN, PRICE = [ID, {"name": "refunded", "type": "float"}], [ID, {"name": "price", "type": "float"}]
UNUSABLE = [{"name": "what", "type": ["int", "string"]}]  # of a topic that nobody here reads


def put(file: Path, name: str, fields: Any, **attributes: Any) -> None:
    file.write_text(json.dumps({"type": "record", "name": name, "namespace": "shop", "fields": fields, **attributes}))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    ids = tmp_path / "schemas/ids"
    ids.mkdir(parents=True)
    for name, fields in {"Order": ORDER, "Return": RETURN, "Price": PRICE}.items():
        put(tmp_path / f"schemas/{name.lower()}.avsc", name, fields)
    put(ids / "7.avsc", "Order", OLD_ORDER)
    put(ids / "8.avsc", "Order", ORDER)
    put(ids / "9.avsc", "Return", RETURN)
    put(ids / "300.avsc", "Price", PRICE)
    put(ids / "11.avsc", "Other", UNUSABLE)
    (ids / "12.avsc").write_text('"string"')
    registry = DirectoryRegistry(tmp_path / "models")
    registry.publish("table", models.gather([10, 20, 30]))
    registry.publish("double", models.linear([2]))
    (tmp_path / "shop.yaml").write_text(TOPOLOGY)
    (tmp_path / "shop.test.yaml").write_text(CASES)
    return tmp_path


def driver_of(shop: Path) -> TopologyDriver:
    return TopologyDriver(shop / "shop.yaml", models=shop / "models", schemas=shop / "schemas")


def problems(shop: Path) -> list[str]:
    with pytest.raises(TopologyError) as caught:
        load(shop / "shop.yaml", models=shop / "models", schemas=shop / "schemas")
    return [str(problem).replace(f"{shop}/", "") for problem in caught.value.problems]


def run(shop: Path, *command: str) -> int:
    return main([*command, "--models", str(shop / "models"), "--schemas", str(shop / "schemas")])


def letters(driver: TopologyDriver, source: str) -> list[str]:
    return [dict(one.headers)["__streams.errors.message"].decode() for one in driver.dead_letters(source)]  # type: ignore[union-attr]


def test_every_source_reads_its_own_writers(shop: Path) -> None:
    """Ids of another record, of no record, and of a record that nothing could read are passed over."""
    driver = driver_of(shop)
    driver.send("orders", b"\0\0\0\0\x07\x02\x02a", {"id": "b", "item": 2})
    driver.send("returns", {"id": "r", "refunded": 4})
    assert driver.records("orders")[1].value == b"\0\0\0\0\x08\x02b\x04\x00"
    assert driver.events("prices") == [{"id": "a", "price": 20}, {"id": "b", "price": 30}]
    assert [one.value[:5] for one in driver.records("prices") if one.value] == [b"\0\0\0\1\x2c"] * 2
    assert driver.events("refunds") == [{"id": "r", "amount": 8}]


def test_event_of_another_record_is_a_dead_letter_that_names_both(shop: Path) -> None:
    driver = driver_of(shop)
    driver.send("orders", b"\0\0\0\0\x09\x02a", b"\0\0\0\0\x0cx", b"\0\0\0\0\x63x", {"id": "b", "item": 0})
    fix = f'if both are one record, name the first under "aliases" in {shop}/schemas/order.avsc'
    assert letters(driver, "orders") == [
        f"schema id 9 is that of shop.Return, the source reads shop.Order; {fix}",
        f"schema id 12 is that of a type that is no record, the source reads shop.Order; {fix}",
        f"unknown schema id 99; put its schema into {shop}/schemas/ids as 99.avsc, or set schema_registry_url",
    ]
    assert driver.events("prices") == [{"id": "b", "price": 10}]


def test_id_that_is_added_while_the_worker_runs_is_read(shop: Path) -> None:
    driver = driver_of(shop)
    driver.send("orders", b"\0\0\0\0\x63\x02\x02a")
    put(shop / "schemas/ids/99.avsc", "Order", OLD_ORDER)
    put(shop / "schemas/ids/100.avsc", "Order", [ID])
    driver.send("orders", b"\0\0\0\0\x63\x02\x02a", b"\0\0\0\0\x64\x02a")
    assert driver.events("prices") == [{"id": "a", "price": 20}]
    assert letters(driver, "orders")[1] == "schema id 100 wrote it, which the source's schema cannot read: has no field 'item'"


def test_alias_makes_two_names_one_record(shop: Path) -> None:
    put(shop / "schemas/ids/7.avsc", "Purchase", OLD_ORDER)
    put(shop / "schemas/order.avsc", "Order", ORDER, aliases=["Purchase"])
    driver = driver_of(shop)
    driver.send("orders", b"\0\0\0\0\x07\x02\x02a")
    assert driver.events("prices") == [{"id": "a", "price": 20}]


def test_namesake_in_another_namespace_need_not_resolve(shop: Path) -> None:
    """Debezium gives the records of all tables one name, each in a namespace of its own."""
    put(shop / "schemas/ids/13.avsc", "Order", RETURN, namespace="server.db.returns")
    put(shop / "schemas/ids/14.avsc", "Order", OLD_ORDER, namespace="server.db.orders")
    driver = driver_of(shop)
    driver.send("orders", b"\0\0\0\0\x0d\x02a", b"\0\0\0\0\x0e\x02\x02a")
    assert driver.events("prices") == [{"id": "a", "price": 20}]
    assert letters(driver, "orders") == ["schema id 13 wrote it, which the source's schema cannot read: has no field 'item'"]


def test_what_keeps_a_worker_from_starting_is_a_problem_of_the_file(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`validate` opens what `run` opens: writers that do not resolve, an id that is missing, and a file that is damaged."""
    put(shop / "schemas/ids/7.avsc", "Order", [ID])
    (shop / "schemas/ids/300.avsc").unlink()
    (shop / "schemas/ids/12.avsc").write_text("{")
    found = problems(shop)
    assert [line.partition(" (")[0] for line in found] == [
        "schemas/ids/12.avsc: its schema is not JSON: Expecting property name enclosed in double quotes: line 1 column 2",
        "schemas/ids/7.avsc: has no field 'item'",
    ]
    (shop / "schemas/ids/12.avsc").unlink()
    assert [line.partition(" (")[0] for line in problems(shop)] == [
        "schemas/ids/7.avsc: has no field 'item'", "schemas/price.avsc: not among the schemas of schemas/ids",
    ]  # fmt: skip
    assert run(shop, "validate", str(shop / "shop.yaml")) == 2
    assert f"{shop}/schemas/ids/7.avsc: has no field 'item'" in capsys.readouterr().err


def test_source_without_a_writer_is_refused(shop: Path) -> None:
    for id in (7, 8):
        (shop / f"schemas/ids/{id}.avsc").unlink()
    (found,) = problems(shop)
    others = "9 is shop.Return, 11 is shop.Other, 12 is no record, 300 is shop.Price"
    assert found.startswith(f"schemas/ids: no schema here is of the record shop.Order: {others} (if one of them is the same record")
    for file in (shop / "schemas/ids").iterdir():
        file.unlink()
    assert "schemas/ids: the folder has no writer schemas" in problems(shop)[0]


def test_chained_source_reads_the_record_of_the_sink(shop: Path) -> None:
    """A source whose schema is another record would make a dead letter of every event that the sink writes."""
    (shop / "shop.yaml").write_text(TOPOLOGY.replace("{topic: returns,", "{topic: prices,").replace("x: refunded", "x: paid"))
    paid = [ID, {"name": "paid", "type": "float", "default": 0}]
    put(shop / "schemas/return.avsc", "Return", paid)
    put(shop / "schemas/ids/9.avsc", "Return", paid)
    (found,) = problems(shop)
    assert "sinks.prices: the source 'returns' cannot read what it writes: schema id 300 is that of shop.Price" in found
    put(shop / "schemas/return.avsc", "Return", paid, aliases=["Price"])
    driver_of(shop)


def test_commands_accept_the_layout(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(shop, "validate", str(shop / "shop.yaml")) == 0
    assert run(shop, "plan", str(shop / "shop.yaml")) == 0
    assert run(shop, "test", str(shop / "shop.test.yaml")) == 0, capsys.readouterr().out


def test_json_behind_a_frame_is_an_event(shop: Path) -> None:
    (shop / "shop.yaml").write_text(TOPOLOGY.replace("{topic: returns, format: avro-confluent", "{topic: returns, format: json-confluent"))
    driver = driver_of(shop)
    driver.send("returns", {"id": "r", "refunded": 4}, b'\0\0\0\0\x07{"id": "s", "refunded": 1}', b'{"id": "t", "refunded": 1}')
    assert driver.events("refunds") == [{"id": "r", "amount": 8}, {"id": "s", "amount": 2}]
    assert "no Confluent frame" in letters(driver, "returns")[0]


KEYED = TOPOLOGY.replace("schema: order.avsc,", "schema: order.avsc, key_schema: item.avsc,").replace(
    "{x: item}", "{x: {field: key.number, missing: reject}}"
)
NUMBER = [{"name": "number", "type": "long"}]


def test_key_is_read_by_the_schemas_of_its_own_record(shop: Path) -> None:
    (shop / "shop.yaml").write_text(KEYED)
    put(shop / "schemas/item.avsc", "Item", NUMBER)
    assert problems(shop)[0].startswith("schemas/ids: no schema here is of the record shop.Item: 7 is shop.Order,")
    put(shop / "schemas/ids/20.avsc", "Item", NUMBER)
    driver = driver_of(shop)
    driver.send("orders", b"\0\0\0\0\x07\x02\x02a", key=b"\0\0\0\0\x14\x04")
    driver.send("orders", b"\0\0\0\0\x07\x02\x02a", key=b"\0\0\0\0\x07\x04")
    assert driver.events("prices") == [{"id": "a", "price": 30}]
    assert "the key is not an event of its schema: schema id 7 is that of shop.Order" in letters(driver, "orders")[0]
