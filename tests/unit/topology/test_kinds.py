"""A kind of node is a file and a row of the table: the kind of this file is parsed, checked, published and drawn like the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from penstock.errors import TopologyError
from penstock.schema import Column, Field, Schema
from penstock.signature import Signature, Tensor
from penstock.topology import draw
from penstock.topology.check import wire
from penstock.topology.document import Scalar, Value
from penstock.topology.kinds import KINDS, Kind, kind_of
from penstock.topology.language import json_schema
from penstock.topology.names import any_of
from penstock.topology.parse import parse_text
from penstock.topology.resolve import Names, Wire
from penstock.topology.shapes import REFERENCE, Key, Keys, Literal
from penstock.topology.spec import Constant, Input, Node, Ref
from penstock.topology.values import keys, marks, refs
from penstock.topology.wiring import Feed, OutputField, Part, Wiring

PAGE = Path(__file__).parents[3] / "docs/topologies.md"
TEXT = """\
topology: t
sources: {orders: {topic: orders, schema: order.avsc}}
nodes:
  risk: {kind: model, model: risk@1, inputs: {x: amount}}
  high: {kind: above, of: risk, limit: 0.5}
  flag: {kind: model, model: flag@1, inputs: {b: high.above}}
sinks: {out: {topic: out, fields: {id: id, high: high, flag: flag}}}
"""
ORDER = Schema("Order", (Field("id", "string"), Field("amount", "float")))
RISK = Signature((Tensor("x", "float32", (1,)),), (Tensor("y", "float32", (1,)),))
FLAG = Signature((Tensor("b", "bool", (1,)),), (Tensor("y", "float32", (1,)),))


@dataclass(frozen=True, slots=True)
class AboveNode(Node):
    """Whether a number is above a limit."""

    of: Ref
    limit: Constant


class AboveKind(Kind[AboveNode]):
    keys = Keys({"of": Key(REFERENCE, "The number.", required=True), "limit": Key(Literal(), "The limit.", required=True)})

    @property
    def outline(self) -> tuple[str, str]:
        return "{", "}"

    def parse(self, name: Scalar, kind: str, value: Value) -> AboveNode:
        given = keys(value)
        limit: Any = given["limit"]
        return AboveNode(name=name.text, kind=kind, of=refs(given["of"])[0], limit=limit.value, mark=name.mark, marks=marks(value))

    def clashes(self, node: AboveNode) -> Any:
        if not isinstance(node.limit, int | float):
            yield node.at("limit"), f"nodes.{node.name}.limit: {node.limit!r} is not a number", "write a number"

    def signature(self, node: AboveNode, model: Signature | None) -> Signature:
        return Signature((Tensor("number", "float32", (1,)),), (Tensor("above", "bool", (1,)),))

    def wires(self, node: AboveNode, names: Names) -> list[Wire]:
        (tensor,) = self.signature(node, None).inputs
        return [Wire(tensor, Input(tensor.name, (node.of,), mark=node.at("of")), names.targets((node.of,), f"nodes.{node.name}.of"))]

    def refs(self, node: AboveNode) -> tuple[Ref, ...]:
        return (node.of,)

    def detail(self, node: AboveNode) -> str:
        return f"{node.of.text} > {node.limit}"


@pytest.fixture
def above(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row of the table."""
    monkeypatch.setitem(KINDS, "above", AboveKind())


def wired(text: str) -> Wiring:
    return wire(parse_text(text, "t.yaml"), {"orders": ORDER}, {"risk": RISK, "flag": FLAG})


def refused(call: Callable[[str], object], text: str) -> list[str]:
    with pytest.raises(TopologyError) as caught:
        call(text)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.usefixtures("above")
