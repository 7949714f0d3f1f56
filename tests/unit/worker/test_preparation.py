"""A release is made ready beside the active plan, step by step, or refused with the step, the model and the nodes."""

from __future__ import annotations

import gc
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from penstock import runtime
from penstock.batch import Batch
from penstock.binding import Binding
from penstock.control.lifecycle import PREPARING, State, move
from penstock.engine import execute
from penstock.errors import ControlError, ModelCorrupt, ModelError, ModelMismatch, ModelNotFound, ModelUntrusted, Stopped
from penstock.model.artifact import digest_of
from penstock.model.golden import GoldenRecord, dump
from penstock.model.manifest import Golden, render
from penstock.model.parity import Pair
from penstock.model.session import Session
from penstock.pipeline import Program
from penstock.registry.directory import DirectoryRegistry
from penstock.runtime import Loaded
from penstock.settings import Settings
from penstock.testing import models
from penstock.worker.preparation import Preparation, Prepared
from tests.unit.control.making import release

TEXT = """\
topology: flights
sources: {s: {topic: in, schema: event.avsc}}
nodes:
  scaled: {kind: feature, model: scale@1, inputs: {x: amount}}
  score: {kind: model, model: score@1, inputs: {a: scaled}, parameters: {b: 1.0}, require: {auc: ">= 0.7"}}
sinks: {p: {topic: out, fields: {score: score}}}
"""
EVENT = {"type": "record", "name": "Event", "fields": [{"name": "amount", "type": "float"}]}
GOOD = {"auc": 0.8}


@pytest.fixture
def registry(tmp_path: Path) -> DirectoryRegistry:
    registry = DirectoryRegistry(tmp_path / "models")
    registry.publish("scale", models.identity())
    registry.publish("score", models.add(), metrics=GOOD)
    return registry


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(models=tmp_path / "models", cache=tmp_path / "cache")


@pytest.fixture
def loaded(tmp_path: Path, registry: DirectoryRegistry) -> Loaded:
    (tmp_path / "t.yaml").write_text(TEXT)
    (tmp_path / "event.avsc").write_text(json.dumps(EVENT))
    return runtime.load(tmp_path / "t.yaml", models=registry.root, schemas=tmp_path)


@pytest.fixture
def preparation(loaded: Loaded, settings: Settings) -> Preparation:
    return Preparation(loaded, settings)


Publish = Callable[..., Binding]


@pytest.fixture
def publish(registry: DirectoryRegistry) -> Publish:
    """Registers another version and gives what binds it."""

    def publish(name: str, data: bytes, parameters: dict[str, Any] | None = None, **fields: Any) -> Binding:
        artifact = registry.publish(name, data, **fields)
        uri = f"models:/{name}/{artifact.version}"
        return Binding(uri=uri, digest=artifact.digest, manifest=artifact.manifest_digest, parameters=parameters or {})

    return publish


def prepared(preparation: Preparation, loaded: Loaded, **bound: Binding) -> Prepared:
    """The topology's own versions, but for the nodes that are named, made ready."""
    return preparation.prepare(release(1, bindings={**runtime.bindings(loaded), **bound}), lambda state, detail: None)


def score(program: Program, amount: float) -> float:
    batch = execute(program.plan.stages["s"], Batch(1, {"amount": np.array([amount], np.float32)}))
    return float(batch.columns["score.y"][0, 0])


def test_a_release_becomes_a_plan(preparation: Preparation, loaded: Loaded, publish: Publish) -> None:
    """Here: with other models for both nodes, and another value of a parameter."""
    two = publish("scale", models.linear([3.0]))
    other = publish("score", models.mean(), {"b": 5.0}, metrics=GOOD)
    found = prepared(preparation, loaded, scaled=two, score=other)
    assert found.program.plan.versions == {"scaled": "scale@2", "score": "score@2"}
    assert score(found.program, 1.0) == 4.0
    assert {node: one.manifest_digest for node, one in found.artifacts.items()} == {"scaled": two.manifest, "score": other.manifest}


def test_a_model_of_a_row_at_a_time_is_tried_and_runs_so(preparation: Preparation, loaded: Loaded, publish: Publish) -> None:
    """Its declared sizes fit one row only, so neither the quarantine nor the plan could run it otherwise."""
    node = helper.make_node("Mul", ["x", "three"], ["y"])
    fixed = models.model([node], [models.tensor("x", rows=1)], [models.tensor("y", rows=1)], {"three": np.float32(3)})
    found = prepared(preparation, loaded, scaled=publish("scale", fixed, rows=1))
    batch = execute(found.program.plan.stages["s"], Batch(3, {"amount": np.array([1, 2, 3], np.float32)}))
    assert (batch.columns["scaled.y"][:, 0].tolist(), batch.failures) == ([3.0, 6.0, 9.0], ())


