"""`penstock schema pull` and `push`, and the commands that a registry changes: arguments in; exit code, stdout, stderr and files out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.main import main
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models
from tests.schema_registry import Double, double
from tests.unit.cli.done import Done, Run

TOPOLOGY = """\
topology: shop
sources: {orders: {topic: orders, format: avro-confluent, schema: orders.avsc, id: id}}
nodes: {price: {kind: model, model: table@1, inputs: {x: item}}}
sinks: {prices: {topic: prices, format: avro-confluent, schema: price.avsc, fields: {id: id, price: price}}}
"""
CASES = "cases: [{name: one, given: {orders: [{id: a, item: 1}]}, expect: {prices: [{id: a, price: 20}]}}]"
OLD = {"type": "record", "name": "Order", "fields": [{"name": "item", "type": "int"}, {"name": "id", "type": "string"}]}
NEW = {"type": "record", "name": "Order", "fields": [{"name": "id", "type": "string"}, {"name": "item", "type": "long"}]}
PRICE = {"type": "record", "name": "Price", "fields": [{"name": "id", "type": "string"}, {"name": "price", "type": "float"}]}


@pytest.fixture
def site() -> Iterator[Double]:
    with double() as running:
        running.add("orders-value", OLD)
        running.add("orders-value", NEW)
        yield running


@pytest.fixture
def run(site: Double, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in a folder whose settings name the registry."""
    monkeypatch.chdir(tmp_path)
    Path("penstock.toml").write_text(f'schema_registry_url = "{site.url}"\ncache = "{tmp_path}/cache"\n')

    def call(*arguments: str) -> Done:
        return Done(main(arguments), *capfd.readouterr())

    return call


@pytest.fixture
def shop(run: Run) -> None:
    """A topology whose source and sink have no file in ids/."""
    Path("schemas").mkdir()
    Path("schemas/orders.avsc").write_text(json.dumps(NEW))
    Path("schemas/price.avsc").write_text(json.dumps(PRICE))
    Path("shop.yaml").write_text(TOPOLOGY)
    Path("shop.test.yaml").write_text(CASES)
    DirectoryRegistry("models").publish("table", models.gather([10, 20, 30]))


def read(file: str) -> Any:
    return json.loads(Path(file).read_text())


def test_pull_writes_every_version_and_the_newest_as_what_is_read(run: Run) -> None:
    done = run("schema", "pull", "--topic", "orders")
    assert done.out.splitlines() == [
        "orders-value version 1, id 1: schemas/ids/1.avsc",
        "orders-value version 2, id 2: schemas/ids/2.avsc",
        "orders-value version 2, id 2: schemas/orders.avsc",
    ]
    assert (read("schemas/ids/1.avsc"), read("schemas/ids/2.avsc"), read("schemas/orders.avsc")) == (OLD, NEW, NEW)
    assert run("schema", "pull", "orders-value", "--format", "json").json[0] == {
        "subject": "orders-value", "version": 1, "id": 1, "file": "schemas/ids/1.avsc", "note": "",
    }  # fmt: skip


def test_pull_keeps_what_a_person_has_edited(run: Run) -> None:
    run("schema", "pull", "--topic", "orders")
    Path("schemas/orders.avsc").write_text(json.dumps(OLD))
    assert "schemas/orders.avsc (kept: it differs from the newest version)" in run("schema", "pull", "--topic", "orders").out
    assert read("schemas/orders.avsc") == OLD
    Path("schemas/ids/1.avsc").write_text(json.dumps(NEW))
    done = run("schema", "pull", "--topic", "orders")
    assert (done.code, "schemas/ids/1.avsc: it is not the schema that the registry has under the id 1" in done.err) == (2, True)
    assert run("schema", "pull", "--topic", "orders", "--force").code == 0
    assert (read("schemas/ids/1.avsc"), read("schemas/orders.avsc")) == (OLD, NEW)


