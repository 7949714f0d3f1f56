"""A topology that is cut gives what it gives in one process, wherever it is cut: the same bytes, and the same failures."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from penstock import runtime
from penstock.errors import ModelMismatch, TopologyError
from penstock.pipeline import Answered, Answers, Chunk, Pipeline
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.runtime import Loaded
from penstock.testing.models import identity, linear
from penstock.topology.parse import parse, parse_text
from penstock.topology.spec import Materialize
from penstock.topology.stages import cut
from penstock.transports.memory import Memory, MemorySink

ROOT = Path(__file__).parents[2]
TOPOLOGIES = ("flights", "flights-cascade", "flights-desk")
ROWS = 60


@cache
def events() -> list[Record]:
    """Real events, and some with nulls, with numbers out of range, or that are no event at all."""
    with gzip.open(ROOT / "examples/flights/sample/departures.ndjson.gz", "rt") as lines:
        flights = [json.loads(line) for line, _ in zip(lines, range(ROWS), strict=False)]
    for at, change in enumerate(({"dep_delay": None}, {"dep_delay": 3e38}, {"carrier": "é\u2028"}, {"carrier": None}, {"hour": 1 << 40})):
        flights[3 * at] |= change
    values = [json.dumps(one).encode() for one in flights]
    return [Record("flights.departures", value, None, ()) for value in [*values, b"", b"{}", b"\xff"]]


def subsets() -> Iterator[tuple[str, tuple[str, ...]]]:
    for name in TOPOLOGIES:
        nodes = [node.name for node in parse(ROOT / f"topologies/{name}.yaml").nodes if not node.name.endswith("?")]
        for count in range(1, len(nodes) + 1):
            yield from ((name, chosen) for chosen in itertools.combinations(nodes, count))


def loaded(name: str, materialised: tuple[str, ...]) -> Loaded:
    topology = parse(ROOT / f"topologies/{name}.yaml")
    nodes = [replace(node, materialize=Materialize()) for node in topology.nodes if node.name in materialised]
    return runtime.load(topology.with_nodes(nodes), models=ROOT / "models", schemas=ROOT / "schemas")


@cache
def fused(name: str) -> Answered:
    program = runtime.prepare(loaded(name, ()))
    return Answers(program, "departures").run(events())


@pytest.mark.parametrize(("name", "materialised"), [*subsets()])
def test_where_it_is_cut_changes_nothing(name: str, materialised: tuple[str, ...]) -> None:
    if {"logistic", "trees"} <= {*materialised} and name != "flights-cascade":
        with pytest.raises(TopologyError, match="come from different stages"):
            loaded(name, materialised)
        return
    same(staged(loaded(name, materialised), events()), fused(name))


def staged(whole: Loaded, records: Sequence[Record]) -> list[Answered]:
    """What comes of the records in the stages that they enter, and in those behind them."""
    shares, found = runtime.shares(whole, "app"), cut(whole.wiring, "app")
    assert [*shares] == [*found.processes]
    program = runtime.prepare(replace(whole, wiring=found.wiring, share=next(iter(shares.values())).share))
    first = [stage.name for stage in found.wiring.stages if not stage.inputs[0].behind]
    return [Answers(program, one).run(records) for one in first]


def same(answered: Sequence[Answered], expected: Answered) -> None:
    answers = {sink: answer for one in answered for sink, answer in one.answers.items()}
    for sink, answer in expected.answers.items():
        assert answers[sink].values == answer.values
        assert [*answers[sink].rows] == [*answer.rows]
    assert {one.row for each in answered for one in each.failures} == {one.row for one in expected.failures}


def test_a_record_of_other_types_is_a_dead_letter() -> None:
    """Of a stage that was started with versions whose outputs have other types, and of programs that are no stage."""
    shares = runtime.shares(loaded("flights", ("features",)), "app")
    first, second = (runtime.prepare(share) for share in shares.values())
    sink = MemorySink(Memory(1))
    (parcel,) = Pipeline(first, "features", sink=sink).process(Chunk(events()[6:9], (("flights.departures", 0, 3),)))
    came = [Record("app.features", value, key, headers) for _, key, value, headers in parcel.records]
    came[1] = Record("app.features", came[1].value, None, [("penstock-schema", b"0")])
    came[2] = Record("app.features", came[2].value)
    answers, letters = Pipeline(second, "predictions", sink=sink).process(Chunk(came, (("app.features", 0, 3),)))
    assert (len(answers), answers.dead, len(letters), letters.dead) == (1, False, 2, True)
    assert [dict(headers)["__streams.errors.message"] for headers in letters.extra or ()] == [
        b"the stage before has written it with other fields than are read here: of another file, or of versions with other types",
        b"no stage of this topology has written it",
    ]


FIELDS = {
    "id": "string",
    "x": "double",
    "xs": {"type": "array", "items": "float"},
    "words": {"type": "array", "items": "string", "size": 2},
    "n": ["null", "int"],
    "text": ["null", "string"],
    "at": {"type": "long", "logicalType": "timestamp-millis"},
}
TOPOLOGY = """
topology: kinds
sources: {{events: {{topic: events, schema: event.avsc, id: id}}}}
nodes:
  double: {{kind: model, model: double@1, inputs: {{x: {{field: x, missing: nan}}}}{}}}
  rule: {{kind: rule, outputs: {{s: "sum(xs) + double", m: "coalesce(n, 5)", big: "double > 4"}}}}
