"""Names are resolved and types held against their readers, for each source on its own."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from penstock.errors import TopologyError
from penstock.schema import Column, Field, Missing, Schema
from penstock.signature import Signature, Tensor
from penstock.topology.check import check, wire
from penstock.topology.parse import parse_text
from penstock.topology.wiring import Feed, OutputField, Part, Wiring

Problems = Callable[..., list[str]]
FLOAT = Tensor("x", "float32", (1,))


def wired(text: str, schemas: dict[str, Schema], signatures: dict[str, Signature], sinks: dict[str, Schema] | None = None) -> Wiring:
    return wire(parse_text(text, "t.yaml"), schemas, signatures, sinks)


def test_columns_steps_and_emits(text: str, schemas: dict[str, Schema], signatures: dict[str, Signature]) -> None:
    """One look at everything that the engine is given."""
    (stage,) = wired(text, schemas, signatures).stages
    assert stage.inputs[0].columns == (
        Column("carrier", "carrier", "string"),
        Column("dep_delay", "dep_delay", "float32", (), Missing("fill", 0)),
        Column("month", "month", "int64"),
        Column("day", "day", "int64"),
        Column("embedding", "embedding", "float32", (4,)),
        Column("flight_id", "flight_id", "string"),
        Column("dep_delay:float64", "dep_delay", "float64", (), Missing("fill", None)),
    )
    assert [step.node.name for step in stage.steps] == ["features", "logistic", "trees", "stack"]
    features, logistic, trees, stack = stage.steps
    assert features.feeds == (
        Feed(Tensor("carrier", "string", (1,)), (Part("carrier"),)),
        Feed(Tensor("delay", "float32", (1,)), (Part("dep_delay"),)),
        Feed(Tensor("date", "int64", (2,)), (Part("month"), Part("day")), stacked=True),
        Feed(Tensor("embedding", "float32", (4,)), (Part("embedding"),)),
    )
    assert logistic.feeds == (Feed(Tensor("X", "float32", (12,)), (Part("features.variable"),)),)
    assert trees.feeds == (Feed(Tensor("variable", "float32", (12,)), (Part("features.variable"),)),)
    assert [tensor.name for tensor in logistic.outputs] == ["probabilities"], "the label is read by nobody, so it is not asked for"
    parts = (Part("logistic.probabilities", 1), Part("trees.probabilities", 1))
    assert stack.feeds == (Feed(Tensor("p", "float32", (2,)), parts, stacked=True),)
    (emit,) = stage.emits
    assert emit.key == Part("flight_id")
    assert emit.fields == (
        OutputField("flight_id", Part("flight_id"), "string"),
        OutputField("delay", Part("dep_delay:float64"), "float64"),
        OutputField("score", Part("stack.score", 0), "float32"),
        OutputField("trees", Part("trees.probabilities", 1), "float32"),
    )


def test_steps_follow_what_they_read_whatever_the_file_says(
    text: str, schemas: dict[str, Schema], signatures: dict[str, Signature]
) -> None:
    lines = text.splitlines(keepends=True)
    nodes = lines.index("nodes:\n")
    stack = next(i for i, line in enumerate(lines) if line.startswith("  stack"))
    moved = [*lines[: nodes + 1], lines[stack], *lines[nodes + 1 : stack], *lines[stack + 1 :]]
    (stage,) = wired("".join(moved), schemas, signatures).stages
    assert [step.node.name for step in stage.steps] == ["features", "logistic", "trees", "stack"]


def test_problem_with_id_or_time_is_told_where_its_value_stands(problems: Problems) -> None:
    found = problems("id: flight_id\n    t", "id: fligt_id\n    t", "time: departed_at", "time: carrier")
    assert [line.split(": ")[0] for line in found] == ["t.yaml:6:9", "t.yaml:7:11"]


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("carier", "which a model reads, has no field 'carier' (did you mean 'carrier'?)"),
        ("dep_delay", "which a model reads, has the field 'dep_delay' of kind double (a unit is a string or a whole number)"),
    ],
)
def test_unit_of_trials_is_a_field_that_names_something(problems: Problems, unit: str, expected: str) -> None:
    found = problems("sinks:", f"releases: {{unit: {unit}}}\nsinks:")
    assert found == [f"t.yaml:18:18: releases.unit: the source 'departures', {expected}"]
    assert problems("sinks:", "releases: {unit: carrier}\nsinks:") == []


def test_unit_of_trials_is_asked_of_sources_with_a_model_behind_them_only() -> None:
    text = (
        "topology: t\nsources: {a: {topic: a, schema: a.avsc}, b: {topic: b, schema: b.avsc}}\n"
        "nodes: {n: {kind: model, model: m@1, inputs: {x: a.x}}}\n"
        "sinks: {p: {topic: p, fields: [n]}, q: {topic: q, fields: [b.y]}}\nreleases: {unit: user}\n"
    )
    fields = (Field("x", "double"), Field("user", "string"))
    one = {"n": Signature((Tensor("x", "float32", (1,)),), (Tensor("z", "float32", (1,)),))}
    without = Schema("B", (Field("y", "double"),))
    wiring, found = check(parse_text(text), {"a": Schema("A", fields), "b": without}, one, {})
    assert found == []
    assert [[one.unit for one in stage.inputs] for stage in wiring.stages] == [["user"], [None]]
    _, (problem,) = check(parse_text(text), {"a": Schema("A", fields[:1]), "b": without}, one, {})
    assert problem.message == "releases.unit: the source 'a', which a model reads, has no field 'user'"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("X: features}", "X: feature}", "'feature' is neither a field nor a node (did you mean 'features'?)"),
        ("X: features}", "X: features.variabel}", "the node 'features' has no output 'variabel' (did you mean 'variable'?)"),
        ("X: features}", "X: featurs.variable}", "'featurs.variable': there is no source or node 'featurs' (did you mean 'features'?)"),
        ("[month, day]", "[month, day]\n      Y: month", "flight-features@1 has no input tensor 'Y' (known: carrier, embedding)"),
        ("[month, day]", "[month, departures]", "'departures' is a source, not a field"),
        ("[month, day]", "[month, departures.dya]", "the source 'departures' has no field 'dya' (did you mean 'day'?)"),
        ("[month, day]", "[month, carrier]", "the tensor is `date: int64[N, 2]`, the field 'carrier' is an enum"),
        ("[month, day]", "[month, raw]", "the field 'raw' is a bytes (declare the field with a type that a tensor can hold)"),
        ("[month, day]", "[month, dep_delay]", "the field 'dep_delay' is a double (int64 takes boolean, int, long"),
        ("[month, day]", "[month, day, month]", "it gets month as int64[N], day as int64[N], month as int64[N], together int64[N, 3]"),
        ("[month, day]", "month", "it gets month as int64[N] (stack 2 fields: date: [A, B, ...])"),
        ("{field: dep_delay, missing: 0}", "dep_delay", "the field 'dep_delay' may be null, and a tensor cannot"),
        ("missing: 0", "missing: none", "missing: 'none' is not of type float32, and the field 'dep_delay' is a double"),
        ("missing: 0", "missing: true", "missing: True is not of type float32"),
        ("missing: 0", "missing: 1e39", "missing: 1e+39 is not of type float32"),
        ("missing: 0", "missing: .inf", "missing: inf is not of type float32"),
        ("{field: dep_delay, missing: 0}", "embedding", "it gets embedding as float32[N, 4]"),
        ("{field: dep_delay, missing: 0}", "'embedding[4]'", "'embedding[4]' is out of range, the last axis has 4 (from 0 to 3)"),
        ("{field: dep_delay, missing: 0}", "'month[0]'", "'month[0]' picks an element of a scalar (write month)"),
        ("{field: dep_delay, missing: 0}", "[track]", "the array field 'track' has no fixed size, and nothing here gives it one"),
        ("inputs: {X: features}", "inputs: {X: {field: features, missing: 0}}", "missing is for fields, outputs of nodes are never null"),
        ("X: features}", "X: logistic.label}", "a cycle: logistic -> logistic"),
        ("X: features}", "X: stack}", "a cycle: stack -> logistic -> stack"),
        ("X: features}", "X: trees}", "the node 'trees' has 2 outputs (write 'trees.label' or 'trees.probabilities')"),
        ("X: features}", "X: trees.label}", "the tensor is `X: float32[N, ?]`, 'trees.label' gives `label: int64[N]`"),
        (
            "id: flight_id\n    t",
            "id: fligt_id\n    t",
            "sources.departures.id: flight.avsc has no field 'fligt_id' (did you mean 'flight_id'?)",
        ),
        ("id: flight_id\n    t", "id: dep_delay\n    t", "sources.departures.id: the field 'dep_delay' is of kind double"),
        ("time: departed_at", "time: carrier", "the field 'carrier' is of kind enum (an event time is a timestamp, or a long in ms)"),
        ("key: flight_id", "key: stack", "'stack' is float32[N, 1], a key must be text or a whole number"),
        ("key: flight_id", "key: raw", "a key must be text or a whole number"),
        ("delay: dep_delay,", "delay: raw,", "the field 'raw' is a bytes, which cannot be written"),
        ("delay: dep_delay,", "delay: track,", "the array field 'track' has no fixed size"),
        ("delay: dep_delay,", "delay: history,", "the array field 'history' may be null, and a row of an array column cannot"),
        (
            "score: stack",
            "score: departures_at",
            "'departures_at' is neither a field nor a node (did you mean 'departed_at'?)",
        ),
        ("score: stack", "score: stak", "sinks.predictions.fields.score: 'stak' is neither a field nor a node (did you mean 'stack'?)"),
    ],
)
def test_what_does_not_fit(problems: Problems, old: str, new: str, expected: str) -> None:
    found = problems(old, new)
    assert len(found) == 1, found
    assert expected in found[0]


def test_problems_of_all_kinds_come_together(problems: Problems) -> None:
    """A mistyped field, a type clash and a null: found in one go, in the file's order."""
    found = problems(
        "[month, day]", "[mnth, day]", "{field: dep_delay, missing: 0}", "dep_delay", "score: stack", "score: 'trees.label[0]'"
    )
    assert [line.split(": ")[0] for line in found] == ["t.yaml:13:14", "t.yaml:14:14", "t.yaml:22:61"]


