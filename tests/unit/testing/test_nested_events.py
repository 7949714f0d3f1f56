"""Topologies over events that hold records, arrays and maps: by path, as sources of tensors, ids, keys and output fields."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock.errors import ConfigError, TopologyError
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models
from penstock.testing.case_file import read_cases
from penstock.testing.cases import run_case
from penstock.testing.driver import TopologyDriver

TOPOLOGY = """\
topology: orders
sources:
  changes: {{topic: changes, schema: change.avsc, id: after.id{more}}}
nodes:
  weight: {{kind: model, model: double@1, inputs: {{x: {{field: {amount}, missing: 0}}}}}}
sinks:
  scores: {{topic: scores, key: changes.after.id, fields: {{score: weight, id: after.id, sku: "after.items[0].sku"}}}}
"""
ITEM = {"type": "record", "name": "Item", "fields": [{"name": "price", "type": "float"}, {"name": "sku", "type": "string"}]}
AFTER = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "amount", "type": "float"},
        {"name": "items", "type": {"type": "array", "items": ITEM}},
        {"name": "prices", "type": {"type": "array", "items": "float"}, "default": []},
        {"name": "tags", "type": {"type": "map", "values": "float"}, "default": {}},
    ],
}
CHANGE = {"type": "record", "name": "Change", "fields": [{"name": "op", "type": "string"}, {"name": "after", "type": ["null", AFTER]}]}

Make = Callable[..., TopologyDriver]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas/change.avsc").write_text(json.dumps(CHANGE))
    DirectoryRegistry(tmp_path / "models").publish("double", models.linear([2]))

    def driver(amount: str = "after.amount", more: str = "") -> TopologyDriver:
        (tmp_path / "t.yaml").write_text(TOPOLOGY.format(amount=amount, more=more))
        return TopologyDriver(tmp_path / "t.yaml", models=tmp_path / "models", schemas=tmp_path / "schemas")

    return driver


def order(**fields: Any) -> dict[str, Any]:
    return {"op": "c", "after": {"id": 7, "amount": 1.5, "items": [{"price": 4, "sku": "A"}], "prices": [], "tags": {}} | fields}


@pytest.mark.parametrize(
    ("amount", "score"),
    [
        ("after.amount", 3),
        ("changes.after.amount", 3),
        ('"after.items[0].price"', 8),
        ('"after.items[1].price"', 0),
        ('"after.prices[0]"', 10),
        ("after.tags.weight", 1),
    ],
)
@pytest.mark.parametrize("format", ["json", "avro"])
def test_path_feeds_tensor_id_key_and_output(make: Make, amount: str, score: float, format: str) -> None:
    driver = make(amount, f", format: {format}")
    driver.send("changes", order(prices=[5, 6], tags={"weight": 0.5}))
    (record,) = driver.records("scores")
    assert driver.events("scores") == [{"score": score, "id": 7, "sku": "A"}]
    assert record.key == b"7"
    assert ("penstock-id", b"7") in record.headers


@pytest.mark.parametrize("format", ["json", "avro"])
def test_null_parent_is_missing(make: Make, format: str) -> None:
    """An order that was deleted: the key cannot be null, so its event is a dead letter."""
    driver = make(more=f", format: {format}")
    driver.send("changes", {"op": "d", "after": None}, order())
    assert len(driver.events("scores")) == 1
    (letter,) = driver.dead_letters("changes")
    said = dict(letter.headers)["__streams.errors.message"]
    assert said == b"field 'after.id' is null, and the topology gives no value for nulls (add it under `missing:`)"


@pytest.mark.parametrize(
    ("amount", "says"),
    [
        ("after.amout", "there is no field 'after.amout' (did you mean 'after.amount'?)"),
        ("changes.after.amout", "the source 'changes' has no field 'after.amout' (did you mean 'after.amount'?)"),
        ("after.items.price", "there is no field 'after.items.price' ('after.items' is an array: write after.items[0])"),
        ("op.length", "there is no field 'op.length' ('op' is of kind string)"),
        ("aftr.amount", "'aftr.amount': there is no source or node 'aftr' (did you mean 'after'?)"),
        ("after", "the field 'after' is a record (name a field inside it: after.id, after.amount, ...)"),
        ("after.tags", "the field 'after.tags' is a map (name a key of it: after.tags.KEY)"),
    ],
)
def test_path_that_leads_nowhere_is_an_error_with_a_hint(make: Make, amount: str, says: str) -> None:
    with pytest.raises(TopologyError) as caught:
        make(amount)
    assert says in str(caught.value)


BESIDE = """\
topology: beside
sources:
  orders: {{topic: orders, schema: order.avsc{more}}}