class TestKindOfThisFile:
    def test_it_is_parsed_to_its_own_value(self) -> None:
        node = parse_text(TEXT).nodes[1]
        assert isinstance(node, AboveNode)
        assert (node.name, node.kind, node.of.text, node.limit) == ("high", "above", "risk", 0.5)

    def test_it_is_wired_between_nodes_of_other_kinds(self) -> None:
        """Its columns and types follow from its signature, as those of a model do."""
        (stage,) = wired(TEXT).stages
        assert stage.inputs[0].columns == (Column("amount", "amount", "float32"), Column("id", "id", "string"))
        risk, high, flag = stage.steps
        assert [risk.node.name, high.node.name, flag.node.name] == ["risk", "high", "flag"]
        assert high.feeds == (Feed(Tensor("number", "float32", (1,)), (Part("risk.y"),)),)
        assert flag.feeds == (Feed(Tensor("b", "bool", (1,)), (Part("high.above"),)),)
        (emit,) = stage.emits
        assert emit.fields[1] == OutputField("high", Part("high.above", 0), "bool")

    @pytest.mark.parametrize(
        ("old", "new", "expected"),
        [
            (", limit: 0.5", "", "t.yaml:5:9: nodes.high: the key 'limit' is missing (add limit: a number, text or a boolean)"),
            ("limit: 0.5", "limit: 0.5, model: m@1", "t.yaml:5:45: nodes.high: unknown key 'model' (known: kind, of, limit, when, "),
            (
                "kind: above",
                "kind: abov",
                "t.yaml:5:16: nodes.high.kind: 'abov' is not one of feature, model, ensemble, rule, window, lookup, above (",
            ),
            ("limit: 0.5", "limit: x", "t.yaml:5:40: nodes.high.limit: 'x' is not a number (write a number)"),
            ("of: risk", "of: rsk", "t.yaml:5:27: nodes.high.of: 'rsk' is neither a field nor a node (did you mean 'risk'?)"),
            ("of: risk", "of: id", "t.yaml:5:27: nodes.high.inputs.number: the tensor is `number: float32[N, 1]`, the field 'id'"),
            ("of: risk", "of: flag", "t.yaml:6:3: nodes.flag: a cycle: flag -> high -> flag (a node cannot wait for itself"),
        ],
    )  # fmt: skip
    def test_its_problems_come_with_their_place(self, old: str, new: str, expected: str) -> None:
        assert TEXT.count(old) == 1, old
        found = refused(wired, TEXT.replace(old, new))
        assert any(one.startswith(expected) for one in found), found

    def test_keys_of_another_kind_are_refused_where_they_stand(self) -> None:
        assert refused(wired, TEXT.replace("kind: model, model: risk@1", "kind: model, model: risk@1, limit: 1")) == [
            "t.yaml:4:38: nodes.risk: unknown key 'limit' "
            "(known: kind, model, inputs, parameters, require, providers, when, materialize, join)"
        ]

    def test_editors_know_it(self) -> None:
        """The published schema would offer the keys of each kind and no others."""
        schema = jsonschema.Draft202012Validator(json_schema())
        for text, good in [
            (TEXT, True),
            (TEXT.replace(", limit: 0.5", ""), False),
            (TEXT.replace("of: risk", "of: risk, model: m@1"), False),
            (TEXT.replace("kind: above, of", "kind: model, of"), False),
        ]:
            assert schema.is_valid(yaml.safe_load(text)) is good, text

    def test_it_is_drawn(self) -> None:
        drawn = draw.text(parse_text(TEXT), wired(TEXT))
        assert "above   high    risk > 0.5" in drawn, drawn
        assert '    above_2{"<b>high</b><br/>risk #62; 0.5"}' in draw.mermaid(parse_text(TEXT))
        assert "    model_1 --> above_2" in draw.mermaid(parse_text(TEXT))

    def test_no_release_binds_it(self) -> None:
        topology = parse_text(TEXT)
        assert [node.name for node in topology.model_nodes] == ["risk", "flag"]
        assert topology.model_node("high") is None


def test_row_of_the_table_is_all_that_makes_a_kind() -> None:
    """Without the row the file above is refused, so nothing else in the package knows the kind."""
    found = refused(parse_text, TEXT)
    assert any("nodes.high.kind: 'above' is not one of feature, model, ensemble, rule" in one for one in found), found


@pytest.mark.parametrize("part", ["keys", "parse", "signature", "wires", "refs", "detail"])
def test_kind_that_lacks_a_part_cannot_be_made(part: str) -> None:
    whole: Mapping[str, object] = {name: value for name, value in vars(AboveKind).items() if not name.startswith("__")}
    assert type("Whole", (Kind,), dict(whole))()
    with pytest.raises(TypeError, match=f"abstract method '?{part}"):
        type("Partial", (Kind,), {name: value for name, value in whole.items() if name != part})()


def test_every_kind_is_on_the_page() -> None:
    """The row `kind` of the table of keys names all of them."""
    (line,) = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `kind` |")]
    assert [kind for kind in KINDS if f"`{kind}`" not in line] == []


def test_every_kind_of_a_parsed_node_is_a_row(text: str) -> None:
    rule = "  flag: {kind: rule, outputs: {high: stack > 0.5}}\n"
    window = "  lately: {kind: window, by: carrier, over: [1h], features: {n: count}}\n"
    lookup = "  known: {kind: lookup, table: carriers, by: carrier}\n"
    kinds = {node.kind: kind_of(node) for node in parse_text(text.replace("sinks:\n", f"{rule}{window}{lookup}sinks:\n")).nodes}
    assert set(kinds) == set(KINDS), f"the example of this test has nodes of {any_of(KINDS)}"
    assert all(kinds[name] is row for name, row in KINDS.items())
