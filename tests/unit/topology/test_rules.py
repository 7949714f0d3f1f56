"""Rules in a topology: their types follow from what they read, and every mistake has its line and column inside the expression."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from penstock.errors import TopologyError
from penstock.schema import Column, Field, Missing, Schema
from penstock.signature import Signature, Tensor
from penstock.topology import draw
from penstock.topology.check import wire
from penstock.topology.parse import parse_text
from penstock.topology.spec import RuleNode
from penstock.topology.wiring import Step, Wiring

ORDER = Schema(
    "Order",
    (
        Field("id", "string"),
        Field("amount", "float"),
        Field("items", "int"),
        Field("country", "enum", symbols=("DE", "FR")),
        Field("discount", "double", optional=True, default=None),
        Field("coupon", "string", optional=True, default=None),
        Field("weight", "float", optional=True, default=1.0),
        Field("prices", "array", items=Field("items", "double"), size=3),
        Field("history", "array", items=Field("items", "double")),
        Field("grid", "array", items=Field("items", "array", items=Field("items", "float"), size=2), size=2),
        Field("raw", "bytes"),
        Field("at", "timestamp", unit="ms"),
    ),
)
RISK = Signature((Tensor("x", "float32", (1,)),), (Tensor("label", "int32"), Tensor("p", "float32", (2,)), Tensor("z", "float32", (None,))))
NEXT = Signature((Tensor("x", "float32", (2,)),), (Tensor("y", "float32", (1,)),))
TEXT = """\
topology: t
sources: {orders: {topic: orders, schema: order.avsc}}
nodes:
  risk: {kind: model, model: risk@1, inputs: {x: amount}}
  desk:
    kind: rule
    outputs:
      y: EXPRESSION