nodes:
  weight: {{kind: model, model: double@1, inputs: {{x: amount}}}}
  named: {{kind: model, model: join@1, inputs: {{a: {{field: {text}, missing: none}}, b: {{field: header.x-tenant, missing: nobody}}}}}}
sinks:
  scores: {{topic: scores, fields: {{score: weight, who: named, tenant: header.x-tenant}}}}
"""


@pytest.fixture
def beside(tmp_path: Path) -> Make:
    (tmp_path / "schemas").mkdir()
    fields = [{"name": "amount", "type": "float"}]
    (tmp_path / "schemas/order.avsc").write_text(json.dumps({"type": "record", "name": "Order", "fields": fields}))
    key = [{"name": "id", "type": "string"}, {"name": "n", "type": "long"}]
    (tmp_path / "schemas/key.avsc").write_text(json.dumps({"type": "record", "name": "Key", "fields": key}))
    registry = DirectoryRegistry(tmp_path / "models")
    registry.publish("double", models.linear([2]))
    registry.publish("join", models.join_text())

    def driver(text: str = "key", more: str = "") -> TopologyDriver:
        (tmp_path / "t.yaml").write_text(BESIDE.format(text=text, more=more))
        return TopologyDriver(tmp_path / "t.yaml", models=tmp_path / "models", schemas=tmp_path / "schemas")

    return driver


def test_key_and_headers_are_fields(beside: Make) -> None:
    driver = beside()
    driver.send("orders", {"amount": 1}, b"{", {"amount": 2}, key=b"k", headers=[("x-tenant", b"old"), ("x-tenant", "größe".encode())])
    driver.send("orders", {"amount": 3})
    driver.send("orders", {"amount": 4}, key=b"\xff")
    assert driver.events("scores") == [
        {"score": 2, "who": "kgröße", "tenant": "größe"},
        {"score": 4, "who": "kgröße", "tenant": "größe"},
        {"score": 6, "who": "nonenobody", "tenant": None},
    ]
    said = [dict(letter.headers)["__streams.errors.message"] or b"" for letter in driver.dead_letters("orders")]
    assert said[1] == b"'key' is not UTF-8: invalid start byte (byte 0)"


def test_key_with_a_schema_has_fields(beside: Make) -> None:
    driver = beside("key.id", ", key_schema: key.avsc")
    driver.send("orders", {"amount": 1}, key=b'{"id": "a", "n": 1}')
    driver.send("orders", {"amount": 2}, key=b"a")
    driver.send("orders", {"amount": 3})
    assert [event["who"] for event in driver.events("scores")] == ["anobody", "nonenobody"]
    (letter,) = driver.dead_letters("orders")
    assert (dict(letter.headers)["__streams.errors.message"] or b"").startswith(b"the key is not an event of its schema: ")


def test_key_is_text_or_has_fields(beside: Make) -> None:
    with pytest.raises(TopologyError, match=r"'key\.id'"):
        beside("key.id")
    with pytest.raises(TopologyError, match="'key' is neither a field nor a node"):
        beside("key", ", key_schema: key.avsc")


@pytest.mark.parametrize("format", ["json", "avro"])
def test_debezium_deletions_and_tombstones_are_skipped_and_counted(make: Make, format: str) -> None:
    """They are neither scored nor dead letters; a change that is no event still is one."""
    driver = make(more=f", envelope: debezium, format: {format}")
    gone = {"op": "d", "after": None}
    driver.send("changes", order(), gone, None, {**order(id=8), "op": "u"}, {**order(id=9), "op": "d"}, b"\xff", {"op": "r", "after": None})
    assert [event["id"] for event in driver.events("scores")] == [7, 8]
    assert [letter.offset for letter in driver.dead_letters("changes")] == [0, 1]
    driver.send("changes", gone, None)
    assert len(driver.dead_letters("changes")) == 2


def test_debezium_needs_the_operation(beside: Make) -> None:
    with pytest.raises(TopologyError, match=r"sources.orders.envelope: order.avsc has no field 'op', nor 'payload.op'"):
        beside(more=", envelope: debezium")


WRITES = """\
topology: writes
sources:
  changes: {{topic: changes, schema: change.avsc}}
nodes:
  weight: {{kind: model, model: double@1, inputs: {{x: {{field: after.amount, missing: 0}}}}}}
sinks:
  scores: {{topic: scores, fields: {fields}{more}}}