def test_each_step_is_told_in_the_order_of_the_lifecycle(preparation: Preparation, loaded: Loaded) -> None:
    told: list[tuple[State, str]] = []
    preparation.prepare(release(1, bindings=runtime.bindings(loaded)), lambda state, detail: told.append((state, detail)))
    assert (State.FETCHING, "score@1 (2 of 2)") in told
    here = State.ANNOUNCED
    for there in dict.fromkeys(state for state, _ in told):
        here = move(here, there)
    assert here is PREPARING[-1]


def test_plan_is_proven_before_it_is_warm_and_keeps_what_was_shown(preparation: Preparation, loaded: Loaded) -> None:
    steps: list[str] = []

    def prove(program: Program, pairs: Mapping[str, Pair], stopped: Callable[[], bool]) -> str:
        steps.append(f"proof of {score(program, 2.0):g}, stopped: {stopped()}")
        return "proven on 3 real rows"

    found = preparation.prepare(
        release(1, bindings=runtime.bindings(loaded)), lambda state, detail: steps.append(f"{state} {detail}"), prove=prove
    )
    at = steps.index("proof of 3, stopped: False")
    assert steps[at - 1] == "proving on real rows"
    assert steps[at + 1].startswith("warming")
    assert found.proof == "proven on 3 real rows"


def test_release_that_its_proof_refuses_is_not_ready(preparation: Preparation, loaded: Loaded) -> None:
    def refuse(_program: Program, _pairs: Mapping[str, Pair], _stopped: Callable[[], bool]) -> str:
        raise ControlError("proving: all rows fail", code="proof")

    with pytest.raises(ControlError, match="all rows fail"):
        preparation.prepare(release(1, bindings=runtime.bindings(loaded)), lambda state, detail: None, prove=refuse)


