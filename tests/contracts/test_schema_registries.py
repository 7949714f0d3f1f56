"""What every schema registry answers, through our client and Confluent's: the double of the other tests, and Apicurio's registry, which it
is judged by. What Confluent's serializers write is read here, and what is written here their deserializers read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema as Registered
from confluent_kafka.schema_registry import SchemaReference, SchemaRegistryClient, SchemaRegistryError, header_schema_id_serializer
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer, ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf.message_factory import GetMessageClass

from penstock.codecs import load_schema
from penstock.codecs.framing import frame_in, frame_of
from penstock.codecs.schema_registry import SchemaRegistry, open_schema_registry
from penstock.errors import DecodeError, SchemaError, SchemaWanted
from penstock.registry.directory import DirectoryRegistry
from penstock.schema import Schema
from penstock.settings import Settings
from penstock.testing import models
from penstock.testing.driver import TopologyDriver
from tests.schema_registry import apicurio, double, post

ID, ITEM, PRICE = ({"name": name, "type": type} for name, type in {"id": "string", "item": "long", "price": "float"}.items())
TOPOLOGY = """\
topology: shop
sources: {{orders: {{topic: {name}, format: avro-confluent, schema: order.avsc, id: id}}}}
nodes: {{price: {{kind: model, model: table@1, inputs: {{x: item}}}}}}
sinks: {{prices: {{topic: {name}-prices, format: avro-confluent, schema: price.avsc, fields: {{id: id, price: price}}}}}}
"""


@pytest.fixture(scope="module", params=["double", "apicurio"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "double":
        with double() as site:
            yield site.url
        return
    try:
        running = apicurio()
        found = running.__enter__()
    except OSError as error:
        pytest.skip(f"Apicurio's registry cannot run: {error}")
    yield found
    running.__exit__(None, None, None)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A topic of the test."""
    return str(request.node.name).partition("[")[0].replace("_", "-")


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str, str], Schema]:
    """Writes a schema file and loads it."""

    def made(file: str, text: str) -> Schema:
        (tmp_path / file).write_text(text)
        return load_schema(tmp_path / file)

    return made


def record(name: str, *fields: Any, **more: Any) -> str:
    return json.dumps({"type": "record", "name": name, "fields": fields, **more})


def opened(url: str, tmp_path: Path, **settings: Any) -> SchemaRegistry:
    found = open_schema_registry(
        Settings(schema_registry_url=url, schema_registry_timeout=10, cache=tmp_path / "cache", **settings), dry=False
    )
    assert found is not None
    return found


def text(registry: SchemaRegistry, id: int) -> str:
    """The schema with this id, fetched as the loop fetches it."""
    with pytest.raises(SchemaWanted) as wanted:
        registry.held(frame_of(id))
    wanted.value.fetch()
    return registry.held(frame_of(id)).read_text()


def test_schema_is_found_by_its_id(url: str, name: str, tmp_path: Path) -> None:
    id = post(url, f"subjects/{name}-value/versions", {"schema": record("Order", ID)})["id"]
    assert json.loads(text(opened(url, tmp_path), id)) == json.loads(record("Order", ID))


def test_id_that_no_schema_has_is_an_answer(url: str, tmp_path: Path) -> None:
    registry = opened(url, tmp_path)
    with pytest.raises(DecodeError, match=r"the schema registry has no schema id 99999: .*found"):
        text(registry, 99999)


def test_subject_that_does_not_exist_has_no_newest_schema(url: str, name: str, tmp_path: Path, make: Any) -> None:
    assert opened(url, tmp_path).newest(name, make("order.avsc", record("Order", ID))) is None


def test_schema_that_refers_to_others_is_whole(url: str, name: str, tmp_path: Path) -> None:
    """`Item` is used twice, from two levels, inside another namespace."""
    item = record("Item", {"name": "sku", "type": "string"}, namespace="shop.items")
    line = record(
        "Line", {"name": "first", "type": "shop.items.Item"}, {"name": "then", "type": ["null", "shop.items.Item"]}, namespace="shop"
    )
    order = record(
        "Order",
        ID,
        {"name": "lines", "type": {"type": "array", "items": "Line"}},
        {"name": "gift", "type": "shop.items.Item"},
        namespace="shop",
    )
    post(url, f"subjects/{name}-item/versions", {"schema": item})
    to_item = {"name": "shop.items.Item", "subject": f"{name}-item", "version": 1}
    post(url, f"subjects/{name}-line/versions", {"schema": line, "references": [to_item]})
    to_line = {"name": "shop.Line", "subject": f"{name}-line", "version": 1}
    id = post(url, f"subjects/{name}-value/versions", {"schema": order, "references": [to_line, to_item]})["id"]
    whole = json.loads(text(opened(url, tmp_path), id))
    inlined = {"type": "record", "name": "shop.items.Item", "fields": [{"name": "sku", "type": "string"}]}
    assert whole["fields"][1]["type"]["items"] == {
        "type": "record", "name": "shop.Line",
        "fields": [{"name": "first", "type": inlined}, {"name": "then", "type": ["null", "shop.items.Item"]}],
    }  # fmt: skip
    assert whole["fields"][2]["type"] == "shop.items.Item"


