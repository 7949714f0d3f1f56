"""A lookup in a topology file: what it may read, what its readers have to say, and every mistake with its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from penstock import runtime
from penstock.cli.main import main
from penstock.errors import TopologyError
from penstock.topology import draw

ORDER = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "item", "type": ["null", "string"]},
        {"name": "size", "type": "double"},
        {"name": "at", "type": "long"},
    ],
}
ITEM = {
    "type": "record",
    "name": "Item",
    "fields": [
        {"name": "code", "type": "string"},
        {"name": "price", "type": "double"},
        {"name": "stock", "type": ["null", "int"]},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "maker", "type": {"type": "record", "name": "Maker", "fields": [{"name": "name", "type": "string"}]}},
    ],
}
TEXT = """\
topology: shop
sources: {orders: {topic: orders, schema: order.avsc, id: id, time: at}}
tables:
  items: {topic: items, schema: item.avsc, key: code}
nodes:
  known: {kind: lookup, table: items, by: item}
  cost: {kind: rule, outputs: {all: "coalesce(known.price, 0.0) * size"}}
sinks: {out: {topic: out, fields: {id: id, price: known.price, maker: known.maker.name, found: known.found, all: cost.all}}}
"""


def loaded(folder: Path, text: str) -> runtime.Loaded:
    for name, schema in (("order", ORDER), ("item", ITEM)):
        (folder / f"{name}.avsc").write_text(json.dumps(schema))
    (folder / "t.yaml").write_text(text)
    return runtime.load(folder / "t.yaml", models=folder, schemas=folder)


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(TopologyError) as caught:
        loaded(folder, text)
    return [str(one).removeprefix(f"{folder}/") for one in caught.value.problems]


def test_outputs_are_the_fields_of_the_table(tmp_path: Path) -> None:
    (stage,) = loaded(tmp_path, TEXT).wiring.stages
    (lookup,) = [step for step in stage.steps if step.node.kind == "lookup"]
    assert [str(one) for one in lookup.outputs] == [
        "price: float64[N]", "price?: bool[N]", "maker.name: string[N]", "maker.name?: bool[N]", "found: bool[N]",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("table: items", "table: item", "t.yaml:6:32: nodes.known: there is no table 'item' (did you mean 'items'?)"),
        ("by: item}", "by: [item, id]}", "t.yaml:6:43: nodes.known.by: it names 2, and the key of items is code (name one field"),
        ("by: item}", "by: size}", "t.yaml:6:43: nodes.known.by: 'size' is float64 (a key is text, a whole number"),
        ("by: item}", "by: at}", "t.yaml:6:43: nodes.known.by: 'at' is int64, the key of the table items is string"),
        ("by: item}", "by: item, time: at}", "t.yaml:6:55: nodes.known.time: the table items has no history"),
        ("key: code", "key: cod", "t.yaml:4:49: tables.items.key: item.avsc has no field 'cod' (did you mean 'code'?)"),
        ("key: code", "key: price", "t.yaml:4:49: tables.items.key: the field 'price' is of kind double (a key is"),
        ("key: code", "key: code, time: price, history: 1d", "tables.items.time: the field 'price' is of kind double (an event time is"),
        ("key: code", "key: code, time: stock", "t.yaml:4:61: tables.items.time: without a history, the last row of a key counts"),
        ("item.avsc", "itm.avsc", "tables.items: there is no schema file"),
        ("  items: {", "  orders: {", "t.yaml:4:3: tables.orders: a source on line 2 has this name"),
        (
            "  items: {",
            "  spare: {topic: spare, schema: item.avsc}\n  items: {",
            "t.yaml:4:3: tables.spare: no lookup reads it (add",
        ),
        ("topic: items,", "topic: items, coerce: [dates], format: avro,", "tables.items.coerce: avro writes every value by its type"),
        ("topic: items,", "topic: items, envelope: debezium,", "tables.items.envelope: item.avsc has no field 'op'"),
        ("topic: items,", "topic: items, id: code,", "unknown key 'id'"),
        ("topic: items,", "topic: orders,", "t.yaml:4:18: tables.items: the topic 'orders' is read by the source 'orders', and the rows"),
        ("topic: items,", "topic: orders.dead-letter,", "is the dead-letter topic of the source 'orders', and the rows"),
        ("topic: items,", "topic: out,", "is written by the sink 'out', and the rows of a table are kept in another way"),
        ("price: known.price", "price: known.price?", "the node 'known' has no output 'price?' (did you mean 'price'?"),
        ("price: known.price", "price: known", "has 5 outputs (write 'known.code' or 'known.price' or 'known.stock'"),
        ("known.price, maker", "known.prise, maker", "the node 'known' has no output 'prise' (did you mean 'price'?"),
        ("price: known.price", "price: known.tags", "the node 'known' has no output 'tags'"),
        ("coalesce(known.price, 0.0)", "known.price", "'known.price' may be null, and null has no value (coalesce(known.price, VALUE)"),
        ("fields: {id", "key: known.maker.name, fields: {id", "sinks.out.key: 'known.maker.name' is null where the table items has none"),
    ],
)
def test_mistakes(tmp_path: Path, old: str, new: str, said: str) -> None:
    found = problems(tmp_path, TEXT.replace(old, new, 1))
    assert any(said in one for one in found), found


def test_a_window_reads_what_was_looked_up(tmp_path: Path) -> None:
    """A number that is null does not count, and an event without a key is refused when the file is read."""
    window = (
        "  spent: {kind: window, by: id, over: [1m], features: {s: sum(known.price), n: sum(known.stock), f: count where known.found}}\n"
    )
    text = TEXT.replace("  cost:", window + "  cost:").replace(
        "all: cost.all", "all: cost.all, s: spent.s_1m, n: spent.n_1m, f: spent.f_1m"
    )
    assert loaded(tmp_path, text).topology.windows
    found = problems(tmp_path, text.replace("by: id, over", "by: known.maker.name, over"))
    assert "nodes.spent.by: 'known.maker.name' may be null, and an event without it cannot be counted (name a rule's" in found[0]


def test_it_is_drawn_with_its_table(tmp_path: Path) -> None:
    made = loaded(tmp_path, TEXT)
    assert "items" in draw.text(made.topology, made.wiring)
    for text in (draw.mermaid(made.topology), draw.mermaid(made.topology, made.wiring)):
        assert "table_" in text
        assert text.count("-->") >= 5


def test_doors_without_tables_refuse_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    loaded(tmp_path, TEXT)
    monkeypatch.chdir(tmp_path)
    assert main(["batch", "t.yaml", "--schemas", ".", "--in", "x.ndjson", "--out", "y.ndjson"]) == 2
    said = " ".join(capfd.readouterr().err.split())
    assert "t.yaml:6:3: nodes.known: a lookup reads the table items, and penstock batch has none (run the topology as a stream" in said