def test_node_that_no_sink_reads(problems: Problems) -> None:
    found = problems("score: stack, ", "")
    assert found == [
        "t.yaml:15:3: nodes.logistic: no sink reads it, directly or through other nodes (read it, or remove it)",
        "t.yaml:17:3: nodes.stack: no sink reads it, directly or through other nodes (read it, or remove it)",
    ]


def test_cycle_is_printed_the_way_the_data_would_flow(schemas: dict[str, Schema], signatures: dict[str, Signature]) -> None:
    one = Signature((FLOAT,), (Tensor("y", "float32", (1,)),))
    text = """\
topology: t
sources: {departures: {topic: a, schema: flight.avsc}}
nodes:
  a: {kind: model, model: m@1, inputs: {x: c}}
  b: {kind: model, model: m@1, inputs: {x: a}}
  c: {kind: model, model: m@1, inputs: {x: b}}
  d: {kind: model, model: m@1, inputs: {x: c}}
sinks: {p: {topic: b, fields: [d]}}
"""
    with pytest.raises(TopologyError, match="a cycle: b -> c -> a -> b") as caught:
        wired(text, schemas, dict.fromkeys("abcd", one))
    assert len(caught.value.problems) == 1


class TestDefaults:
    """Tensors without an entry."""

    TEXT = """\
topology: t
sources: {s: {topic: a, schema: a.avsc}}
nodes:
  first: {kind: feature, model: f@1, inputs: {x: number}}
  second: {kind: model, model: m@1}
sinks: {p: {topic: b, fields: [second]}}
"""

    def wire(self, output: str, tensor: str) -> Part:
        first = Signature((FLOAT,), (Tensor(output, "float32", (1,)),))
        second = Signature((Tensor(tensor, "float32", (1,)),), (Tensor("y", "float32", (1,)),))
        schema = Schema("A", (Field("number", "float"), Field("t", "float")))
        (stage,) = wired(self.TEXT, {"s": schema}, {"first": first, "second": second}).stages
        return stage.steps[-1].feeds[0].parts[0]

    @pytest.mark.parametrize(("tensor", "column"), [("variable", "first.variable"), ("first", "first.variable")])
    def test_output_or_node_of_that_name(self, tensor: str, column: str) -> None:
        assert self.wire("variable", tensor) == Part(column)

    def test_several_things_of_that_name_are_asked_about(self) -> None:
        with pytest.raises(
            TopologyError, match=r"several things have the name of the input tensor `t: float32\[N, 1\]`: t, first.t \(name one"
        ):
            self.wire("t", "t")

    def test_nothing_of_that_name(self) -> None:
        with pytest.raises(TopologyError, match=r"nothing feeds the input tensor `w: float32\[N, 1\]`"):
            self.wire("variable", "w")

    @pytest.mark.parametrize(
        ("records", "certain", "expected"),
        [
            (
                {"after": ["amount", "age"]},
                (),
                "nodes.second: nothing feeds the input tensors `amount: float32[N, 1]`, `age: int64[N, 1]`, `w: float32[N, 1]`, "
                "and no field or output has their names "
                "(add inputs: {amount: after.amount, age: after.age, w: FIELD or NODE.OUTPUT}, "
                "or parameters: {TENSOR: VALUE} for a constant)",
            ),
            (
                {"before": ["age"], "after": ["amount", "age"], "source": ["w"]},
                (),
                "(add inputs: {amount: after.amount, age: after.age, w: source.w}, or the fields of before, or",
            ),
            ({"before": ["amount", "age", "w"], "after": ["amount", "age", "w"]}, ("after",), "age: after.age, w: after.w}, or parameters"),
        ],
    )
    def test_fields_inside_records_are_proposed_in_one_problem(
        self, records: dict[str, list[str]], certain: tuple[str, ...], expected: str
    ) -> None:
        inside = {name: tuple(Field(one, "float") for one in fields) for name, fields in records.items()}
        fields = tuple(Field(name, "record", fields=one) for name, one in inside.items())
        schema = Schema("A", (Field("number", "float"), *fields), certain=frozenset(certain))
        first = Signature((FLOAT,), (Tensor("variable", "float32", (1,)),))
        tensors = (Tensor("amount", "float32", (1,)), Tensor("age", "int64", (1,)), Tensor("w", "float32", (1,)))
        second = Signature(tensors, (Tensor("y", "float32", (1,)),))
        with pytest.raises(TopologyError) as caught:
            wired(self.TEXT, {"s": schema}, {"first": first, "second": second})
        (problem,) = caught.value.problems
        assert expected in str(problem)

    def test_name_of_a_field_inside_a_record_is_a_path_away(self) -> None:
        schema = Schema("A", (Field("number", "float"), Field("after", "record", fields=(Field("id", "long"),))))
        first = Signature((FLOAT,), (Tensor("variable", "float32", (1,)),))
        text = self.TEXT.replace("fields: [second]", "fields: [second, id]")
        with pytest.raises(TopologyError, match=r"fields.id: 'id' is neither a field nor a node \(did you mean 'after.id'\?\)"):
            wired(text, {"s": schema}, {"first": first, "second": Signature((Tensor("variable", "float32", (1,)),), (FLOAT,))})

    def test_own_output_is_not_a_default(self) -> None:
        """A model `y -> y` is fed by the field y or by another node, never by itself."""
        with pytest.raises(TopologyError, match="nothing feeds the input tensor `y"):
            self.wire("variable", "y")