def test_what_a_plan_has_loaded_is_shared_and_not_run(
    preparation: Preparation, loaded: Loaded, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The active plan may be running it in another thread."""
    made = runtime.prepare(loaded)
    live = runtime.sessions(made)
    preparation.adopt(loaded.artifacts, live)
    changed = publish("scale", models.linear([2.0]))
    run, ran = Session.run, []

    def running(self: Session, *args: Any, **more: Any) -> Any:
        ran.append(self.label)
        return run(self, *args, **more)

    monkeypatch.setattr(Session, "run", running)
    found = prepared(preparation, loaded, scaled=changed)
    assert runtime.sessions(found.program)["score"] is live["score"]
    assert set(ran) == {"scale@2"}


def test_what_no_plan_needs_any_more_is_given_back(preparation: Preparation, loaded: Loaded) -> None:
    first = prepared(preparation, loaded)
    known = len(preparation._sessions)
    del first
    gc.collect()
    assert (known, len(preparation._sessions)) == (2, 0)


def test_the_registry_may_be_away_once_the_files_are_here(preparation: Preparation, loaded: Loaded, registry: DirectoryRegistry) -> None:
    prepared(preparation, loaded)
    registry.root.rename(registry.root.with_name("away"))
    assert prepared(preparation, loaded).program.plan.versions["score"] == "score@1"


def test_files_that_no_release_needs_are_given_back(preparation: Preparation, loaded: Loaded) -> None:
    found = prepared(preparation, loaded)
    for artifact in found.artifacts.values():
        os.utime(artifact.path, (0, 0))
    preparation.prune([runtime.bindings(loaded)["score"]])
    assert [artifact.path.exists() for artifact in found.artifacts.values()] == [False, True]


def refused(preparation: Preparation, loaded: Loaded, kind: type[ModelError], **bound: Binding) -> str:
    with pytest.raises(kind) as caught:
        prepared(preparation, loaded, **bound)
    assert (caught.value.name, caught.value.version) != ("", "") or kind is ModelMismatch
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (models.crashing(), r"the model killed its process \(SIGSEGV\) in quarantine"),
        (models.hungry(12_500_000_000), "the model needs too much memory: 50,000,000,000 bytes at once"),
        (models.log(), "is not finite"),
        (models.endless(), "a run took longer than 10 s"),
    ],
    ids=["crashes", "allocates 50 GB", "gives NaN", "hangs"],
)
def test_a_model_that_does_harm_is_refused_in_quarantine(
    preparation: Preparation, loaded: Loaded, registry: DirectoryRegistry, data: bytes, why: str
) -> None:
    """A registry takes no such file, so the files are put there by hand, as somebody would who means harm."""
    message = refused(preparation, loaded, ModelCorrupt, scaled=planted(registry, data))
    assert message.startswith("quarantined: nodes.scaled: scale@2: ")
    assert re.search(why, message)


def planted(registry: DirectoryRegistry, data: bytes) -> Binding:
    golden = dump([GoldenRecord({"x": [-1.0]}, {"y": [0.0]})]).encode()
    model = registry.resolve("scale", "1")
    folder = registry.root / "scale/2"
    folder.mkdir()
    text = render(
        replace(model.manifest, version="2", digest=digest_of(data), size=len(data), golden=Golden(digest_of(golden), 0.1, 0.1))
    ).encode()
    for file, content in (("model.onnx", data), ("golden.json", golden), ("model.toml", text)):
        (folder / file).write_bytes(content)
    return Binding(uri="models:/scale/2", digest=digest_of(data), manifest=digest_of(text))


def test_a_model_that_lies_about_its_answers_is_refused(preparation: Preparation, loaded: Loaded, registry: DirectoryRegistry) -> None:
    message = refused(preparation, loaded, ModelCorrupt, scaled=planted(registry, models.identity()))
    assert message.startswith("proving: nodes.scaled: scale@2: ")
    assert "golden record 1, output 'y': expected [0.0], got [-1.0]" in message


def test_a_model_that_does_not_fit_is_refused_with_all_that_is_wrong(preparation: Preparation, loaded: Loaded, publish: Publish) -> None:
    wide = publish("scale", models.identity(shape=(3,)))
    other = publish("score", models.join_text(), {"c": 1}, metrics={"auc": 0.5})
    message = refused(preparation, loaded, ModelMismatch, scaled=wide, score=other)
    assert message.startswith("scaled=scale@2, score=score@2 does not fit the topology: ")
    for part in (
        "nodes.scaled.inputs.x: the tensor is `x: float32[N, 3]`",
        "nodes.score.inputs.a: the tensor is `a: string[N, 1]`",
        "nodes.score.require: score@2: auc is 0.5, required is >= 0.7",
        "nodes.score.parameters: the topology declares no parameter 'c'",
        "nodes.score.parameters.b: the tensor is `b: string[N, 1]`",
    ):
        assert part in message


def test_a_release_of_another_shape_of_the_topology_is_refused(preparation: Preparation, loaded: Loaded) -> None:
    bound = runtime.bindings(loaded)
    with pytest.raises(ModelMismatch) as caught:
        preparation.prepare(release(1, bindings={"scaled": bound["scaled"], "more": bound["score"]}), lambda state, detail: None)
    assert "the topology flights has no node 'more'" in str(caught.value)
    assert "nodes.score: the release does not bind it" in str(caught.value)


def test_a_version_that_is_nowhere_is_refused(preparation: Preparation, loaded: Loaded) -> None:
    nowhere = Binding(uri="models:/scale/7", digest="sha256:" + "1" * 64, manifest="sha256:" + "2" * 64)
    message = refused(preparation, loaded, ModelNotFound, scaled=nowhere)
    assert message.startswith("fetching: nodes.scaled: scale@7: scale@7 is in no registry root: ")


def test_a_model_that_nobody_vouches_for_is_refused_where_the_topology_asks(loaded: Loaded, settings: Settings) -> None:
    """It is asked before the file is given to the model runtime, in whatever process."""
    asking = replace(loaded, topology=replace(loaded.topology, releases=replace(loaded.topology.releases, signatures="require")))
    told: list[State] = []
    with pytest.raises(ModelUntrusted, match=r"verifying: nodes.scaled: scale@1: "):
        Preparation(asking, settings).prepare(release(1, bindings=runtime.bindings(loaded)), lambda state, detail: told.append(state))
    assert State.QUARANTINED not in told


def test_who_is_told_to_stop_stops(preparation: Preparation, loaded: Loaded) -> None:
    told: list[State] = []
    with pytest.raises(Stopped, match=r"quarantined: nodes.scaled: scale@1: stopped"):
        preparation.prepare(
            release(1, bindings=runtime.bindings(loaded)), lambda state, detail: told.append(state), lambda: State.QUARANTINED in told
        )
    assert told[-1] is State.QUARANTINED


def test_a_release_that_takes_too_long_is_given_up(loaded: Loaded, settings: Settings) -> None:
    began = time.monotonic()
    impatient = Preparation(loaded, replace(settings, prepare_timeout=0.2))
    with pytest.raises(  # at which step, and at which of its versions, depends on the host
        ControlError, match=r"not ready within 0.2 s \(setting prepare_timeout\): [a-z]+: nodes.[a-z]+: [a-z]+@1: stopped"
    ) as caught:
        prepared(impatient, loaded)
    assert caught.value.code == "timeout"
    assert time.monotonic() - began < 5


def test_a_full_disk_is_an_error_of_this_host(preparation: Preparation, loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ControlError, match=r"fetching: nodes.scaled: scale@1: .*No space left on device") as caught:
        prepared(preparation, loaded)
    assert caught.value.code == "host"
