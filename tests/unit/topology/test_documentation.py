"""What docs/topologies.md shows is right: its topologies wire, and its problems are real."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from penstock.errors import TopologyError
from penstock.runtime import load
from penstock.schema import Field, Schema
from penstock.signature import Signature, Tensor
from penstock.topology.check import wire
from penstock.topology.draw import text
from penstock.topology.language import TOPOLOGY
from penstock.topology.parse import parse_text
from penstock.topology.shapes import Forms, Keys, Kinds, Named, Shape

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/topologies.md").read_text(encoding="utf-8")
FLIGHTS, PAYMENTS, ORDERS = (
    block for block in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL) if block.startswith("topology")
)
FILE = ROOT / "topologies/flights.yaml"


def shown(first: str) -> list[str]:
    """The lines of the output block that begins with `first`."""
    (block,) = re.findall(rf"^```\w+\n\$ {re.escape(first)}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(block).splitlines()


def test_first_example_is_a_topology() -> None:
    assert [node.name for node in parse_text(FLIGHTS).nodes] == ["features", "logistic", "trees", "stack"]


def test_example_of_several_sources_wires_as_told() -> None:
    schemas = {
        "cards": Schema("Card", (Field("amount", "double"), Field("merchant", "string"))),
        "transfers": Schema("T", (Field("amount", "long"),)),
    }
    out = (Tensor("y", "float32", (1,)),)
    signatures = {"risk": Signature((Tensor("amount", "float32", (1,)),), out), "fraud": Signature((Tensor("x", "string", (1,)),), out)}
    cards, transfers = wire(parse_text(PAYMENTS), schemas, signatures).stages
    assert [emit.sink.name for emit in cards.emits] == ["all", "of-cards"]
    assert [emit.sink.name for emit in transfers.emits] == ["all"]


def test_example_of_a_chain_wires_and_draws_as_told() -> None:
    topology = parse_text(ORDERS)
    order = Schema("Order", (Field("id", "string"), Field("customer", "string"), Field("amount", "double")))
    scored = Schema("Scored", (Field("id", "string"), Field("risk", "float")))
    one = Signature((Tensor("x", "float32", (1,)),), (Tensor("y", "float32", (1,)),))
    wiring = wire(topology, {"orders": order, "scored": scored}, {"risk": one, "review": one})
    assert [(stage.name, [emit.sink.name for emit in stage.emits]) for stage in wiring.stages] == [
        ("orders", ["scores"]),
        ("scored", ["reviews"]),
    ]
    assert text(topology, wiring).splitlines() == shown("penstock draw orders.yaml")


def test_drawing_is_what_draw_prints() -> None:
    loaded = load(FILE, models=ROOT / "models", schemas=ROOT / "schemas")
    assert text(loaded.topology, loaded.wiring).splitlines() == shown("penstock draw topologies/flights.yaml")


def test_problems_are_what_validate_prints(tmp_path: Path) -> None:
    """The example's file is the flights topology with seven mistakes."""
    broken = FILE.read_text(encoding="utf-8")
    for old, new in (
        ("    id: flight_id\n", "    id: fligth_id\n"),
        ("{field: dep_delay, missing: nan}", "dep_delay\n      hour: tailnum"),
        ("flight-logistic@production\n    inputs: {X: features", "flight-logistic@production\n    inputs: {X: feature"),
        ("flight-trees@production", "flight-trees@9"),
        ('log_loss: "< 0.4"', 'log_loss: "< 0.2"'),
        ("topic: flights.predictions", "topic: flights.departures"),
    ):
        assert broken.count(old) == 1, old
        broken = broken.replace(old, new)
    file = tmp_path / "flights.yaml"
    file.write_text(broken, encoding="utf-8")
    with pytest.raises(TopologyError) as caught:
        load(file, models=ROOT / "models", schemas=ROOT / "schemas")
    found = [str(problem).replace(f"{tmp_path}/", "").replace(f"{ROOT}/", "") for problem in caught.value.problems]
    example = re.findall(r"^flights\.yaml:.*sources.*?(?=^```)", PAGE, re.MULTILINE | re.DOTALL)[0].splitlines()
    assert [*found, f"flights.yaml: {len(found)} problems"] == example


def test_every_key_is_in_a_table() -> None:
    def keys(shape: Shape) -> list[str]:
        match shape:
            case Keys(keys=rows):
                return [*rows, *(name for row in rows.values() for name in keys(row.shape))]
            case Named(of=of):
                return keys(of)
            case Kinds():
                return [name for _, group in shape.groups() for name in keys(group)]
            case Forms(mapping=mapping) if mapping is not None:
                return keys(mapping)
            case _:
                return []

    assert [
        key
        for key in keys(TOPOLOGY)
        if f"`{key}`" not in PAGE and f"`{key}:" not in PAGE and f"{{{key}:" not in PAGE and f"\n{key}:" not in PAGE
    ] == []