def test_name_of_both_a_node_and_a_field(schemas: dict[str, Schema]) -> None:
    text = """\
topology: t
sources: {departures: {topic: a, schema: flight.avsc}}
nodes: {month: {kind: model, model: m@1, inputs: {x: departures.month}}}
sinks: {p: {topic: b, fields: {m: month}}}
"""
    one = {"month": Signature((FLOAT,), (Tensor("y", "float32", (1,)),))}
    with pytest.raises(
        TopologyError,
        match=r"'month' is both a node and a field \(write departures.month for the field or month.y for the node,",
    ):
        wired(text, schemas, one)


class TestTypes:
    """What one field may feed."""

    def column(self, field: Field, tensor: Tensor, entry: str = "f") -> Column:
        text = f"""\
topology: t
sources: {{s: {{topic: a, schema: a.avsc}}}}
nodes: {{n: {{kind: model, model: m@1, inputs: {{x: {entry}}}}}}}
sinks: {{p: {{topic: b, fields: [n]}}}}
"""
        signature = Signature((tensor,), (Tensor("y", "float32", (1,)),))
        (stage,) = wired(text, {"s": Schema("A", (field,), path="a.avsc")}, {"n": signature}).stages
        return stage.inputs[0].columns[0]

    @pytest.mark.parametrize("shape", [(), (1,), (None,), (1, 1)])
    def test_scalar_feeds_one_column(self, shape: tuple[int | None, ...]) -> None:
        assert self.column(Field("f", "int"), Tensor("x", "float32", shape)) == Column("f", "f", "float32")

    def test_schema_default_stands_for_null(self) -> None:
        assert self.column(Field("f", "int", optional=True, default=7), FLOAT).missing == Missing("fill", 7)

    def test_rule_comes_before_the_schema_default(self) -> None:
        assert self.column(Field("f", "int", optional=True, default=7), FLOAT, "{field: f, missing: reject}").missing == Missing()

    def test_rule_of_a_field_that_is_never_null_changes_nothing(self) -> None:
        assert self.column(Field("f", "double"), FLOAT, "{field: f, missing: 3}").missing == Missing()

    def test_nan_rule_lets_nan_into_a_field_that_is_never_null(self) -> None:
        assert math.isnan(self.column(Field("f", "double"), FLOAT, "{field: f, missing: nan}").missing.value)

    def test_array_gets_its_open_size_from_the_tensor(self) -> None:
        field = Field("f", "array", items=Field("items", "double"))
        assert self.column(field, Tensor("x", "float64", (3,))).shape == (3,)

    def test_array_gives_its_size_to_an_open_tensor(self) -> None:
        field = Field("f", "array", items=Field("items", "double"), size=3)
        assert self.column(field, Tensor("x", "float64", (None,))).shape == (3,)

    def test_array_open_on_both_sides_stays_open(self) -> None:
        field = Field("f", "array", items=Field("items", "double"))
        assert self.column(field, Tensor("x", "float64", (None,))).shape == (None,)

    def test_array_that_is_open_inside(self) -> None:
        field = Field("f", "array", items=Field("items", "array", items=Field("items", "double")))
        with pytest.raises(TopologyError, match=r'no fixed size.*add "size": N beside "items" of f in a.avsc'):
            self.column(field, Tensor("x", "float64", (None, None)))

    def test_array_of_arrays(self) -> None:
        row = Field("items", "array", items=Field("items", "int"), size=2)
        field = Field("f", "array", items=row, size=3)
        assert self.column(field, Tensor("x", "int32", (3, 2))).shape == (3, 2)
        with pytest.raises(TopologyError, match=r"it gets f as int32\[N, 3, 2\]"):
            self.column(field, Tensor("x", "int32", (2, 3)))


