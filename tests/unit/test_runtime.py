"""A topology file is loaded with all that it names, or every problem of every kind is told at once."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from penstock.errors import ModelCorrupt, ModelUntrusted, TopologyError
from penstock.model.session import Session
from penstock.model.signing import sign
from penstock.registry.directory import DirectoryRegistry
from penstock.runtime import Loaded, load, prepare, program, rebind, sessions
from penstock.settings import Settings
from penstock.testing import models as tiny
from tests.unit.model.issued import private_pem, public_pem

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
    assert [step.node.name for step in found.wiring.stages[0].steps] == ["scaled", "score"]
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


def test_models_that_are_not_there_are_no_problem_where_the_control_log_binds_others(root: Path) -> None:
    """They are one as soon as they are to serve."""
    (root / "t.yaml").write_text(TEXT.replace("scale@1", "scale@7"))
    (missing,) = problems(root)
    found = load(root / "t.yaml", models=root / "models", schemas=root / "schemas", absent=True)
    with pytest.raises(TopologyError, match="alias '7' of scale is not in"):
        prepare(found)
    assert [str(problem).replace(f"{root}/", "") for problem in found.absent] == [missing]
    (stage,) = found.wiring.stages
    assert (stage.source.topic, [emit.sink.topic for emit in stage.emits]) == ("in", ["out"])
    artifacts = {"scaled": DirectoryRegistry(root / "models").resolve("scale", "1"), **found.artifacts}
    loaded_models = {"scaled": Session.load(artifacts["scaled"]), "score": Session.load(artifacts["score"])}
    assert program(rebind(found, artifacts, {}), loaded_models, {}).plan.versions == {"scaled": "scale@1", "score": "score@2"}


def test_types_are_held_against_the_registered_signature(root: Path) -> None:
    (root / "schemas/event.avsc").write_text(json.dumps(EVENT).replace("float", "string"))
    assert problems(root) == [
        "t.yaml:4:55: nodes.scaled.inputs.x: the tensor is `x: float32[N, 1]`, the field 'amount' is a string"
        " (float32 takes boolean, int, long, float, double: read another field, or export the model with another dtype)"
    ]


def test_sink_schema_is_held_against_what_is_written(root: Path) -> None:
    (root / "schemas/out.avsc").write_text(json.dumps(OUT).replace("float", "long"))
    assert "the sink's schema declares a long" in problems(root)[0]


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


# --- who may serve ------------------------------------------------------------------------------------------------------


def test_plan_names_its_versions_in_the_order_of_the_topology(root: Path) -> None:
    """A release says them in another one, and outputs of all generations name them alike."""
    first = loaded(root)
    turned = dict(reversed([*first.artifacts.items()]))
    made = program(rebind(first, turned, {}), sessions(prepare(first)), {})
    assert [*made.plan.versions] == ["scaled", "score"]


def signed(root: Path, policy: str, *references: str) -> Path:
    """Signs versions with one key, sets the topology's policy, and returns the folder that trusts the key."""
    (root / "trusted").mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    (root / "private.pem").write_bytes(private_pem(key))
    (root / "trusted/us.pem").write_bytes(public_pem(key))
    registry = DirectoryRegistry(root / "models")
    for reference in references:
        artifact = registry.resolve(*reference.split("@"))
        made = sign(artifact.digests, subject=artifact.version, key=root / "private.pem", now=datetime.now(UTC))
        registry.add_bundle(artifact, made.bundle)
    (root / "t.yaml").write_text(TEXT + f"releases: {{signatures: {policy}}}\n")
    return root / "trusted"


def test_signed_models_serve_where_signatures_are_required(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    trusted = signed(root, "require", "scale@1", "score@2")
    with caplog.at_level("INFO", "penstock.runtime"):
        plan = prepare(loaded(root), Settings(model_trust=trusted))
    assert dict(plan.plan.versions) == {"scaled": "scale@1", "score": "score@2"}
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [
        "model scale@1 is signed by key us.pem",
        "model score@2 is signed by key us.pem",
    ]


def test_unsigned_model_is_refused_before_it_is_loaded(root: Path) -> None:
    """What is not to be trusted is no input for the model runtime: the file is not even read."""
    trusted = signed(root, "require", "scale@1")
    (root / "models/score/2/model.onnx").unlink()
    with pytest.raises(
        ModelUntrusted, match=r"^model score@2: it is not signed \(no model\.sig in .*/score/2\): penstock model sign"
    ) as caught:
        prepare(loaded(root), Settings(model_trust=trusted))
    assert (caught.value.name, caught.value.version) == ("score", "2")


def test_nobody_is_trusted_unless_it_is_said(root: Path) -> None:
    signed(root, "require", "scale@1", "score@2")
    with pytest.raises(ModelUntrusted, match="no key is trusted: set model_trust"):
        prepare(loaded(root))


def test_what_is_wrong_is_only_told_where_the_policy_warns(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    trusted = signed(root, "warn", "scale@1")
    prepare(loaded(root), Settings(model_trust=trusted))
    assert ["it is not signed" in record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [True]


def test_signatures_are_not_looked_at_where_they_are_off(root: Path) -> None:
    """Not even the folder of keys has to be there."""
    signed(root, "off")
    (root / "models/scale/1/model.sig").write_text("garbage")
    assert prepare(loaded(root), Settings(model_trust=root / "absent")).plan.versions["scaled"] == "scale@1"


def test_files_that_change_after_they_were_judged_do_not_serve(root: Path) -> None:
    """The digests that were signed are those that the version was opened with, and every later read is held to them."""
    trusted = signed(root, "require", "scale@1", "score@2")
    found = loaded(root)
    (root / "models/scale/1/model.onnx").unlink()
    (root / "models/scale/1/model.onnx").write_bytes(tiny.linear([1]))
    with pytest.raises(ModelCorrupt, match=r"model\.onnx is not the file that was pushed"):
        prepare(found, Settings(model_trust=trusted))
