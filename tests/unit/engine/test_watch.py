"""A watched stage gives what the stage gives, and tells what passed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from penstock import runtime
from penstock.engine import Run, execute, watched
from penstock.pipeline import Program
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models as tiny

TOPOLOGY = """\
topology: t
sources: {s: {topic: in, schema: event.avsc}}
nodes:
  picked: {kind: feature, model: table@1, inputs: {x: item}}
  score: {kind: model, model: score@1, inputs: {x: picked}}
sinks: {p: {topic: out, fields: {score: score}}}
"""
SCHEMA = '{"type": "record", "name": "Event", "fields": [{"name": "item", "type": "long"}]}'


@pytest.fixture
def program(tmp_path: Path) -> Program:
    (tmp_path / "t.yaml").write_text(TOPOLOGY)
    (tmp_path / "event.avsc").write_text(SCHEMA)
    registry = DirectoryRegistry(tmp_path / "models")
    registry.publish("table", tiny.gather([10, 20]))
    registry.publish("score", tiny.linear([3]))
    return runtime.prepare(runtime.load(tmp_path / "t.yaml", models=tmp_path / "models", schemas=tmp_path), warm_rows=1)


def test_every_run_is_told_in_order_with_what_it_took_and_gave(program: Program) -> None:
    runs: list[Run] = []
    stage, decoder = program.plan.stages["s"], program.ports["s"].decoder
    batch = execute(watched(stage, runs.append), decoder.decode([b'{"item": 1}']))
    assert [(run.node, run.version, run.error) for run in runs] == [("picked", "table@1", None), ("score", "score@1", None)]
    assert [{name: array.tolist() for name, array in run.inputs.items()} for run in runs] == [{"x": [[1]]}, {"x": [[20.0]]}]
    assert [{name: array.tolist() for name, array in run.outputs.items()} for run in runs] == [{"y": [[20.0]]}, {"y": [[60.0]]}]
    plain = execute(stage, decoder.decode([b'{"item": 1}']))
    assert batch.columns.keys() == plain.columns.keys()
    assert all(np.array_equal(batch.columns[name], plain.columns[name]) for name in plain.columns)


def test_run_that_fails_is_told_with_its_reason_and_nothing_runs_after_it(program: Program) -> None:
    runs: list[Run] = []
    batch = execute(watched(program.plan.stages["s"], runs.append), program.ports["s"].decoder.decode([b'{"item": 7}']))
    (run,) = runs
    assert (run.node, run.outputs) == ("picked", {})
    assert run.inputs["x"].tolist() == [[7]]
    assert "refused the batch" in str(run.error)
    assert [failure.error.where for failure in batch.failures] == ["picked"]