sinks:
  outputs: {{topic: outputs, fields: {{id: id, y: double, s: rule.s, m: rule.m, big: rule.big, n: n, text: text, w: words, at: at}}}}
"""


def test_fields_of_every_kind_are_passed_on(tmp_path: Path) -> None:
    """Nulls stay null, arrays of any length keep it, and a node may have the name of a type of Avro."""
    (tmp_path / "schemas").mkdir()
    fields = [{"name": name, "type": kind} for name, kind in FIELDS.items()]
    (tmp_path / "schemas/event.avsc").write_text(json.dumps({"type": "record", "name": "Event", "fields": fields}))
    DirectoryRegistry(tmp_path / "models").publish("double", linear([2.0]), version="1")
    whole, cut_up = (
        runtime.load(parse_text(TOPOLOGY.format(materialise)), models=tmp_path / "models", schemas=tmp_path / "schemas")
        for materialise in ("", ", materialize: true")
    )
    rows = [
        {"id": str(at), "x": at / 2, "xs": [1.5] * (1 + at % 3), "words": ["", "é\u2028"], "n": n, "text": text, "at": -at}
        for at, (n, text) in enumerate(itertools.product((None, 0, -(1 << 31)), (None, "", "z")))
    ]
    records = [Record("events", json.dumps(one).encode(), None, ()) for one in rows]
    expected = Answers(runtime.prepare(whole), "events").run(records)
    assert len(expected.answers["outputs"].values) == len(rows)
    same(staged(cut_up, records), expected)
    for at in range(len(records)):  # alone, rows are read by another way than many
        same(staged(cut_up, records[at : at + 1]), Answers(runtime.prepare(whole), "events").run(records[at : at + 1]))


def test_a_release_changes_no_types_between_stages(tmp_path: Path) -> None:
    """Records that are under way would be read wrongly. Another version with the same types is taken, whatever its output is called."""
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas/event.avsc").write_text(json.dumps({"type": "record", "name": "E", "fields": [{"name": "x", "type": "double"}]}))
    registry = DirectoryRegistry(tmp_path / "models")
    registry.publish("double", linear([2.0]), version="1")
    registry.publish("double", linear([3.0], y="z"), version="2")
    registry.publish("double", identity("float64"), version="3")
    text = """