SEVERAL = """\
topology: t
sources:
  air: {topic: a, schema: a.avsc}
  sea: {topic: b, schema: b.avsc}
nodes:
  common: {kind: model, model: m@1, inputs: {x: shared}}
  wind: {kind: model, model: m@1, inputs: {x: air.speed}}
  both: {kind: ensemble, model: e@1, inputs: {a: common, b: wind}}
sinks:
  all: {topic: c, fields: {score: common}}
  airs: {topic: d, fields: {score: both}}
"""
AIR = Schema("A", (Field("shared", "float"), Field("speed", "float")))
SEA = Schema("B", (Field("shared", "double"), Field("speed", "float")))
M = Signature((FLOAT,), (Tensor("y", "float32", (1,)),))
E = Signature((Tensor("a", "float32", (1,)), Tensor("b", "float32", (1,))), (Tensor("y", "float32", (1,)),))


class TestSeveralSources:
    """One graph, a stage for each source."""

    def wire(self, text: str, sea: Schema = SEA) -> Wiring:
        return wired(text, {"air": AIR, "sea": sea}, {"common": M, "wind": M, "both": E})

    def test_each_stage_has_what_its_source_can_feed(self) -> None:
        air, sea = self.wire(SEVERAL).stages
        assert [step.node.name for step in air.steps] == ["common", "wind", "both"]
        assert [emit.sink.name for emit in air.emits] == ["all", "airs"]
        assert [step.node.name for step in sea.steps] == ["common"]
        assert [emit.sink.name for emit in sea.emits] == ["all"]
        assert [column.name for column in sea.inputs[0].columns] == ["shared"]

    def test_node_that_needs_two_sources(self) -> None:
        with pytest.raises(TopologyError) as caught:
            self.wire(SEVERAL.replace("{x: shared}", "{x: sea.shared}"))
        assert [str(problem) for problem in caught.value.problems] == [
            "t.yaml:8:3: nodes.both: no single source feeds it: air lacks common; sea lacks wind"
            " (an event has one source: read only what one source has, or match two of them: sources: {NAME: {match: ...}})"
        ]

    def test_sink_that_needs_two_sources(self) -> None:
        with pytest.raises(TopologyError, match=r"sinks.all: no single source feeds it: air lacks sea.shared; sea lacks wind"):
            self.wire(SEVERAL.replace("fields: {score: common}", "fields: {score: wind, s: sea.shared}"))

    def test_source_that_reaches_no_sink(self) -> None:
        with pytest.raises(TopologyError, match=r"sources.sea: its events reach no sink"):
            self.wire(SEVERAL, Schema("B", (Field("other", "int"),)))

    def test_type_clash_of_one_source_only(self) -> None:
        with pytest.raises(TopologyError, match="the field 'shared' is a string") as caught:
            self.wire(SEVERAL, Schema("B", (Field("shared", "string"),)))
        assert len(caught.value.problems) == 1

    def test_clash_of_every_source_is_said_once(self) -> None:
        with pytest.raises(TopologyError) as caught:
            self.wire(SEVERAL.replace("{score: common}", "{score: 'common[3]'}"))
        assert len(caught.value.problems) == 1