"""
SCORE = {
    "type": "record",
    "name": "Score",
    "fields": [
        {"name": "op", "type": "string"},
        {
            "name": "result",
            "type": [
                "null",
                {"type": "record", "name": "R", "fields": [{"name": "score", "type": "float"}, {"name": "v", "type": "int", "default": 3}]},
            ],
        },
        {"name": "again", "type": "R", "default": {"score": 1, "v": 2}},
        {"name": "of", "type": {"type": "record", "name": "Of", "fields": [{"name": "id", "type": ["null", "long"], "default": None}]}},
    ],
}


@pytest.fixture
def writes(tmp_path: Path, make: Make) -> Make:
    (tmp_path / "schemas/score.avsc").write_text(json.dumps(SCORE))

    def driver(fields: str, more: str = "") -> TopologyDriver:
        (tmp_path / "w.yaml").write_text(WRITES.format(fields=fields, more=more))
        return TopologyDriver(tmp_path / "w.yaml", models=tmp_path / "models", schemas=tmp_path / "schemas")

    return driver


FIELDS = "{op: op, result.score: weight, of.id: after.id}"


@pytest.mark.parametrize(
    ("more", "beside"),
    [
        ("", ({}, {})),
        (", schema: score.avsc", ({}, {})),
        (", schema: score.avsc, format: avro", ({"v": 3}, {"again": {"score": 1, "v": 2}})),
    ],
)
def test_fields_inside_records_are_written(writes: Make, more: str, beside: tuple[dict[str, Any], dict[str, Any]]) -> None:
    driver = writes(FIELDS, more)
    driver.send("changes", order(), {"op": "d", "after": None})
    inside, top = beside
    assert driver.events("scores") == [
        {"op": "c", "result": {"score": 3, **inside}, "of": {"id": 7}, **top},
        {"op": "d", "result": {"score": 0, **inside}, "of": {"id": None}, **top},
    ]


@pytest.mark.parametrize(
    ("fields", "more", "says"),
    [
        ("{result: weight, result.score: weight}", "", "'result.score' is inside another field that is written whole"),
        ("{result.: weight}", "", "'result.' is not a field name"),
        ("{op: op, result.v: op, result.score: weight, of.id: after.id}", ", schema: score.avsc", "the sink's schema declares an int"),
        (
            "{op: op, result.v: op}",
            ", schema: score.avsc",
            "requires 'result.score', which the sink does not write (add result.score to fields",
        ),
        ("{op: op, result.x: op}", ", schema: score.avsc", "the sink's schema has no field 'result.x'"),
        ("{op: op, of.id: after.id, result.score: after.amount}", ", schema: score.avsc", "may be null, in the sink's schema it may not"),
    ],
)
def test_what_cannot_be_written_inside_is_said(writes: Make, fields: str, more: str, says: str) -> None:
    with pytest.raises(TopologyError) as caught:
        writes(fields, more)
    assert says in str(caught.value)


def test_list_of_fields_names_them_by_their_last_part(writes: Make) -> None:
    driver = writes('[op, changes.after.amount, "after.items[0].sku", weight.y]')
    driver.send("changes", order())
    assert driver.events("scores") == [{"op": "c", "amount": 1.5, "sku": "A", "y": 3}]


def test_debezium_deletions_are_skipped_by_a_schema_that_knows_none(tmp_path: Path, make: Make) -> None:
    """A schema drafted from changes alone has no null, and deletions write null."""
    fields = [{"name": "op", "type": "string"}, {"name": "after", "type": AFTER}]
    (tmp_path / "schemas/change.avsc").write_text(json.dumps({"type": "record", "name": "Change", "fields": fields}))
    driver = make(more=", envelope: debezium")
    driver.send("changes", order(), {"op": "d", "after": None}, {"op": "u", "after": None})
    assert [event["id"] for event in driver.events("scores")] == [7]
    (letter,) = driver.dead_letters("changes")
    assert letter.value == b'{"op":"u","after":null}'


def test_what_follows_a_change_is_never_null(make: Make, tmp_path: Path) -> None:
    """After the skip, `after` is there: its fields need no rule for null."""
    make(more=", envelope: debezium")
    text = (tmp_path / "t.yaml").read_text()
    (tmp_path / "t.yaml").write_text(text.replace("{field: after.amount, missing: 0}", "after.amount"))
    driver = TopologyDriver(tmp_path / "t.yaml", models=tmp_path / "models", schemas=tmp_path / "schemas")
    driver.send("changes", order(), {"op": "c", "after": None})
    assert driver.events("scores") == [{"score": 3, "id": 7, "sku": "A"}]
    assert len(driver.dead_letters("changes")) == 1


def test_debezium_operation_that_lacks_deletions_is_refused(make: Make, tmp_path: Path) -> None:
    enum = {"type": "enum", "name": "Op", "symbols": ["c", "u", "r"], "default": "c"}
    fields = [{"name": "op", "type": enum}, {"name": "after", "type": ["null", AFTER]}]
    (tmp_path / "schemas/change.avsc").write_text(json.dumps({"type": "record", "name": "Change", "fields": fields}))
    with pytest.raises(TopologyError, match="the enum 'op' lacks d and t"):
        make(more=", envelope: debezium")


def test_columns_and_frames_have_the_nested_answers(writes: Make, tmp_path: Path) -> None:
    writes(FIELDS)
    with penstock.open(tmp_path / "w.yaml", models=tmp_path / "models", schemas=tmp_path / "schemas") as plan:
        made = plan.score({"op": ["c", "c"], "after": [order()["after"], None]})
        assert made == {"op": ["c", "c"], "result.score": [3, 0], "of.id": [7, None], "failure": [None, None]}


EITHER = """\
cases:
  - name: a change
    given: {changes: [{op: c, after: {id: 7, amount: 2, items: []}}]}
    expect: {scores: [{result: {score: 4}, of.id: 7}]}
  - name: another
    given: {changes: [{op: c, after: null}]}
    expect: {scores: [{result.score: 0, of: {id: null}}]}