def test_pull_shows_what_it_leaves_out(run: Run, site: Double) -> None:
    site.add("mixed", "<xs:schema/>", "XML")
    site.add("mixed", {"type": "record", "name": "E", "fields": [{"name": "a", "type": ["int", "string"]}]})
    lines = run("schema", "pull", "mixed").out.splitlines()
    assert lines[0] == "mixed version 1, id 3: left out (it is a schema of type XML, which is not read)"
    assert lines[1].startswith("mixed version 2, id 4: schemas/ids/4.avsc")
    done = run("schema", "pull", "gone")
    assert (done.code, done.err) == (2, "error: the schema registry has no subject gone: Subject not found.\n")
    assert run("schema", "pull").code == 2
    site.status = 503
    assert run("schema", "pull", "mixed").code == 4


def test_push_registers_once(run: Run, site: Double) -> None:
    Path("price.avsc").write_text(json.dumps(PRICE))
    assert run("schema", "push", "price.avsc", "--topic", "prices", "--check").out == "price.avsc: the subject prices-value would take it\n"
    assert "prices-value" not in site.subjects
    assert run("schema", "push", "price.avsc", "--topic", "prices").out == "price.avsc: id 3 under the subject prices-value\n"
    assert run("schema", "push", "price.avsc", "--topic", "prices").out == "price.avsc: id 3 under the subject prices-value already\n"
    site.compatible = False
    refused = run("schema", "push", "price.avsc", "orders-value", "--format", "json")
    assert refused.code == 1
    assert refused.json == [
        {"subject": "orders-value", "id": None, "registered": False, "refused": "it is not compatible with the newest version"}
    ]


def test_why_a_schema_is_refused_is_told(run: Run, site: Double) -> None:
    Path("price.avsc").write_text(json.dumps(PRICE))
    site.compatible, site.messages = False, ["the field 'price' at path '/fields/1' has no default"]
    done = run("schema", "push", "price.avsc", "orders-value")
    assert (done.code, done.err) == (
        1,
        "price.avsc: the subject orders-value refuses it: it is not compatible with the newest version: "
        "the field 'price' at path '/fields/1' has no default\n",
    )


def test_json_schema_is_pulled_and_pushed(run: Run, site: Double) -> None:
    schema = {"type": "object", "properties": {"line": {"$ref": "line.json"}}}
    line = {"$id": "https://shop/line", "type": "object", "properties": {"price": {"type": "number"}}}
    site.add("lines", line, "JSON")
    id = site.add("sales-value", schema, "JSON", [{"name": "line.json", "subject": "lines", "version": 1}])
    done = run("schema", "pull", "--topic", "sales")
    assert done.out.splitlines() == [
        f"sales-value version 1, id {id}: schemas/ids/{id}.schema.json",
        f"sales-value version 1, id {id}: schemas/sales.schema.json",
    ]
    assert "line.price" in run("schema", "show", "schemas/sales.schema.json").out
    assert "sales.schema.json" in run("schema", "ls", "schemas").out
    assert run("schema", "check", "schemas/sales.schema.json").code == 0
    Path("new.schema.json").write_text(json.dumps(line))
    assert run("schema", "push", "new.schema.json", "new").out == f"new.schema.json: id {id - 1} under the subject new\n"
    assert site.schemas[id - 2]["schemaType"] == "JSON"


def test_registry_that_is_not_set_is_told(run: Run) -> None:
    Path("penstock.toml").unlink()
    assert "no schema registry is set: give --schema-registry-url" in run("schema", "pull", "orders-value").err


@pytest.mark.usefixtures("shop")
def test_commands_ask_the_registry_and_register_nothing(run: Run, site: Double) -> None:
    before = dict(site.subjects)
    for command in (["validate", "shop.yaml"], ["plan", "shop.yaml"], ["test", "shop.test.yaml"]):
        done = run(*command)
        assert done.code == 0, done
    assert site.subjects == before
    Path("penstock.toml").unlink()
    assert "schemas/ids: the folder has no writer schemas" in run("validate", "shop.yaml").err
    assert run("validate", "shop.yaml", "--schema-registry-url", site.url).code == 0


