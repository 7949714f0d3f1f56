"""A stage may read what another stage writes, if it can read it; only stages that feed one another in a circle are refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from penstock.errors import TopologyError
from penstock.schema import Field, Schema
from penstock.signature import Signature, Tensor
from penstock.topology import draw
from penstock.topology.check import check, wire
from penstock.topology.parse import parse_text
from penstock.topology.wiring import Wiring

CHAIN = """\
topology: t
sources:
  scored:
    topic: scored
    schema: scored.avsc
  orders:
    topic: orders
    schema: order.avsc
nodes:
  risk: {kind: model, model: risk@1, inputs: {x: orders.amount}}
  review: {kind: model, model: review@1, inputs: {x: scored.at}}
sinks:
  reviews: {topic: reviews, fields: {order: scored.order, review: review}}
  first:
    topic: scored
    fields: {order: orders.id, kind: orders.kind, risk: risk.y, at: orders.at, note: orders.note}
"""
ORDER = Schema(
    "Order",
    (
        Field("id", "string"),
        Field("kind", "enum", symbols=("A", "B")),
        Field("amount", "double"),
        Field("at", "timestamp", unit="ms"),
        Field("note", "string", optional=True, default=None),
    ),
    path="order.avsc",
)
SCORED = (
    Field("order", "string"),
    Field("kind", "enum", symbols=("A", "B", "C")),
    Field("risk", "float"),
    Field("at", "timestamp", unit="ms"),
    Field("note", "string", optional=True),
    Field("later", "int", default=0),
)
MODEL = Signature((Tensor("x", "float32", (1,)),), (Tensor("y", "float32", (1,)),))


def fields_of(**changed: Field | None) -> tuple[Field, ...]:
    declared = {field.name: field for field in SCORED} | changed
    return tuple(field for field in declared.values() if field is not None)


def wired(text: str, scored: tuple[Field, ...] = SCORED, own: Schema | None = None, avro: object = None) -> Wiring:
    schemas = {"orders": ORDER, "scored": Schema("Scored", scored, avro, path="scored.avsc")}
    return wire(parse_text(text, "t.yaml"), schemas, {"risk": MODEL, "review": MODEL}, {"first": own} if own else {})


def refused(call: Callable[[], object]) -> list[str]:
    with pytest.raises(TopologyError) as caught:
        call()
    return [str(problem) for problem in caught.value.problems]


class TestOrder:
    def test_stages_come_after_those_that_feed_them(self) -> None:
        """Whatever the order of the file."""
        wiring = wired(CHAIN)
        assert [stage.name for stage in wiring.stages] == ["orders", "scored"]
        assert [[emit.sink.name for emit in stage.emits] for stage in wiring.stages] == [["first"], ["reviews"]]

    def test_stages_that_do_not_feed_one_another_keep_the_order_of_the_file(self) -> None:
        wiring = wired(CHAIN.replace("topic: scored\n    fields", "topic: elsewhere\n    fields"))
        assert [stage.name for stage in wiring.stages] == ["scored", "orders"]


class TestCircles:
    def test_the_way_is_printed_and_stands_at_the_sink_that_closes_it(self) -> None:
        """From the source that is first in the file, back to it."""
        text = CHAIN.replace("topic: reviews,", "topic: orders, ")
        assert refused(lambda: wired(text)) == [
            "t.yaml:15:12: sinks.first: events would go in circles: source scored -> topic orders -> source orders -> topic scored -> "
            "source scored (write to a topic that these sources do not read; to limit a sink to one source, name its fields SOURCE.FIELD)"
        ]

    def test_stage_that_feeds_itself(self) -> None:
        text = CHAIN.replace("topic: reviews,", "topic: scored, ")
        (found,) = refused(lambda: wired(text))
        assert "sinks.reviews: events would go in circles: source scored -> topic scored -> source scored (" in found

    def test_sink_that_both_stages_fill_closes_a_circle_and_the_advice_opens_it(self) -> None:
        """A field that both events have makes the sink one of both stages."""
        both = fields_of(id=Field("id", "string", default=""))
        text = CHAIN.replace("{order: orders.id, kind: orders.kind, risk: risk.y, at: orders.at, note: orders.note}", "{id: id}")
        defaults = tuple(Field(field.name, field.kind, default="") if field.name == "order" else field for field in both)
        rest = tuple(field for field in defaults if field.name in ("id", "order"))
        whole = text.replace("{x: scored.at}", "{x: orders.amount}").replace("{order: scored.order, review: review}", "[risk.y, review]")
        found = refused(lambda: wired(whole, rest))
        assert [one for one in found if "source scored -> topic scored -> source scored" in one], found
        wiring = wired(
            whole.replace("{id: id}", "{id: orders.id}").replace("sinks:", "sinks:\n  last: {topic: last, fields: [scored.order]}"), rest
        )
        assert [stage.name for stage in wiring.stages] == ["orders", "scored"]

    def test_name_that_leads_nowhere_closes_no_circle(self) -> None:
        """Until it is corrected, nobody knows which source the sink belongs to."""
        text = CHAIN.replace("order: orders.id", "order: idd")
        (found,) = refused(lambda: wired(text))
        assert "'idd' is neither a field nor a node" in found

    def test_circle_is_found_without_schemas(self) -> None:
        text = CHAIN.replace("topic: reviews,", "topic: orders, ")
        _, problems = check(parse_text(text), {}, {"risk": MODEL, "review": MODEL}, {})
        assert ["circles" in problem.message for problem in problems] == [True]


class TestWhatTheNextStageReads:
    def test_format(self) -> None:
        text = CHAIN.replace("    schema: scored.avsc\n", "    schema: scored.avsc\n    format: avro\n")
        assert refused(lambda: wired(text)) == [
            "t.yaml:16:12: sinks.first: writes json to 'scored', and the source 'scored' on line 6 reads avro there "
            "(give both the same format)"
        ]

    @pytest.mark.parametrize(
        ("changed", "place", "expected"),
        [
            ({"risk": None}, "16:57", "fields.risk: {} has no field 'risk' (declare it in scored.avsc, or leave it out)"),
            ({"risk": Field("risk", "string")}, "16:57", "fields.risk: 'risk.y' is float32[N], {} declares a string (declare a type in"),
            ({"risk": Field("risk", "int")}, "16:57", "fields.risk: 'risk.y' is float32[N], {} declares an int"),
            ({"order": Field("order", "long")}, "16:21", "fields.order: 'orders.id' is string[N], {} declares a long"),
            (
                {"risk": Field("risk", "array", items=Field("items", "float"), size=1)},
                "16:57",
                "fields.risk: 'risk.y' is float32[N], {} declares an array of 1 float",
            ),
            ({"note": Field("note", "string")}, "16:86", "fields.note: the field 'orders.note' may be null, in {} it may not"),
            ({"at": Field("at", "timestamp", unit="us")}, "16:69", "fields.at: the field 'orders.at' counts in ms, {} declares us"),
            (
                {"kind": Field("kind", "enum", symbols=("A",))},
                "16:38",
                "fields.kind: 'orders.kind' need not be one of the symbols in {} (declare it as a string in scored.avsc, or give",
            ),
            ({"more": Field("more", "int")}, "16:13", "{} requires 'more', which the sink does not write (add more to fields, or give it"),
        ],
    )
    def test_json(self, changed: dict[str, Field | None], place: str, expected: str) -> None:
        (found,) = refused(lambda: wired(CHAIN, fields_of(**changed)))
        assert found.startswith(f"t.yaml:{place}: sinks.first"), found
        assert expected.format("the schema of the source 'scored' on line 5") in found

    def test_wider_types_are_fine(self) -> None:
        wired(CHAIN, fields_of(risk=Field("risk", "double"), at=Field("at", "long"), kind=Field("kind", "string")))

    def test_own_schema_of_the_sink_limits_an_enum(self) -> None:
        """The encoder refuses every other symbol, so none can come."""
        text = CHAIN.replace("kind: orders.kind", "kind: orders.id").replace(
            "    topic: scored\n    f", "    topic: scored\n    schema: o.avsc\n    f"
        )
        own = Schema("Own", fields_of(kind=Field("kind", "enum", symbols=("A", "C"))), path="o.avsc")
        wired(text, own=own)
        (found,) = refused(lambda: wired(text, own=Schema("Own", fields_of(kind=Field("kind", "enum", symbols=("A", "D"))), path="o.avsc")))
        assert "'orders.id' need not be one of the symbols" in found

    def test_one_schema_for_both_is_compared_once(self) -> None:
        text = CHAIN.replace("    topic: scored\n    f", "    topic: scored\n    schema: scored.avsc\n    f")
        fields = fields_of(risk=Field("risk", "string"))
        (found,) = refused(lambda: wired(text, fields, own=Schema("Scored", fields, path="scored.avsc")))
        assert "'risk.y' is float32[N], the sink's schema declares a string" in found


class TestAvro:
    """The sink has a schema of its own, and an event is read by it."""

    def text(self, form: str, schema: str = "own.avsc") -> str:
        text = CHAIN.replace("    schema: scored.avsc\n", f"    schema: scored.avsc\n    format: {form}\n")
        return text.replace("    topic: scored\n    f", f"    topic: scored\n    schema: {schema}\n    format: {form}\n    f")

    def own(self, avro: object = None, **changed: Field | None) -> Schema:
        return Schema("Own", fields_of(**changed), avro, path="own.avsc")

    def test_bare_avro_has_one_schema(self) -> None:
        wired(self.text("avro"), own=self.own({"name": "one"}), avro={"name": "one"})
        assert refused(lambda: wired(self.text("avro"), own=self.own({"name": "one"}), avro={"name": "two"})) == [
            "t.yaml:17:13: sinks.first: the schema of the source 'scored' on line 5 is scored.avsc, and bare avro does not carry own.avsc, "
            "which wrote it (give both the same schema, or use avro-confluent)"
        ]

    @pytest.mark.parametrize(
        ("changed", "read", "expected"),
        [
            ({"later": None}, {}, ""),
            ({"risk": Field("risk", "float")}, {"risk": Field("risk", "double")}, ""),
            ({}, {"more": Field("more", "int")}, "requires 'more', which own.avsc does not have (give it a default in scored.avsc)"),
            ({}, {"risk": Field("risk", "string")}, "reads 'risk' as a string, in own.avsc it is a float (keep to Avro's promotions)"),
            ({}, {"note": Field("note", "string")}, "reads 'note' as a string, in own.avsc it is a string that may be null"),
        ],
    )
    def test_confluent_resolves(self, changed: dict[str, Field | None], read: dict[str, Field | None], expected: str) -> None:
        def call() -> Wiring:
            return wired(self.text("avro-confluent"), fields_of(**read), own=self.own(**changed))

        if not expected:
            call()
            return
        (found,) = refused(call)
        assert expected in found
        assert "the schema of the source 'scored' on line 5" in found

    def test_ids_of_another_folder_would_not_be_found(self) -> None:
        (found,) = refused(lambda: wired(self.text("avro-confluent", "out/own.avsc"), own=self.own()))
        assert (
            "finds the schemas of its writers in ids, and the id of out/own.avsc is from out/ids (put both schemas into one folder)"
            in found
        )


def test_own_schema_of_a_sink_has_the_unit_of_the_field() -> None:
    """Without a chain too: milliseconds that are written into microseconds are a thousand times too early."""
    own = Schema("Own", fields_of(at=Field("at", "timestamp", unit="us")), path="own.avsc")
    text = CHAIN.replace("    topic: scored\n    f", "    topic: other\n    schema: own.avsc\n    f")
    (found,) = refused(lambda: wired(text, own=own))
    assert "the field 'orders.at' counts in ms, the sink's schema declares us (declare the same unit in own.avsc)" in found


def test_drawings_show_the_way_through_the_topic() -> None:
    topology = parse_text(CHAIN)
    assert (
        draw.text(topology, wired(CHAIN))
        == """\
t
●            source  orders   orders (json, order.avsc)
├─●          model   risk     risk@1
╰─┴─●        sink    first    scored (json): order, kind, risk, at, note
    ╰─●      source  scored   scored (json, scored.avsc)
      ├─●    model   review   review@1
      ╰─┴─●  sink    reviews  reviews (json): order, review
"""
    )
    assert "    sink_2 --> source_3\n" in draw.mermaid(topology)