"""


def test_expected_fields_inside_records_are_written_either_way(writes: Make, tmp_path: Path) -> None:
    writes(FIELDS)
    (tmp_path / "w.test.yaml").write_text(EITHER)
    cases = read_cases(tmp_path / "w.test.yaml", models=tmp_path / "models", schemas=tmp_path / "schemas")
    assert [[*run_case(cases.driver, case)] for case in cases.cases] == [[], []]
    (tmp_path / "w.test.yaml").write_text("cases:\n- {name: a, given: {changes: []}, expect: {scores: [{result: {scor: 4}}]}}\n")
    with pytest.raises(ConfigError, match=r"unknown key 'result\.scor'"):
        read_cases(tmp_path / "w.test.yaml", models=tmp_path / "models", schemas=tmp_path / "schemas")


@pytest.mark.parametrize(
    ("amount", "says"),
    [
        ("after.items", "name an item's field: after.items[0].price"),
        ("header.x-y", "float32 takes boolean, int, long"),
    ],
)
def test_hints_name_what_can_be_read(make: Make, amount: str, says: str) -> None:
    with pytest.raises(TopologyError) as caught:
        make(amount)
    assert says in str(caught.value)


def test_tensor_that_nothing_feeds_is_told_of_fields_inside_others(make: Make, tmp_path: Path) -> None:
    make()
    inside = {"type": "record", "name": "R", "fields": [{"name": "x", "type": "float"}]}
    (tmp_path / "schemas/change.avsc").write_text(
        json.dumps(
            {"type": "record", "name": "Change", "fields": [{"name": "before", "type": ["null", inside]}, {"name": "after", "type": "R"}]}
        )
    )
    (tmp_path / "t.yaml").write_text(
        "topology: t\nsources: {c: {topic: c, schema: change.avsc}}\nnodes: {n: {kind: model, model: double@1}}\n"
        "sinks: {s: {topic: s, fields: {y: n}}}\n"
    )
    with pytest.raises(TopologyError, match=r"add inputs: \{x: before.x\}, or the fields of after"):
        TopologyDriver(tmp_path / "t.yaml", models=tmp_path / "models", schemas=tmp_path / "schemas")


NAMED = """\
topology: named
sources:
  orders: {{topic: orders, schema: order.avsc, format: {format}}}
nodes:
  who:
    kind: rule
    inputs: {{tenant: header.x-tenant}}
    outputs:
      name: coalesce(tenant, key, 'nobody')
      known: not missing(tenant)
sinks:
  s: {{topic: s, fields: {{name: who.name, known: who.known}}}}
"""


@pytest.mark.parametrize("format", ["json", "avro"])
def test_named_input_of_a_rule_stays_null(beside: Make, tmp_path: Path, format: str) -> None:
    """So a header whose name is no name in an expression can be replaced, and tested, there."""
    beside()
    (tmp_path / "r.yaml").write_text(NAMED.format(format=format))
    driver = TopologyDriver(tmp_path / "r.yaml", models=tmp_path / "models", schemas=tmp_path / "schemas")
    driver.send("orders", {"amount": 1}, headers=[("x-tenant", b"a")])
    driver.send("orders", {"amount": 1}, key=b"k")
    driver.send("orders", {"amount": 1})
    assert driver.events("s") == [{"name": "a", "known": True}, {"name": "k", "known": False}, {"name": "nobody", "known": False}]