topology: t
sources: {events: {topic: events, schema: event.avsc}}
nodes: {double: {kind: model, model: double@1, inputs: {x: x}, materialize: true}}
sinks: {outputs: {topic: outputs, fields: {y: double}}}
"""
    whole = runtime.load(parse_text(text), models=tmp_path / "models", schemas=tmp_path / "schemas")
    for share in runtime.shares(whole, "app").values():
        again = runtime.rebind(share, {"double": registry.resolve("double", "2")}, {})
        assert again.share is not None
        assert again.share.process == (share.share and share.share.process)
        with pytest.raises(ModelMismatch, match=r"the topic app\.double holds what the live versions write and read"):
            runtime.rebind(share, {"double": registry.resolve("double", "3")}, {})


def marks(folder: Path, text: str) -> dict[str, bytes]:
    (share, *_) = runtime.shares(runtime.load(parse_text(text), models=folder / "models", schemas=folder / "schemas"), "app").values()
    assert share.share is not None
    return dict(share.share.marks)


def test_fields_of_the_same_types_are_told_apart(tmp_path: Path) -> None:
    """A file that reads others, or in another order, would read the numbers of one field as those of another."""
    (tmp_path / "schemas").mkdir()
    fields = [{"name": name, "type": "double"} for name in "xz"]
    (tmp_path / "schemas/event.avsc").write_text(json.dumps({"type": "record", "name": "E", "fields": fields}))
    registry = DirectoryRegistry(tmp_path / "models")
    registry.publish("double", linear([2.0]), version="1")
    registry.publish("last", linear([2.0]), version="1")
    registry.publish("last", linear([2.0], x="z"), version="2")
    text = """
topology: t
sources: {events: {topic: events, schema: event.avsc}}
nodes:
  double: {kind: model, model: double@1, inputs: {x: x}, materialize: true}
  last: {kind: model, model: last@1}
sinks: {outputs: {topic: outputs, fields: {y: double, x: x, z: z, l: last}}}
"""
    written = marks(tmp_path, text)
    assert marks(tmp_path, text.replace("x: x, z: z", "x: z, z: x")) != written
    assert marks(tmp_path, text.replace("x: x, z: z", "o: x, p: z")) == written, "what a sink calls a field is not in the topic"
    less = text.replace("x: x, z: z, ", "")
    assert marks(tmp_path, less) != marks(tmp_path, less.replace("last@1", "last@2"))
    whole = runtime.load(parse_text(less), models=tmp_path / "models", schemas=tmp_path / "schemas")
    for share in runtime.shares(whole, "app").values():
        bound = {"double": registry.resolve("double", "1"), "last": registry.resolve("last", "2")}
        with pytest.raises(ModelMismatch, match="its fields would change"):
            runtime.rebind(share, bound, {})


@pytest.mark.parametrize("topic", ["app.t.first", "app.t.first.dead-letter", "app.t.control"])
def test_a_topic_with_a_default_name_carries_one_thing(tmp_path: Path, topic: str) -> None:
    """Only where it runs is known how the topics are called that the file does not name."""
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas/event.avsc").write_text(json.dumps({"type": "record", "name": "E", "fields": [{"name": "x", "type": "double"}]}))
    DirectoryRegistry(tmp_path / "models").publish("double", linear([2.0]), version="1")
    text = f"""
topology: t
sources: {{events: {{topic: events, schema: event.avsc}}}}
nodes:
  first: {{kind: model, model: double@1, materialize: true}}
  second: {{kind: model, model: double@1, inputs: {{x: first}}, materialize: {{topic: {topic}}}}}
sinks: {{outputs: {{topic: outputs, fields: {{y: second}}}}}}
"""
    whole = runtime.load(parse_text(text), models=tmp_path / "models", schemas=tmp_path / "schemas")
    runtime.shares(whole, "other.t")
    with pytest.raises(TopologyError, match=rf"nodes\.second\.materialize: the topic '{topic}' is"):
        runtime.shares(whole, "app.t")