sinks: {out: {topic: out, fields: {id: id, risk: risk.label, y: desk.y}}}
"""


def wired(text: str, schemas: Mapping[str, Schema] | None = None, **models: Signature) -> Wiring:
    return wire(parse_text(text, "t.yaml"), schemas or {"orders": ORDER}, {"risk": RISK, **models})


def step(text: str, **models: Signature) -> Step:
    return next(one for one in wired(text, None, **models).stages[0].steps if one.node.name == "desk")


def problems(text: str, schemas: Mapping[str, Schema] | None = None, **models: Signature) -> list[str]:
    with pytest.raises(TopologyError) as caught:
        wired(text, schemas, **models)
    return [str(problem) for problem in caught.value.problems]


def test_rule_is_a_step_whose_types_follow_from_what_it_reads() -> None:
    made = step(TEXT.replace("EXPRESSION", "risk.p[1] * amount > 0.5 and country == 'DE' or items > 3 and at > 0"))
    assert isinstance(made.node, RuleNode)
    tensors = ["risk.p[1]: float32[N]", "amount: float32[N]", "country: string[N]", "items: int64[N]", "at: int64[N]"]
    assert [str(feed.tensor) for feed in made.feeds] == tensors
    assert [(feed.parts[0].column, feed.parts[0].index) for feed in made.feeds][:2] == [("risk.p", 1), ("amount", None)]
    assert made.outputs == (Tensor("y", "bool"),)
    assert made.graph is not None
    assert made.graph.label.startswith("rule:")


def test_no_release_binds_it() -> None:
    assert [node.name for node in parse_text(TEXT.replace("EXPRESSION", "amount")).model_nodes] == ["risk"]


def test_only_what_is_read_is_an_output_of_the_step_and_later_outputs_name_earlier_ones() -> None:
    text = TEXT.replace("      y: EXPRESSION\n", "      half: amount / 2\n      y: half + 1\n      z: half + 2\n")
    assert [str(one) for one in step(text).outputs] == ["y: float32[N]"]


def test_models_and_rules_read_a_rule() -> None:
    text = TEXT.replace(
        "      y: EXPRESSION\n", "      y: '[amount, risk.p[0]]'\n  after: {kind: model, model: after@1, inputs: {x: desk.y}}\n"
    )
    text = text.replace("sinks:", "  last: {kind: rule, outputs: {high: 'after > 0.5 and desk.y[1] < 1'}}\nsinks:").replace(
        "y: desk.y", "y: last.high"
    )
    steps = [one.node.name for one in wired(text, after=NEXT).stages[0].steps]
    assert steps == ["risk", "desk", "after", "last"]


def test_null_is_replaced_where_the_field_is_read() -> None:
    text = TEXT.replace("EXPRESSION", "coalesce(discount, 0.0) > 1 or missing(coupon) or weight > 2")
    columns = [one for one in wired(text).stages[0].inputs[0].columns if one.field in ("discount", "coupon", "weight")]
    assert columns == [
        Column("discount", "discount", "float64", (), Missing("fill", 0.0)),
        Column("coupon", "coupon", "string", (), Missing("fill", "")),
        Column("coupon:string", "coupon", "string", (), Missing("fill", "?")),
        Column("weight", "weight", "float32", (), Missing("fill", 1.0)),
    ], "the schema's default replaces null without a word in the file"


def test_inputs_are_names_of_its_own() -> None:
    text = TEXT.replace("    outputs:", "    inputs: {d: {field: discount, missing: -1}, both: [amount, items]}\n    outputs:")
    made = step(text.replace("EXPRESSION", "d < 0 and max(both) > 1 and both[0] > 0"))
    assert [str(feed.tensor) for feed in made.feeds] == ["d: float64[N]", "both: float64[N, 2]"]
    assert made.feeds[1].stacked


def test_field_of_several_sources_is_read_with_a_type_that_holds_all() -> None:
    """One rule is one graph, whatever the source of an event: whole numbers here and a float there are float64."""
    text = TEXT.replace("order.avsc}}", "order.avsc}, cards: {topic: cards, schema: card.avsc}}").replace("risk: risk.label, ", "")
    text = text.replace("  risk: {kind: model, model: risk@1, inputs: {x: amount}}\n", "").replace("EXPRESSION", "amount * 2")
    card = Schema("Card", (Field("id", "string"), Field("amount", "long")))
    stages = wire(parse_text(text, "t.yaml"), {"orders": ORDER, "cards": card}, {}).stages
    assert [str(stage.steps[0].feeds[0].tensor) for stage in stages] == ["amount: float64[N]"] * 2
    assert {stage.steps[0].graph.digest for stage in stages if stage.steps[0].graph} == {wired_digest(stages[0].steps[0])}
    other = Schema("Card", (Field("id", "string"), Field("amount", "string")))
    with pytest.raises(TopologyError) as caught:
        wire(parse_text(text, "t.yaml"), {"orders": ORDER, "cards": other}, {})
    assert [str(one) for one in caught.value.problems] == [
        "t.yaml:7:10: nodes.desk.outputs.y: the field 'amount' is a float in orders and a string in cards"
        " (write orders.amount for one of them)"
    ]


def wired_digest(made: Step) -> str:
    assert made.graph is not None
    return made.graph.digest


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("amount > limit", "8:19: nodes.desk.outputs.y: 'limit' is neither a field nor a node"),
        ("amonut > 1", "8:10: nodes.desk.outputs.y: 'amonut' is neither a field nor a node (did you mean 'amount'?)"),
        ("amount > risk.q", "8:19: nodes.desk.outputs.y: the node 'risk' has no output 'q' (known: label, p, z)"),
        ("amount > risk", "8:19: nodes.desk.outputs.y: the node 'risk' has 3 outputs (write 'risk.label' or 'risk.p' or 'risk.z')"),
        ("amount > risk.p[2]", "8:19: nodes.desk.outputs.y: 'risk.p[2]' is out of range, the last axis has 2 (from 0 to 1)"),
        ("amount > items[0]", "8:19: nodes.desk.outputs.y: 'items[0]' picks an element of a scalar (write items)"),
        ("amount and items", "8:10: nodes.desk.outputs.y: and takes true or false, this is a float32 (compare it with something)"),
        ("amount + discount", "8:19: nodes.desk.outputs.y: 'discount' may be null, and null has no value (coalesce(discount, VALUE) rep"),
        ("missing(risk.label)", "8:18: nodes.desk.outputs.y: 'risk.label' is never null here: only scalar fields, and scalar ou"),
        ("raw == 'x'", "8:10: nodes.desk.outputs.y: the field 'raw' is a bytes, which no expression can read"),
        ("sum(grid) > 1", "8:14: nodes.desk.outputs.y: 'grid' has 2 axes per event, an expression takes one (pick elements: grid[0])"),
        ("prices + risk.p", "8:10: nodes.desk.outputs.y: arrays of different or unknown size do not go together"),
        ("amount +", "nodes.desk.outputs.y: not an expression: invalid syntax"),
        ("amount.is_integer() > 1", "8:10: nodes.desk.outputs.y: there is no function 'amount.is_integer'"),
        ("3", "8:10: nodes.desk.outputs.y: every event would get the same answer"),
        ("desk.y + 1", "5:3: nodes.desk: a cycle: desk -> desk (a node cannot wait for itself: remove one of these inputs)"),
        ("y + 1", "8:10: nodes.desk.outputs.y: 'y' is this output itself (name earlier outputs, fields and nodes)"),
        ("z + 1\n      z: amount", "8:10: nodes.desk.outputs.y: 'z' is a later output of this rule (name earlier"),
        ("amount\n      items: y\n      z: items", "10:10: nodes.desk.outputs.z: 'items' is an earlier output of this rule and a field"),
        # the place inside scalars that the file writes in another way
        ("'country == ''DE'' and amonut > 1'", "8:33: nodes.desk.outputs.y: 'amonut' is neither"),
        ('"country == \\"DE\\" and amonut > 1"', "8:33: nodes.desk.outputs.y: 'amonut' is neither"),
        (">-\n        amount > 1\n          and amonut > 1", "10:15: nodes.desk.outputs.y: 'amonut' is neither"),
        ("|\n        amount > 1 and\n\n        amonut > 1", "11:9: nodes.desk.outputs.y: 'amonut' is neither"),
        ("amount > 1\n        and  amonut > 1  # not a field", "9:14: nodes.desk.outputs.y: 'amonut' is neither"),
    ],
)  # fmt: skip
def test_mistake_has_its_place_inside_the_expression(expression: str, expected: str) -> None:
    found = problems(TEXT.replace("EXPRESSION", expression))
    assert any(expected in one for one in found), found
    assert len(found) == 1, found


@pytest.mark.parametrize(
    ("expression", "advice"),
    [
        ("map(country, {'DE': 1, 'FR': 2}, 0)", "put text that has ': ' in it in quotes"),
        ("'EU' if country in ['DE', 'FR'] else 'other'", "put the whole text in quotes: a part of it is in quotes or brackets"),
        ("[amount, items][0] > 1", "put the whole text in quotes: a part of it is in quotes or brackets"),
        ("> 3", "put text that begins with > in quotes"),
    ],
)
def test_expression_that_needs_quotes_gets_that_advice(expression: str, advice: str) -> None:
    """And the advice helps."""
    (found,) = problems(TEXT.replace("EXPRESSION", expression))
    assert found.startswith("t.yaml:8:")
    assert advice in found
    if not expression.startswith(">"):
        assert step(TEXT.replace("EXPRESSION", f'"{expression}"')).graph is not None


@pytest.mark.parametrize(
    ("inputs", "expression", "expected"),
    [
        ("{d: discuont}", "d > 1", "7:17: nodes.desk.inputs.d: 'discuont' is neither a field nor a node (did you mean 'discount'?)"),
        ("{d: discount}", "d > 1", "9:10: nodes.desk.outputs.y: 'd' may be null, and null has no value (coalesce(d, VALUE) replaces it"),
        ("{d: amount, e: items}", "d > 1", "7:25: nodes.desk.inputs: no output reads 'e' (name it in an expression, or remove it)"),
        ("{y: amount}", "y > 1", "9:7: nodes.desk.outputs: 'y' is an output here and an input on line 7"),
        ("{d: [amount, country]}", "d[0] > 1", "7:14: nodes.desk.inputs.d: amount, country do not go together (stack scalars of one type)"),
        ("{d: {field: risk.p, missing: 0}}", "sum(d) > 1", "7:14: nodes.desk.inputs.d: missing is for fields, outputs of nodes are never"),
    ],
)
def test_mistakes_in_its_inputs(inputs: str, expression: str, expected: str) -> None:
    found = problems(TEXT.replace("    outputs:", f"    inputs: {inputs}\n    outputs:").replace("EXPRESSION", expression))
    assert any(expected in one for one in found), found


def test_rules_in_a_circle_are_one_problem() -> None:
    text = TEXT.replace("EXPRESSION", "other.z").replace("sinks:", "  other: {kind: rule, outputs: {z: desk.y}}\nsinks:")
    assert problems(text) == [
        "t.yaml:9:3: nodes.other: a cycle: other -> desk -> other (a node cannot wait for itself: remove one of these inputs)"
    ]


def test_all_mistakes_come_at_once_and_followers_are_quiet() -> None:
    lines = "      y: amonut\n      z: y + 1\n      w: foo(z)\n      v: 1 +* 2\n"
    found = problems(TEXT.replace("      y: EXPRESSION\n", lines))
    assert [one.partition(": nodes")[0] for one in found] == ["t.yaml:8:10", "t.yaml:10:10", "t.yaml:11:13"], found


def test_it_is_drawn_with_its_expressions_and_what_they_read() -> None:
    text = TEXT.replace("EXPRESSION", "amount > 0.5 and risk.label == 1")
    assert "rule    desk    y: amount > 0.5 and risk.label == 1" in draw.text(parse_text(text), wired(text))
    for wiring in (None, wired(text)):
        drawn = draw.mermaid(parse_text(text), wiring)
        assert '    rule_2{"<b>desk</b><br/>y: amount #62; 0.5 and risk.label == 1"}' in drawn
        assert "    model_1 --> rule_2" in drawn
        assert "    source_0 --> rule_2" in drawn


BRANCHES = """\
topology: t
sources: {orders: {topic: orders, schema: order.avsc}}
nodes:
  risk: {kind: model, model: risk@1, when: CONDITION, inputs: {x: amount}}
  desk: {kind: rule, when: risk, outputs: {y: "mean(risk.p)"}}
  flag: {kind: rule, when: amount > 1, outputs: {is_high: amount > 5}}
  next: {kind: model, model: next@1, NEXT}
