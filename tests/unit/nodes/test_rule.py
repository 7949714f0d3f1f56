"""A rule in a plan: rows for which an expression has no value fail alone, and outputs name the graph that made them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.batch import Table
from penstock.cli.main import main
from penstock.engine import execute, watched
from penstock.engine.watch import Run
from penstock.errors import Untraceable
from penstock.explain.provenance import DeadLetter, Origin, provenance
from penstock.model.session import Session
from penstock.nodes import ModelNode, RuleNode
from penstock.registry.directory import DirectoryRegistry
from penstock.runtime import beside, sessions
from penstock.testing import TopologyDriver
from penstock.testing import models as tiny
from penstock.testing.check_node import check_node
from tests.unit.expressions.rows import compiled

TEXT = """\
topology: t
sources: {s: {topic: in, schema: event.avsc}}
nodes:
  score: {kind: model, model: score@1, inputs: {x: amount}}
  desk:
    kind: rule
    outputs:
      ratio: score / coalesce(parts, 1)
      level: map(country, {'DE':1, 'FR':2})
      alert: ratio > 2 and level == 1
      unread: 1 / amount
sinks:
  out: {topic: out, fields: [desk.ratio, desk.alert]}
"""
EVENT = {
    "type": "record",
    "name": "Event",
    "fields": [
        {"name": "amount", "type": "float"},
        {"name": "parts", "type": ["null", "int"], "default": None},
        {"name": "country", "type": "string"},
    ],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "t.yaml").write_text(TEXT)
    (tmp_path / "event.avsc").write_text(json.dumps(EVENT))
    DirectoryRegistry(tmp_path / "models").publish("score", tiny.identity())
    return tmp_path


@pytest.fixture
def driver(root: Path) -> TopologyDriver:
    return TopologyDriver(root / "t.yaml", models=root / "models", schemas=root)


def event(amount: float, parts: int | None = None, country: str = "DE") -> dict[str, object]:
    return {"amount": amount, "parts": parts, "country": country}


def test_rows_without_a_value_are_dead_letters_and_their_neighbours_are_scored(driver: TopologyDriver) -> None:
    driver.send("s", event(6, 2), event(1, 0), event(9, None, "FR"), event(9, None, "XX"), event(0.0), event(8))
    assert driver.events("out") == [
        {"ratio": 3.0, "alert": True},
        {"ratio": 9.0, "alert": False},
        {"ratio": 0.0, "alert": False},
        {"ratio": 8.0, "alert": True},
    ], "and nothing fails for the sake of an output that nothing reads"
    letters = [provenance(one) for one in driver.dead_letters("s")]
    assert [(one.where, one.message) for one in letters if isinstance(one, DeadLetter)] == [
        ("desk", "ratio has no value for the event: a division by zero in `score / coalesce(parts, 1)`"),
        ("desk", "alert has no value for the event: a key that map does not have in `map(country, {'DE':1, 'FR':2})`"),
    ]


def test_outputs_and_letters_name_the_graph(driver: TopologyDriver) -> None:
    driver.send("s", event(1), event(1, 0))
    label = driver.program.plan.versions["desk"]
    assert label.startswith("rule:")
    assert dict(driver.records("out")[0].headers)["penstock-models"] == f"score=score@1,desk={label}".encode()
    said, letter = provenance(driver.records("out")[0]), provenance(driver.dead_letters("s")[0])
    assert isinstance(said, Origin)
    assert isinstance(letter, DeadLetter)
    assert letter.origin is not None
    assert [list(one.models) for one in (said, letter.origin)] == [["score"]] * 2
    assert said.rules == letter.origin.rules == {"desk": label}


def test_label_that_is_none_is_refused(driver: TopologyDriver) -> None:
    driver.send("s", event(1))
    (record,) = driver.records("out")
    headers = [(name, b"desk=rule:xyz" if name == "penstock-models" else value) for name, value in record.headers]
    with pytest.raises(Untraceable, match="rule:xyz"):
        provenance(record._replace(headers=tuple(headers)))


def test_plan_shows_what_computes_it(root: Path, driver: TopologyDriver, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", str(root / "t.yaml"), "--models", str(root / "models"), "--schemas", str(root)]
    assert main([*words, "--format", "json"]) == 0
    step = json.loads(capsys.readouterr().out)["stages"][0]["steps"][1]
    assert (step["node"], step["kind"], step["version"]) == ("desk", "rule", driver.program.plan.versions["desk"])
    assert step["digest"].removeprefix("sha256:").startswith(step["version"].removeprefix("rule:"))
    assert step["inputs"]["country"] == ["country"]
    assert main(words) == 0
    assert driver.program.plan.versions["desk"] in capsys.readouterr().out


def test_its_graph_is_written_as_a_file_that_runs_anywhere(
    root: Path, driver: TopologyDriver, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", str(root / "t.yaml"), "--models", str(root / "models"), "--schemas", str(root)]
    assert main([*words, "--rules", str(tmp_path / "new" / "rules")]) == 0
    (file,) = (tmp_path / "new" / "rules").iterdir()
    assert file.name == "desk.onnx"
    data = file.read_bytes()
    assert driver.program.plan.versions["desk"] == f"rule:{hashlib.sha256(data).hexdigest()[:12]}"
    signature = Session.load(data).signature
    assert [tensor.name for tensor in signature.inputs] == ["score", "parts or 1", "country", "amount"]
    assert [tensor.name for tensor in signature.outputs] == [
        "ratio", "ratio.ok", "ratio.ok.1", "level", "level.ok", "alert", "alert.ok", "alert.ok.1", "alert.ok.2", "unread", "unread.ok",
    ]  # fmt: skip
    assert main([*words, "--rules", str(file)]) == 2
    capsys.readouterr()


def test_it_is_watched_and_twinned_but_no_release_binds_it(driver: TopologyDriver) -> None:
    (stage,) = driver.program.plan.stages.values()
    (twin,) = beside(driver.program).plan.stages.values()
    pairs = [
        (one.inner, other.inner)
        for one, other in zip(stage.nodes, twin.nodes, strict=True)
        if isinstance(one, RuleNode) and isinstance(other, RuleNode)
    ]
    assert [one.model is not other.model and isinstance(other.model, Session) for one, other in pairs] == [True]
    assert list(sessions(driver.program)) == ["score"]
    runs: list[Run] = []
    batch = driver.program.ports["s"].decoder.decode([json.dumps(event(6, 2)).encode()])
    done = execute(watched(stage, runs.append), batch)
    assert [(one.node, one.version) for one in runs] == list(driver.program.plan.versions.items())
    assert runs[1].outputs["alert"].tolist() == [True]
    assert [name for name in done.columns if name.startswith("desk.")] == ["desk.ratio", "desk.alert"]


def test_letter_names_the_cause_that_holds_for_its_event(driver: TopologyDriver, root: Path) -> None:
    (root / "t.yaml").write_text(TEXT.replace("score / coalesce(parts, 1)", "where(score > 0, log(score - 5), 10 / score) ** parts_or"))
    text = (root / "t.yaml").read_text().replace("    outputs:\n", "    inputs: {parts_or: {field: parts, missing: 1}}\n    outputs:\n", 1)
    (root / "t.yaml").write_text(text)
    made = TopologyDriver(root / "t.yaml", models=root / "models", schemas=root)
    made.send("s", event(4), event(0), event(5 + 1e-30, -1), event(1e30, 2**30), event(7))
    letters = [provenance(one) for one in made.dead_letters("s")]
    assert [one.message.removeprefix("ratio has no value for the event: ") for one in letters if isinstance(one, DeadLetter)] == [
        "the logarithm of a number that is not above 0 in `log(score - 5)`",
        "a division by zero in `10 / score`",
        "the logarithm of a number that is not above 0 in `log(score - 5)`",
        "a power without a finite value in `where(score > 0, log(score - 5), 10 / score) ** parts_or`",
    ]
    assert len(made.events("out")) == 1


def test_rule_keeps_the_contract_of_a_node() -> None:
    graph = compiled(y="i // j", z="map(s, {'x': 1.5, 'y': 2.5})", w="where(b, f, 0)")
    names = [read.tensor.name for read in graph.reads]
    outputs = ["y", "z", "w", "y.ok", "z.ok"]
    columns = tuple(f"n.{name}" for name in outputs)
    feeds = tuple((name, lambda columns, name=name: columns[name]) for name in names)
    inner = ModelNode("n", graph.label, Session.load(graph.model), feeds, tuple(outputs), columns)
    node = RuleNode(inner, (("n.y.ok", ("no y",), ()), ("n.z.ok", ("no z",), ())))
    good = {
        "i": np.array([7, -7, 5, 4]),
        "j": np.array([2, 3, -1, 1], np.int32),
        "s": np.array(["x", "y", "x", "y"], object),
        "b": np.array([True, False, True, False]),
        "f": np.array([1.5, 2.5, 3.5, 4.5]),
    }
    bad = {
        "i": np.array([1, 2]),
        "j": np.array([0, 3], np.int32),
        "s": np.array(["x", "z"], object),
        "b": np.array([True, False]),
        "f": np.array([1.5, 2.5]),
    }
    check_node(node, good, bad)


KINDS: dict[str, tuple[Any, Any, str]] = {  # an Avro type, a value that looks like a replacement of null, and what coalesce gives for null
    "boolean": ("boolean", False, "true"),
    "int": ("int", 0, "7"),
    "long": ("long", 1, "7"),
    "float": ("float", 0.0, "0.5"),
    "double": ("double", 1.0, "0.5"),
    "string": ("string", "", "'none'"),
    "enum": ({"type": "enum", "name": "Letter", "symbols": ["A", "B"]}, "A", "'none'"),
    "timestamp": ({"type": "long", "logicalType": "timestamp-millis"}, 0, "-1"),
}


@pytest.mark.parametrize("format", ["json", "avro", "avro-confluent", "table"])
def test_null_is_known_in_every_format_and_kind_of_field(format: str, tmp_path: Path) -> None:
    """A field of each kind, with a value and with null; `late` has a default that is not null."""
    fields: list[dict[str, Any]] = [{"name": f"f_{name}", "type": ["null", kind], "default": None} for name, (kind, _, _) in KINDS.items()]
    fields.append({"name": "late", "type": ["int", "null"], "default": 5})
    (tmp_path / "ids").mkdir()
    for file in ("event.avsc", "ids/1.avsc"):
        (tmp_path / file).write_text(json.dumps({"type": "record", "name": "Event", "fields": fields}))
    lines = [f"      {name}: coalesce(f_{name}, {other})\n      no_{name}: missing(f_{name})\n" for name, (_, _, other) in KINDS.items()]
    lines += ["      late_or: coalesce(late, 9)\n      no_late: missing(late)\n      plain: late\n"]
    names = [name for kind in KINDS for name in (kind, f"no_{kind}")] + ["late_or", "no_late", "plain"]
    source = "json" if format == "table" else format
    (tmp_path / "t.yaml").write_text(
        f"topology: t\nsources: {{s: {{topic: in, schema: event.avsc, format: {source}}}}}\nnodes:\n  r:\n    kind: rule\n    outputs:\n"
        f"{''.join(lines)}sinks: {{out: {{topic: out, fields: [{', '.join(f'r.{name}' for name in names)}]}}}}\n"
    )
    (tmp_path / "models").mkdir()
    driver = TopologyDriver(tmp_path / "t.yaml", models=tmp_path / "models", schemas=tmp_path)
    given = {f"f_{name}": value for name, (_, value, _) in KINDS.items()}
    if format == "table":
        columns = {
            name: np.array([value, value], object if isinstance(value, str) else None) for name, value in {**given, "late": 1}.items()
        }
        batch = driver.program.ports["s"].decode(Table("in", columns, {name: np.array([False, True]) for name in columns}))
        done = execute(driver.program.plan.stages["s"], batch).columns
        found = [
            {name: done[f"r.{name}"][row].tolist() if done[f"r.{name}"].dtype != object else done[f"r.{name}"][row] for name in names}
            for row in (0, 1)
        ]
    else:
        driver.send("s", {**given, "late": 1}, {**dict.fromkeys(given), "late": None})
        found = driver.events("out")
    values: dict[str, Any] = {name: value for name, (_, value, _) in KINDS.items()}
    others: dict[str, Any] = {
        "boolean": True,
        "int": 7,
        "long": 7,
        "float": 0.5,
        "double": 0.5,
        "string": "none",
        "enum": "none",
        "timestamp": -1,
    }
    first = {**values, **{f"no_{name}": False for name in KINDS}, "late_or": 1, "no_late": False, "plain": 1}
    second = {**others, **{f"no_{name}": True for name in KINDS}, "late_or": 9, "no_late": True, "plain": 5}
    assert found == [first, second]