def test_sink_registers_its_schema_once(url: str, name: str, tmp_path: Path, make: Any) -> None:
    schema = make("price.avsc", record("Price", ID, PRICE))
    first = opened(url, tmp_path).enter(name, schema)
    assert first is not None
    assert first == opened(url, tmp_path).enter(name, schema) == opened(url, tmp_path, schema_registry_register=False).enter(name, schema)
    assert json.loads(text(opened(url, tmp_path / "other"), int.from_bytes(first[1:], "big"))) == json.loads(record("Price", ID, PRICE))


def test_sink_that_may_not_register_is_refused(url: str, name: str, tmp_path: Path, make: Any) -> None:
    schema = make("price.avsc", record("Price", ID, PRICE))
    with pytest.raises(SchemaError, match=f"price.avsc: not registered under the subject {name}-value"):
        opened(url, tmp_path, schema_registry_register=False).enter(name, schema)
    assert opened(url, tmp_path).newest(name, schema) is None


ITEM_PROTO = 'syntax = "proto3";\npackage shop;\nmessage Item { int64 number = 1; }\n'
ORDER_PROTO = """\
syntax = "proto3";
package shop;
import "shop/item.proto";
import "google/protobuf/timestamp.proto";
message Order { string id = 1; Item item = 2; google.protobuf.Timestamp at = 3; }
"""
PRICE_PROTO = """\
syntax = "proto3";
package shop;
import "shop/item.proto";
message Unused { Item item = 1; }
message Price { string id = 1; float price = 2; }
"""
PROTO_TOPOLOGY = """\
topology: shop
sources: {{orders: {{topic: {name}, format: protobuf-confluent, schema: order.proto, id: id}}}}
nodes: {{price: {{kind: model, model: table@1, inputs: {{x: {{field: item.number, missing: 0}}}}}}}}
sinks:
  prices: {{topic: {name}-prices, format: protobuf-confluent, schema: price.proto#Price, fields: {{id: id, price: price}}}}
"""


@pytest.fixture
def protos(tmp_path: Path) -> Path:
    """A folder with an order, a price and the item that both import."""
    folder = tmp_path / "schemas"
    (folder / "shop").mkdir(parents=True)
    (folder / "shop/item.proto").write_text(ITEM_PROTO)
    (folder / "order.proto").write_text(ORDER_PROTO)
    (folder / "price.proto").write_text(PRICE_PROTO)
    return folder


def test_protobuf_schema_that_imports_others_is_whole(url: str, name: str, tmp_path: Path) -> None:
    """Apicurio has one subject of an import per registry, so its name is the test's own."""
    path = f"{name}/item.proto"
    post(url, f"subjects/{path.replace('/', '%2F')}/versions", {"schema": ITEM_PROTO, "schemaType": "PROTOBUF"})
    to_item = {"name": path, "subject": path, "version": 1}
    given = {"schema": ORDER_PROTO.replace("shop/item.proto", path), "schemaType": "PROTOBUF", "references": [to_item]}
    id = post(url, f"subjects/{name}-value/versions", given)["id"]
    registry = opened(url, tmp_path)
    with pytest.raises(SchemaWanted) as wanted:
        registry.held(frame_of(id))
    wanted.value.fetch()
    found = load_schema(f"{registry.held(frame_of(id))}#shop.Order")
    assert found.field("item.number") is not None


def test_protobuf_sink_registers_its_schema_and_what_it_imports_once(url: str, name: str, tmp_path: Path, protos: Path) -> None:
    schema = load_schema(f"{protos}/price.proto#Price")
    first = opened(url, tmp_path).enter(name, schema)
    assert first is not None
    assert first == opened(url, tmp_path).enter(name, schema) == opened(url, tmp_path, schema_registry_register=False).enter(name, schema)
    newest = opened(url, tmp_path / "other").newest(name, schema)
    assert newest is not None
    assert newest[0] == first
    assert load_schema(f"{newest[1]}#shop.Unused").field("item.number") is not None


