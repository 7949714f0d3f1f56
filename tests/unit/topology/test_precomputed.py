"""The section `precomputed`: a key has to decide the answer, and a policy needs what it works with."""

from __future__ import annotations

import pytest

from penstock.errors import TopologyError
from penstock.schema import Field, Schema
from penstock.signature import Signature, Tensor
from penstock.topology.check import wire
from penstock.topology.parse import parse_text
from penstock.topology.spec import Precomputed

TEXT = """\
topology: t
sources: {orders: {topic: orders, schema: order.avsc}}
nodes:
  price: {kind: model, model: m@1, inputs: {x: amount, kind: kind}, when: "count > 0"}
sinks:
  prices: {topic: prices, fields: {id: id, price: price, other: note}}
"""
SCHEMA = Schema(
    "Order",
    (
        Field("id", "string"), Field("amount", "float"), Field("count", "int"), Field("kind", "enum", symbols=("a", "b")),
        Field("note", "string"), Field("raw", "bytes"), Field("open", "array", items=Field("items", "float")),
        Field("fixed", "array", items=Field("items", "double"), size=2), Field("deep", "record", fields=(Field("x", "double"),)),
    ),
)  # fmt: skip
MODEL = Signature((Tensor("x", "float32", (1,)), Tensor("kind", "string", (1,))), (Tensor("y", "float32", (1,)),))


def problems(section: str, text: str = TEXT) -> list[str]:
    topology = parse_text(f"{text}precomputed: {section}\n", "t.yaml")
    try:
        wire(topology, {one.name: SCHEMA for one in topology.sources}, {"price": MODEL})
    except TopologyError as error:
        return [str(one) for one in error.problems]
    return []


def test_section_is_parsed() -> None:
    section = "{inputs: [amount, kind], decimals: {amount: 1}, on_miss: nearest, scale: {amount: 0.5}, stale: 60}"
    assert parse_text(f"{TEXT}precomputed: {section}\n").precomputed == Precomputed(
        inputs=("amount", "kind"), decimals={"amount": 1}, on_miss="nearest", scale={"amount": 0.5}, stale=60
    )
    assert parse_text(f"{TEXT}precomputed: {{entity: id}}\n").precomputed == Precomputed(entity="id")
    assert parse_text(TEXT).precomputed is None


@pytest.mark.parametrize(
    "section",
    [
        "{entity: id}",
        "{entity: count, on_miss: unknown, stale: 3600}",
        "{entity: id, on_miss: default, default: {price: 0.5}}",
        "{inputs: [amount, kind, count], decimals: {amount: 2}}",
        "{inputs: [count, kind, amount, note, fixed, deep.x], decimals: {amount: 0, fixed: 15, deep.x: 3}}",
        "{inputs: [amount, kind, count], decimals: {amount: 2}, on_miss: nearest, scale: {amount: 1, count: 2.5}}",
    ],
)
def test_valid_section_has_no_problems(section: str) -> None:
    assert problems(section) == []


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{entity: ids}", "t.yaml:7:23: precomputed: the source has no field 'ids' (did you mean 'id'?)"),
        ("{entity: amount}", "precomputed.entity: the field 'amount' is of kind float (an id is a string or a whole number)"),
        ("{inputs: [amount, kind], decimals: {amount: 2}}", "the nodes also read count: events of one key would have different answers"),
        ("{inputs: [amount, kind, count]}", "precomputed: amount is a float, and its decimals in the key are not stated"),
        ("{inputs: [amount, kind, count], decimals: {amount: 2, count: 1}}", "precomputed.decimals: 'count' is no float or double"),
        ("{entity: id, decimals: {amount: 2}}", "precomputed.decimals: 'amount' is no float or double of the inputs"),
        ("{inputs: [amount, kind, count, raw], decimals: {amount: 2}}", "precomputed.inputs: the field 'raw' is of kind bytes"),
        ("{inputs: [amount, kind, count, open], decimals: {amount: 2}}", "precomputed.inputs: the field 'open' is of kind array"),
        ("{inputs: [amount, kind, count, deep], decimals: {amount: 2}}", "precomputed.inputs: the field 'deep' is of kind record"),
        ("{entity: id, on_miss: default}", "precomputed.on_miss: default needs the key 'default'"),
        ("{entity: id, default: {price: 1}}", "precomputed.default belongs to on_miss: default, and on_miss is score"),
        ("{entity: id, on_miss: default, default: {prize: 1}}", "precomputed.default: the sink has no field 'prize'"),
        ("{entity: id, on_miss: nearest, scale: {id: 1}}", "precomputed.on_miss: an id has no nearest one"),
        ("{inputs: [amount, kind, count], decimals: {amount: 2}, on_miss: nearest}", "on_miss: nearest needs the key 'scale'"),
        ("{inputs: [amount, kind, count], decimals: {amount: 2}, on_miss: nearest, scale: {kind: 1}}", "'kind' is no number of the inputs"),
        ("{inputs: [amount, kind, count], decimals: {amount: 2}, on_miss: nearest, scale: {count: 0}}", "0 is no difference (give"),
        ("{inputs: [amount, kind, count], decimals: {amount: 2}, on_miss: nearest, scale: {count: a}}", "'a' is no difference"),
        ("{entity: id, inputs: [id]}", "precomputed: exactly one of 'entity' or 'inputs' belongs here"),
        ("{}", "precomputed: exactly one of 'entity' or 'inputs' belongs here"),
        ("{entity: id, stale: -1}", "-1 is out of range"),
        ("{entity: id, on_miss: guess}", "'guess' is not one of score, default, nearest, unknown"),
    ],
)  # fmt: skip
def test_wrong_section_is_reported_with_its_place(section: str, message: str) -> None:
    try:
        found = problems(section)
    except TopologyError as error:
        found = [str(one) for one in error.problems]
    assert [one for one in found if message in one], found
    assert all(one.startswith("t.yaml:7:") for one in found)


def test_lookup_has_one_source() -> None:
    two = TEXT.replace("schema: order.avsc}}", "schema: order.avsc}, more: {topic: more, schema: order.avsc}}")
    assert any("the topology has 2 sources (orders, more)" in one for one in problems("{entity: id}", two))


def test_name_of_the_outcome_is_taken() -> None:
    assert any(
        "which says where an answer is from" in one for one in problems("{entity: id}", TEXT.replace("other: note", "precomputed: note"))
    )


def test_default_has_one_sink() -> None:
    two = f"{TEXT}  more: {{topic: more, fields: {{price: price}}}}\n"
    assert any("the topology has several sinks" in one for one in problems("{entity: id, on_miss: default, default: {price: 1}}", two))