class TestSinkSchemas:
    """What is written has to fit the sink's own schema."""

    FIELDS = (
        Field("flight_id", "string"),
        Field("delay", "double", optional=True),
        Field("score", "float"),
        Field("trees", "double"),
        Field("note", "string", default=""),
    )

    def find(self, problems: Problems, **changed: Field | None) -> list[str]:
        fields = {field.name: field for field in self.FIELDS}
        declared = [field for field in {**fields, **changed}.values() if field is not None]
        return problems(
            "    key:", "    schema: out.avsc\n    key:", sink_schemas={"predictions": Schema("Out", tuple(declared), path="out.avsc")}
        )

    def test_fitting(self, problems: Problems) -> None:
        assert self.find(problems) == []

    @pytest.mark.parametrize(
        ("changed", "expected"),
        [
            ({"delay": Field("delay", "double")}, "the field 'dep_delay' may be null, in the sink's schema it may not"),
            ({"score": Field("score", "string")}, "'stack' is float32[N], the sink's schema declares a string"),
            ({"score": Field("score", "int")}, "'stack' is float32[N], the sink's schema declares an int"),
            ({"score": None}, "the sink's schema has no field 'score'"),
            ({"more": Field("more", "int")}, "the schema out.avsc requires 'more', which the sink does not write"),
            ({"trees": Field("trees", "array", items=Field("items", "float"))}, "the sink's schema declares an array of ? float"),
        ],
    )
    def test_clashes(self, problems: Problems, changed: dict[str, Field | None], expected: str) -> None:
        found = self.find(problems, **changed)
        assert len(found) == 1, found
        assert expected in found[0]

    def test_array_in_the_schema_keeps_the_axis(self, text: str, schemas: dict[str, Schema], signatures: dict[str, Signature]) -> None:
        """`[N, 1]` is a number for a scalar field, and a list of one for an array."""
        listed = Schema("Out", (Field("score", "array", items=Field("items", "float")),))
        start = text.index("    key:")
        (stage,) = wired(
            text[:start] + "    schema: out.avsc\n    fields: {score: stack}\n", schemas, signatures, {"predictions": listed}
        ).stages
        assert stage.emits[0].fields == (OutputField("score", Part("stack.score"), "float32", (1,)),)


def test_key_of_an_optional_field_refuses_null(text: str, schemas: dict[str, Schema], signatures: dict[str, Signature]) -> None:
    """A record without its key would land in any partition, out of order."""
    (stage,) = wired(text.replace("key: flight_id", "key: seats"), schemas, signatures).stages
    assert Column("seats", "seats", "int32", (), Missing("reject")) in stage.inputs[0].columns


def test_what_was_not_given_is_a_problem_of_wire(text: str) -> None:
    with pytest.raises(TopologyError, match=r"sources.departures: its schema was not given") as caught:
        wire(parse_text(text), {}, {})
    assert len(caught.value.problems) == 5


def test_what_is_not_known_is_passed_over_by_check(text: str, schemas: dict[str, Schema], signatures: dict[str, Signature]) -> None:
    """Whoever could not load it has reported it; a dozen problems that follow from it would hide that one."""
    topology = parse_text(text)
    assert check(topology, {}, signatures, {})[1] == []
    for name in signatures:
        assert check(topology, schemas, {key: value for key, value in signatures.items() if key != name}, {})[1] == []