def test_protobuf_topology_reads_and_writes_as_confluents_client_does(
    url: str, client: SchemaRegistryClient, name: str, tmp_path: Path, protos: Path
) -> None:
    """Its serializer registers the writer, and its deserializer reads what the sink has registered and written."""
    order, price = (GetMessageClass(load_schema(f"{protos}/{one}").protobuf.descriptor()) for one in ("order.proto", "price.proto#Price"))
    write = ProtobufSerializer(order, client, {"use.deprecated.format": False})
    values = [write(order(id=id, item={"number": n}), SerializationContext(name, MessageField.VALUE)) for id, n in (("a", 1), ("b", 2))]
    (tmp_path / "shop.yaml").write_text(PROTO_TOPOLOGY.format(name=name))
    DirectoryRegistry(tmp_path / "models").publish("table", models.gather([10, 20, 30]))
    driver = TopologyDriver(tmp_path / "shop.yaml", models=tmp_path / "models", schemas=protos, schema_registry=opened(url, tmp_path))
    driver.send("orders", *values, frame_of(99999) + b"\0")
    assert len(driver.dead_letters("orders")) == 1
    assert driver.events("prices") == [{"id": "a", "price": 20}, {"id": "b", "price": 30}]
    read = ProtobufDeserializer(price, {"use.deprecated.format": False})
    found = [read(one.value, SerializationContext(f"{name}-prices", MessageField.VALUE)) for one in driver.records("prices")]
    assert [(one.id, one.price) for one in found] == [("a", 20), ("b", 30)]


def test_topology_reads_and_writes_by_the_registry_alone(url: str, name: str, tmp_path: Path) -> None:
    """No ids/: an old writer is known at start, a new one is registered while events are read, and the sink's schema is registered."""
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas/order.avsc").write_text(record("Order", ID, ITEM))
    (tmp_path / "schemas/price.avsc").write_text(record("Price", ID, PRICE))
    (tmp_path / "shop.yaml").write_text(TOPOLOGY.format(name=name))
    DirectoryRegistry(tmp_path / "models").publish("table", models.gather([10, 20, 30]))
    old = post(url, f"subjects/{name}-value/versions", {"schema": record("Order", ITEM, ID)})["id"]
    registry = opened(url, tmp_path)
    driver = TopologyDriver(tmp_path / "shop.yaml", models=tmp_path / "models", schemas=tmp_path / "schemas", schema_registry=registry)
    driver.send("orders", frame_of(old) + b"\x02\x02a", frame_of(99999) + b"\x02\x02b")
    note = {"name": "note", "type": "string", "default": ""}
    new = post(url, f"subjects/{name}-value/versions", {"schema": record("Order", ITEM, ID, note)})["id"]
    driver.send("orders", frame_of(new) + b"\x04\x02c\x00")
    assert driver.events("prices") == [{"id": "a", "price": 20}, {"id": "c", "price": 30}]
    assert len(driver.dead_letters("orders")) == 1
    (frame,) = {frame_in(one.value or b"") for one in driver.records("prices")}
    assert json.loads(text(opened(url, tmp_path / "other"), int.from_bytes(frame[1:], "big")))["name"] == "Price"


# -- Confluent's own client ---------------------------------------------------------------------------------------------

DRAFT_7 = "http://json-schema.org/draft-07/schema#"


@pytest.fixture
def client(url: str) -> Iterator[SchemaRegistryClient]:
    with SchemaRegistryClient({"url": url}) as made:
        yield made


def described(name: str, form: str, fields: dict[str, str]) -> str:
    """A schema of these required fields."""
    if form == "avro":
        kinds = {"integer": "long", "number": "double", "string": "string"}
        return record(name, *({"name": field, "type": kinds[kind]} for field, kind in fields.items()))
    properties = {field: {"type": kind} for field, kind in fields.items()}
    return json.dumps({"$schema": DRAFT_7, "title": name, "type": "object", "properties": properties, "required": [*fields]})


