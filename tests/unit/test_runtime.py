"""A topology file is loaded with all that it names, or every problem of every kind is told at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from penstock.errors import TopologyError
from penstock.registry.directory import DirectoryRegistry
from penstock.runtime import Loaded, load
from penstock.testing import models as tiny

TEXT = """\
topology: t
sources: {s: {topic: in, schema: event.avsc}}
nodes:
  scaled: {kind: feature, model: scale@1, inputs: {x: amount}}
  score: {kind: model, model: score@live, inputs: {x: scaled}}
sinks: {p: {topic: out, schema: out.avsc, fields: {score: score}}}
"""
EVENT = {"type": "record", "name": "Event", "fields": [{"name": "amount", "type": "float"}]}
OUT = {"type": "record", "name": "Out", "fields": [{"name": "score", "type": "float"}]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a topology, its schemas and a registry; the alias `live` of score points at its second version."""
    (tmp_path / "t.yaml").write_text(TEXT)
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas/event.avsc").write_text(json.dumps(EVENT))
    (tmp_path / "schemas/out.avsc").write_text(json.dumps(OUT))
    registry = DirectoryRegistry(tmp_path / "models")
    registry.publish("scale", tiny.identity())
    registry.publish("score", tiny.identity())
    registry.publish("score", tiny.identity(), metrics={"auc": 0.9, "log_loss": 0.5})
    registry.alias("score", "live", "2")
    return tmp_path


def loaded(root: Path) -> Loaded:
    return load(root / "t.yaml", models=root / "models", schemas=root / "schemas")


def problems(root: Path) -> list[str]:
    with pytest.raises(TopologyError) as caught:
        loaded(root)
    return [str(problem).replace(f"{root}/", "") for problem in caught.value.problems]


def test_everything_that_is_named_is_there(root: Path) -> None:
    found = loaded(root)
    assert found.topology.name == "t"
    assert [step.node.name for step in found.wiring.flows[0].steps] == ["scaled", "score"]
    assert (found.schemas["s"].name, found.sink_schemas["p"].name) == ("Event", "Out")
    assert {name: str(artifact) for name, artifact in found.artifacts.items()} == {"scaled": "scale@1", "score": "score@2"}


def test_problems_of_every_kind_come_at_once(root: Path) -> None:
    """A schema file that is not there, one that is wrong, a version and a model that are not there, and a name that leads nowhere."""
    (root / "schemas/out.avsc").write_text("{")
    text = TEXT.replace("event.avsc", "evnt.avsc").replace("scale@1", "scale@7").replace("score@live", "scor@live")
    (root / "t.yaml").write_text(text.replace("{x: scaled}", "{x: scald.y}"))
    found = problems(root)
    assert found[:4] == [
        "t.yaml:2:34: sources.s: there is no schema file schemas/evnt.avsc (did you mean 'event.avsc'?)",
        "t.yaml:4:34: nodes.scaled: version or alias '7' of scale is not in models; versions and aliases: 1",
        "t.yaml:5:31: nodes.score: there is no model 'scor' in models; did you mean 'score'?; models: scale, score",
        "t.yaml:5:54: nodes.score.inputs.x: 'scald.y': there is no source or node 'scald' (did you mean 'scaled'?)",
    ]
    assert found[4].startswith("schemas/out.avsc:1:2: not JSON")
    assert len(found) == 5


def test_types_are_held_against_the_registered_signature(root: Path) -> None:
    (root / "schemas/event.avsc").write_text(json.dumps(EVENT).replace("float", "string"))
    assert problems(root) == [
        "t.yaml:4:55: nodes.scaled.inputs.x: the tensor is `x: float32[N, 1]`, the field 'amount' is a string"
        " (float32 takes boolean, int, long, float, double: read another field, or export the model with another dtype)"
    ]


def test_sink_schema_is_held_against_what_is_written(root: Path) -> None:
    (root / "schemas/out.avsc").write_text(json.dumps(OUT).replace("float", "long"))
    assert "the sink's schema says a long" in problems(root)[0]


def test_version_that_meets_what_is_required_is_loaded(root: Path) -> None:
    (root / "t.yaml").write_text(TEXT.replace("inputs: {x: scaled}", "inputs: {x: scaled}, require: {auc: '>= 0.9', log_loss: < 0.6}"))
    assert loaded(root).artifacts["score"].version == "2"


def test_version_that_does_not_meet_what_is_required_is_refused(root: Path) -> None:
    """Each threshold at its own place, also of a metric that is not there, or of a version without any."""
    text = TEXT.replace("inputs: {x: scaled}", "inputs: {x: scaled}, require: {auc: '> 0.9', log_loss: < 0.6, brier: < 1}")
    (root / "t.yaml").write_text(text.replace("inputs: {x: amount}", "inputs: {x: amount}, require: {rows: '> 0'}"))
    fix = "(choose a version that meets it, or change the requirement)"
    assert problems(root) == [
        f"t.yaml:4:74: nodes.scaled.require: scale@1: rows is missing, required is > 0; there are no metrics {fix}",
        f"t.yaml:5:74: nodes.score.require: score@2: auc is 0.9, required is > 0.9 {fix}",
        f"t.yaml:5:105: nodes.score.require: score@2: brier is missing, required is < 1; known: auc, log_loss {fix}",
    ]


def test_manifest_that_cannot_be_read_is_named(root: Path) -> None:
    manifest = root / "models/scale/1/model.toml"
    manifest.chmod(0o644)
    manifest.write_text("")
    assert any("models/scale/1/model.toml" in problem for problem in problems(root))


def test_every_model_that_is_missing_is_named_at_its_own_node(root: Path) -> None:
    (root / "t.yaml").write_text(TEXT.replace("scale@1", "gone@1").replace("score@live", "gone@1"))
    assert [problem.split(":")[1] for problem in problems(root)] == ["4", "5"]