@pytest.mark.usefixtures("shop")
def test_validate_reports_what_the_registry_would_refuse(run: Run, site: Double) -> None:
    site.add("orders-value", {**NEW, "fields": [{"name": "item", "type": "string"}]})
    site.add("prices-value", OLD)
    site.compatible = False
    done = run("validate", "shop.yaml")
    assert done.code == 2
    assert "schemas/orders.avsc: the newest schema of the topic orders (schema id 3) has no field 'id'" in done.err
    assert "schemas/price.avsc: the schema registry refuses it for the subject prices-value: it is not compatible" in done.err
    site.status = 503
    assert run("validate", "shop.yaml").code == 4  # the id of the sink depends on the answer


@pytest.mark.usefixtures("shop")
def test_pulled_schemas_do_without_the_registry(run: Run, site: Double) -> None:
    run("schema", "push", "schemas/price.avsc", "--topic", "prices")
    run("schema", "pull", "--topic", "orders", "--topic", "prices")
    Path("penstock.toml").unlink()
    assert run("validate", "shop.yaml").code == 0
    assert run("test", "shop.test.yaml").code == 0


ITEM_PROTO = 'syntax = "proto3";\npackage shop;\nmessage Item { int64 number = 1; }\n'
ORDER_PROTO = (
    'syntax = "proto3";\npackage shop;\nimport "shop/item.proto";\nmessage Order { Item item = 1; } message Other { int32 x = 1; }'
)


def test_pull_writes_protobuf_with_what_it_imports(run: Run, site: Double) -> None:
    site.add("item", ITEM_PROTO, "PROTOBUF")
    id = site.add("sales-value", ORDER_PROTO, "PROTOBUF", [{"name": "shop/item.proto", "subject": "item", "version": 1}])
    done = run("schema", "pull", "--topic", "sales")
    assert done.out.splitlines() == [
        f"sales-value version 1, id {id}: schemas/ids/{id}.binpb",
        f"sales-value version 1, id {id}: schemas/sales.proto",
        f"sales-value version 1, id {id}: schemas/shop/item.proto",
    ]
    assert Path("schemas/sales.proto").read_text() == ORDER_PROTO
    assert run("schema", "check", "schemas/sales.proto#Order", f"schemas/ids/{id}.binpb#Order").code == 0
    assert run("schema", "pull", "--topic", "sales").out == done.out
    Path("schemas/sales.proto").write_text(ORDER_PROTO + "\n// edited")
    assert "schemas/sales.proto (kept: it differs from the newest version)" in run("schema", "pull", "--topic", "sales").out


def test_push_registers_protobuf_and_what_it_imports(run: Run, site: Double) -> None:
    Path("schemas/shop").mkdir(parents=True)
    Path("schemas/shop/item.proto").write_text(ITEM_PROTO)
    Path("schemas/sales.proto").write_text(ORDER_PROTO)
    assert run("schema", "push", "schemas/sales.proto", "--topic", "sales", "--check").out == (
        "schemas/sales.proto: the subject sales-value would take it\n"
    )
    assert "sales-value" not in site.subjects
    assert "shop/item.proto" not in site.subjects
    assert run("schema", "push", "schemas/sales.proto", "--topic", "sales").code == 0
    (id,) = site.subjects["sales-value"]
    assert site.schemas[id - 1] == {
        "schema": ORDER_PROTO,
        "schemaType": "PROTOBUF",
        "references": [{"name": "shop/item.proto", "subject": "shop/item.proto", "version": 1}],
    }
    assert run("schema", "push", "schemas/sales.proto", "--topic", "sales").out == (
        f"schemas/sales.proto: id {id} under the subject sales-value already\n"
    )