@pytest.fixture(params=["avro", "json"])
def shop(request: pytest.FixtureRequest, url: str, name: str, tmp_path: Path) -> Any:
    """Returns the format, the schema of orders, and what makes a driver of the topology in this format."""
    form: str = request.param
    suffix = {"avro": ".avsc", "json": ".schema.json"}[form]
    topic = f"{name}-{form}"
    order = described("Order", form, {"id": "string", "item": "integer"})
    (tmp_path / f"order{suffix}").write_text(order)
    (tmp_path / f"price{suffix}").write_text(described("Price", form, {"id": "string", "price": "number"}))
    (tmp_path / "shop.yaml").write_text(TOPOLOGY.format(name=topic).replace("avro-", f"{form}-").replace(".avsc", suffix))
    DirectoryRegistry(tmp_path / "models").publish("table", models.gather([10, 20, 30]))

    def driver() -> TopologyDriver:
        registry = opened(url, tmp_path)
        return TopologyDriver(tmp_path / "shop.yaml", models=tmp_path / "models", schemas=tmp_path, schema_registry=registry)

    return form, topic, order, driver


def test_what_either_side_writes_the_other_one_reads(client: SchemaRegistryClient, shop: Any) -> None:
    form, topic, order, driver = shop
    write = AvroSerializer(client, order) if form == "avro" else JSONSerializer(order, client)
    read = AvroDeserializer(client) if form == "avro" else JSONDeserializer(None, schema_registry_client=client)
    running = driver()
    for row in range(3):
        running.send("orders", write({"id": str(row), "item": row}, SerializationContext(topic, MessageField.VALUE)))
    values = [one.value for one in running.records("prices")]
    answers = [read(value, SerializationContext(f"{topic}-prices", MessageField.VALUE)) for value in values]
    assert answers == [{"id": str(row), "price": 10.0 * (row + 1)} for row in range(3)] == running.events("prices")


@pytest.mark.parametrize("url", ["double"], indirect=True)
def test_ids_in_headers_of_confluents_serializers_are_read(client: SchemaRegistryClient, shop: Any) -> None:
    """They write the GUID, which Apicurio's registry does not give."""
    form, topic, order, driver = shop
    conf = {"schema.id.serializer": header_schema_id_serializer}
    write = AvroSerializer(client, order, conf=conf) if form == "avro" else JSONSerializer(order, client, conf=conf)
    headers: Any = []
    value = write({"id": "a", "item": 1}, SerializationContext(topic, MessageField.VALUE, headers))
    running = driver()
    running.send("orders", value, headers=headers)
    assert [name for name, _ in headers] == ["__value_schema_id"]
    assert running.events("prices") == [{"id": "a", "price": 20.0}]


def test_confluents_client_finds_its_answers(client: SchemaRegistryClient, name: str) -> None:
    """What it asks for, in the order of a schema's life; an absent subject, version and schema have the codes of the API."""
    subject, first, second = (
        f"{name}-value",
        Registered(record("Order", ID), "AVRO"),
        Registered(record("Order", ID, {**ITEM, "default": 0}), "AVRO"),
    )
    ids = [client.register_schema(subject, one) for one in (first, second)]
    assert ids[0] == client.lookup_schema(subject, first).schema_id != ids[1]
    assert json.loads(client.get_schema(ids[1]).schema_str or "") == json.loads(second.schema_str or "")
    assert (client.get_versions(subject), client.get_latest_version(subject).schema_id) == ([1, 2], ids[1])
    assert client.lookup_schema(subject, first).version == client.get_version(subject, 1).version == 1
    assert subject in client.get_subjects()
    assert client.test_compatibility(subject, first) is True
    for code, ask in (
        (40401, lambda: client.get_latest_version("none")),
        (40402, lambda: client.get_version(subject, 9)),
        (40403, lambda: client.get_schema(99999)),
    ):
        with pytest.raises(SchemaRegistryError) as caught:
            ask()
        assert (caught.value.http_status_code, caught.value.error_code) == (404, code)


def test_json_schema_that_refers_to_another_is_pulled_whole(client: SchemaRegistryClient, url: str, name: str, tmp_path: Path) -> None:
    line = json.dumps({"$schema": DRAFT_7, "type": "object", "properties": {"price": {"type": "number"}}})
    order = json.dumps({"$schema": DRAFT_7, "type": "object", "properties": {"line": {"$ref": "line.json"}}})
    client.register_schema(f"{name}-line", Registered(line, "JSON"))
    reference = SchemaReference(name="line.json", subject=f"{name}-line", version=1)
    id = client.register_schema(f"{name}-value", Registered(order, "JSON", [reference]))
    registry = opened(url, tmp_path)
    (tmp_path / "order.schema.json").write_text(registry.whole(registry.by_frame(frame_of(id))))
    found = load_schema(tmp_path / "order.schema.json").field("line.price")
    assert found is not None
    assert found.kind == "double"
