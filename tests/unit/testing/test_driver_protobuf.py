"""Protobuf from a topic to a topic, offline: through a topology, in a program, and on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

import penstock
from penstock.cli.main import main
from penstock.codecs import event_writer, load_schema
from penstock.errors import DecodeError, TopologyError
from penstock.registry.directory import DirectoryRegistry
from penstock.runtime import load
from penstock.testing import models
from penstock.testing.driver import TopologyDriver

SHOP = """\
syntax = "proto3";
package shop;
message Key { string region = 1; }
message Order { string id = 1; repeated Item items = 2; }
message Item { int64 number = 1; }
message Price { string id = 1; Answer answer = 2; }
message Answer { float price = 1; string region = 2; }
"""
TOPOLOGY = """\
topology: shop
sources:
  orders: {topic: orders, format: protobuf-confluent, schema: shop.proto#Order, key_schema: shop.proto#Key, id: id}
nodes:
  price: {kind: model, model: table@1, inputs: {x: {field: "items[0].number", missing: 0}}}
sinks:
  prices:
    topic: prices
    format: protobuf
    schema: shop.proto#Price
    fields: {id: id, answer.price: price}
"""
ORDER, NOT_ONE = b"\0\0\0\0\7\2\2", b"\0\0\0\0\7\2\4"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "schemas/ids").mkdir(parents=True)
    (tmp_path / "schemas/shop.proto").write_text(SHOP)
    (tmp_path / "schemas/ids/7.proto").write_text(SHOP)
    DirectoryRegistry(tmp_path / "models").publish("table", models.gather([10, 20, 30]))
    (tmp_path / "shop.yaml").write_text(TOPOLOGY)
    return tmp_path


@pytest.fixture
def driver(shop: Path) -> TopologyDriver:
    return TopologyDriver(shop / "shop.yaml", models=shop / "models", schemas=shop / "schemas")


def test_messages_are_scored(driver: TopologyDriver, shop: Path) -> None:
    write = event_writer("protobuf", load_schema(f"{shop}/schemas/shop.proto#Order"))
    driver.send("orders", {"id": "a", "items": [{"number": 2}]}, ORDER + write({"id": "b"}), NOT_ONE + write({"id": "c"}), None)
    assert driver.events("prices") == [
        {"id": "a", "answer": {"price": 30, "region": ""}},
        {"id": "b", "answer": {"price": 10, "region": ""}},
    ]
    reasons = [(dict(one.headers)["__streams.errors.message"] or b"").decode() for one in driver.dead_letters("orders")]
    assert reasons == ["it is a shop.Item, the source reads shop.Order", "the value is null (a tombstone), not an event"]


def test_keys_are_messages_too(shop: Path) -> None:
    rule = "nodes:\n  region: {kind: rule, inputs: {k: {field: key.region, missing: none}}, outputs: {y: k}}"
    (shop / "shop.yaml").write_text(TOPOLOGY.replace("{id: id, ", "{id: id, answer.region: region.y, ").replace("nodes:", rule))
    driver = TopologyDriver(shop / "shop.yaml", models=shop / "models", schemas=shop / "schemas")
    driver.send("orders", {"id": "a"}, key=b"\0\0\0\0\7\0\x0a\2EU")
    driver.send("orders", {"id": "b"}, key=None)
    assert [one["answer"]["region"] for one in driver.events("prices")] == ["EU", "none"]


def test_program_gives_mappings_and_gets_them(shop: Path) -> None:
    with penstock.open(shop / "shop.yaml", models=shop / "models", schemas=shop / "schemas") as plan:
        assert plan.score({"id": "a", "items": [{"number": 1}]}) == {"id": "a", "answer": {"price": 20, "region": ""}}
        assert plan.score({"id": "a"}) == {"id": "a", "answer": {"price": 10, "region": ""}}


def test_program_gives_an_array_of_the_length_that_is_read(shop: Path) -> None:
    """The default of an array, empty, has another length: an event without it fails alone."""
    (shop / "schemas/shop.proto").write_text(SHOP.replace("repeated Item items = 2;", "repeated float x = 2;"))
    (shop / "shop.yaml").write_text(
        TOPOLOGY.replace("protobuf-confluent", "protobuf")
        .replace("table@1", "sum@1")
        .replace('{x: {field: "items[0].number", missing: 0}}', "{x: x}")
    )
    DirectoryRegistry(shop / "models").publish("sum", models.linear([1, 2]))
    with penstock.open(shop / "shop.yaml", models=shop / "models", schemas=shop / "schemas") as plan:
        assert plan.score({"id": "a", "x": [1, 2]})["answer"]["price"] == 5
        with pytest.raises(DecodeError, match="missing required field `x`"):
            plan.score({"id": "a"})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("format: protobuf-confluent, ", ""), "sources.orders.schema: shop.proto#Order is Protobuf's, and the format is json"),
        (("schema: shop.proto#Price", "schema: price.avsc"), "sinks.prices.schema: price.avsc is no file of Protobuf, and"),
        (
            ("shop.proto#Price", "shop.proto#Prize"),
            "the file has no message 'Prize': shop.Key, shop.Order, shop.Item, shop.Price, shop",
        ),
        (("shop.proto#Price", "shops.proto#Price"), "there is no schema file"),
        (("{id: id, answer.price: price}", "{id: id, answer.prize: price}"), "the sink's schema has no field 'answer.prize'"),
        (("items[0].number", "items[0].nr"), "items[0].nr"),
        (("schema: shop.proto#Order", "schema: shop.proto#Answer"), "shop.proto#Answer has no field 'id'"),
    ],
)
def test_mistake_is_found_before_anything_starts(shop: Path, change: tuple[str, str], reason: str) -> None:
    (shop / "shop.yaml").write_text(TOPOLOGY.replace(*change))
    with pytest.raises(TopologyError) as caught:
        load(shop / "shop.yaml", models=shop / "models", schemas=shop / "schemas")
    assert any(reason in str(one) for one in caught.value.problems), caught.value.problems


def test_source_of_a_topic_has_the_schema_of_its_sink(shop: Path) -> None:
    (shop / "schemas/other.proto").write_text('syntax = "proto3"; package shop; message Price { string id = 2; }')
    again = "  again: {topic: prices, format: protobuf, schema: other.proto, id: id}\nnodes:\n  n: {kind: rule, inputs: {k: again.id}, "
    again += "outputs: {y: k}}"
    (shop / "shop.yaml").write_text(TOPOLOGY.replace("nodes:", again) + "  last: {topic: last, fields: {y: n}}\n")
    with pytest.raises(TopologyError, match=r"is other.proto, and the sink writes shop.proto#Price"):
        load(shop / "shop.yaml", models=shop / "models", schemas=shop / "schemas")


def test_commands_take_a_message_of_a_file(shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop)
    assert main(["schema", "show", "schemas/shop.proto#Order"]) == 0
    assert "items[0].number" in capsys.readouterr().out
    assert main(["schema", "ls"]) == 0
    assert "shop.Answer" in capsys.readouterr().out
    assert main(["schema", "check", "schemas/shop.proto#Order", "schemas/shop.proto#Item"]) == 0
    assert "shop.Order, 2 fields" in capsys.readouterr().out
    assert main(["validate", "shop.yaml"]) == 0