sinks: {out: {topic: out, fields: {id: id, y: desk.y, z: FIELD, flag: flag.is_high}, EXTRA}}
"""


def branches(condition: str = "amount > 9", next: str = "when: desk, inputs: {x: risk.p}", field: str = "next.y", extra: str = "") -> str:
    text = BRANCHES.replace("CONDITION", condition).replace("NEXT", next).replace("FIELD", field)
    return text.replace(", EXTRA", extra)


def test_what_a_node_with_a_condition_gives_is_there_for_the_nodes_that_have_the_same() -> None:
    stage = wired(branches(), next=NEXT).stages[0]
    assert {one.node.name: one.when for one in stage.steps} == {
        "risk?": None, "flag?": None, "risk": "risk?.when", "desk": "risk?.when", "flag": "flag?.when", "next": "risk?.when",
    }  # fmt: skip
    filled = wired(branches(next="inputs: {x: {field: risk.p, missing: 0.5}}"), next=NEXT).stages[0]
    (feed,) = next(one for one in filled.steps if one.node.name == "next").feeds
    assert feed.parts[0].gap is not None
    assert (feed.parts[0].gap.when, feed.parts[0].gap.fill, feed.parts[0].gap.axes) == ("risk?.when", 0.5, (2,))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"condition": "amount"}, "4:44: nodes.risk.when: a condition is true or false for each event, this gives float32[N] (compare it"),
        ({"condition": "'prices[0] > 1 and amuont > 2'"}, "4:63: nodes.risk.when: 'amuont' is neither a field nor a node (did you mean 'a"),
        ({"condition": "discount > 1"}, "4:44: nodes.risk.when: 'discount' may be null, and null has no value (coalesce(discount, VALUE)"),
        ({"condition": "flag"}, "4:44: nodes.risk.when: 'flag' could mean the events that it computes, or its output is_high (write coale"),
        ({"condition": "desk"}, "4:44: nodes.risk.when: the `when` of 'desk' leads back here (write a condition for one of them)"),
        ({"condition": "'coalesce(desk, 0) > 1'"}, "4:3: nodes.risk: a cycle: risk -> desk -> risk? -> risk (a node cannot wait for itsel"),
        ({"condition": "true"}, "4:44: nodes.risk.when: every event would get the same answer: no field and no output of a node is named"),
        ({"condition": "next"}, "4:44: nodes.risk.when: the `when` of 'next' leads back here"),
        ({"condition": "amount > 9 or"}, "4:44: nodes.risk.when: not an expression: invalid syntax"),
        ({"condition": "missing(risk.label)"}, "4:52: nodes.risk.when: 'risk.label' is there when this condition holds, so it c"),
        ({"condition": "'[amount > 9]'"}, "4:45: nodes.risk.when: a condition is true or false for each event, this gives bool[N, 1]"),
        ({"extra": ", when: risk.label == 3"}, "8:93: sinks.out.when: 'risk.label' may be null, and null has no value (coalesce"),
        ({"next": "inputs: {x: risk.p}"}, "7:50: nodes.next.inputs.x: 'risk.p' is null for the events that the `when` on line 4 leaves ou"),
        ({"next": "inputs: {x: {field: risk.p, missing: reject}}"}, "is null for the events that the `when` on line 4 leaves out"),
        ({"next": "inputs: {x: {field: risk.p, missing: a}}"}, "7:58: nodes.next.inputs.x: missing: 'a' is not of type float32 (give a fl"),
        ({"next": "when: amount > 9, inputs: {x: risk.p}"}, "is null for the events that the `when` on line 4 leaves out"),
        ({"next": "when: flag, inputs: {x: risk.p}"}, "7:44: nodes.next.when: 'flag' could mean the events that it computes"),
        ({"next": "inputs: {x: [flag.is_high, amount]}"}, "'flag.is_high' gives `is_high: bool[N]`"),
        ({"field": "risk.p"}, "8:58: sinks.out.fields.z: 'risk.p' is null for the events that the `when` on line 4 leaves out, and a row"),
        ({"field": "'risk.p[0]'", "extra": ", key: risk.label"}, "sinks.out.key: 'risk.label' is null for the events that the `when` on"),
        ({"extra": ", when: id == 3"}, "8:93: sinks.out.when: a text and a whole number do not go together"),
    ],
)  # fmt: skip
def test_every_mistake_with_a_condition_is_reported(given: dict[str, str], found: str) -> None:
    listed = problems(branches(**given), next=NEXT)
    assert any(found in one for one in listed), listed


def test_sink_with_the_condition_of_a_node_writes_its_arrays_and_takes_its_keys() -> None:
    text = branches(field="risk.p", extra=", key: risk.label, when: risk").replace("y: desk.y", "y: next.y")
    (found,) = wired(text.replace('y: "mean(risk.p)"', 'y: "[risk.p[0], 1]"').replace("x: risk.p", "x: desk.y"), next=NEXT).stages[0].emits
    assert (found.when, [field.part.gap and field.part.gap.when for field in found.fields]) == (
        "risk?.when",
        [None, None, None, "flag?.when"],
    )


def test_condition_that_could_mean_a_field_or_the_events_of_a_node_is_a_problem() -> None:
    text = branches(next="when: amount, inputs: {x: amount.p}").replace("risk", "amount").replace("amount@1", "risk@1")
    listed = problems(
        text.replace("when: amount > 9, inputs: {x: amount}", "when: orders.amount > 9, inputs: {x: orders.amount}"), next=NEXT
    )
    assert any("7:44: nodes.next.when: 'amount' is both a node and a field (write orders.amount for the field, or" in one for one in listed)


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        ("outputs: {y: mean(risk.p)}", "'risk.p' may be null, and null has no value (coalesce(risk.p[0], VALUE) replaces it, when"),
        ("outputs: {y: 'coalesce(risk.p, 1)'}", "coalesce takes scalars, 'risk.p' is an array (coalesce(risk.p[0], VALUE) replaces it)"),
        ("outputs: {y: missing(risk.p)}", "missing takes scalars, 'risk.p' is an array"),
        ("inputs: {p: risk.p}, outputs: {y: mean(p)}", "(`inputs: {p: {..., missing: VALUE}}` replaces it, when: risk leaves out"),
        ("inputs: {p: risk.p}, outputs: {y: 'coalesce(p[0], 1)'}", "'p[0]' is an element of an input that may be null (`inputs: {p: {..."),
        ("inputs: {p: {field: risk.p, missing: 1}}, outputs: {y: 'coalesce(p[0], 1)'}", "'p[0]' is never null (use coalesce where the fi"),
        ("inputs: {l: risk.label}, outputs: {y: l + 1}", "(coalesce(l, VALUE) replaces it, missing(l) tests for it, when: risk leav"),
        ("when: risk, outputs: {y: 'coalesce(risk.label, 1)'}", "'risk.label' is never null here"),
    ],
)  # fmt: skip
def test_what_may_be_null_says_what_can_be_written(rule: str, found: str) -> None:
    text = branches().replace('when: risk, outputs: {y: "mean(risk.p)"}', rule)
    assert any(found in one for one in problems(text, next=NEXT)), problems(text, next=NEXT)


def test_condition_that_only_another_source_can_feed_is_named_as_a_condition() -> None:
    text = branches("bids.price > 1", next="inputs: {x: {field: risk.p, missing: 0}}").replace("x: amount", "x: orders.amount")
    text = text.replace("sources: {", "sources: {bids: {topic: bids, schema: bid.avsc}, ")
    bid = Schema("Bid", (Field("id", "string"), Field("price", "float")))
    listed = problems(text, {"orders": ORDER, "bids": bid}, next=NEXT)
    assert any(
        "nodes.risk: no single source feeds it: bids lacks orders.amount; orders lacks what its `when` reads" in one for one in listed
    )


def test_name_of_a_condition_is_no_name_of_the_file() -> None:
    text = branches(next="inputs: {x: {field: risk.p, missing: 0.5}}")
    model = Signature((Tensor("x", "float32", (2,)), Tensor("when", "bool")), (Tensor("y", "float32", (1,)),))
    (one, *_) = problems(text, next=model)
    assert "nothing feeds the input tensor `when: bool[N]`, and no field or output has its name" in one
    both = branches(extra=", when: amount > 3").replace("sinks: {out:", "sinks: {risk:")
    assert "8:94: sinks.risk.when: the node of this name has a `when` as well, on line 4" in problems(both, next=NEXT)[-1]
