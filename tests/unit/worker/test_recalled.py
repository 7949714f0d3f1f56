"""Proof and guard of a plan that remembers: rows are run again with the features that they had when they were scored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from penstock import runtime
from penstock.engine.observe import Observers
from penstock.evidence.guard import Counts
from penstock.pipeline import Chunk, Fixed, Pipeline, Program
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.settings import Settings
from penstock.state import States
from penstock.testing import models
from penstock.transports.memory import Memory, MemorySink
from penstock.worker.guard import _Case
from penstock.worker.proof import prove
from penstock.worker.recent import Recent, Watched

TOPOLOGY = """\
topology: doubles
sources: {{readings: {{topic: readings, schema: reading.avsc, id: id, time: at}}}}
nodes:
  lately: {{kind: window, by: id, over: [1h], features: {{total: sum(x), last: last(x)}}}}
  double: {{kind: model, model: "double@{version}", inputs: {{x: lately.total_1h}}}}
sinks: {{doubled: {{topic: doubled, fields: {{id: id, y: double, last: lately.last_1h}}}}}}
"""
SCHEMA = {
    "type": "record",
    "name": "Reading",
    "fields": [{"name": "id", "type": "string"}, {"name": "x", "type": "double"}, {"name": "at", "type": "long"}],
}
FAR = 9_000_000_000_000


def program(folder: Path, model: bytes) -> Program:
    (folder / "reading.avsc").write_text(json.dumps(SCHEMA))
    version = DirectoryRegistry(folder / "models").publish("double", model).version
    (folder / "doubles.yaml").write_text(TOPOLOGY.format(version=version))
    return runtime.prepare(runtime.load(folder / "doubles.yaml", models=folder / "models", schemas=folder), Settings())


@pytest.fixture
def live(tmp_path: Path) -> Program:
    return program(tmp_path, models.up_to(1e9, 2.0))


@pytest.fixture
def candidate(tmp_path: Path, live: Program) -> Program:
    """Fails on totals above 100."""
    return program(tmp_path, models.up_to(100.0, 2.0))


def chunk(values: Sequence[float], times: Sequence[int] | None = None) -> Chunk:
    stamps = times or range(1000, 1000 + len(values))
    rows = [json.dumps({"id": "a", "x": x, "at": at}).encode() for x, at in zip(values, stamps, strict=True)]
    return Chunk([Record("readings", row, offset=at) for at, row in enumerate(rows)], (("readings", 0, len(rows)),))


def test_a_candidate_is_compared_on_the_features_of_that_time(live: Program, candidate: Program) -> None:
    recent = Recent(1000)
    pipeline = Pipeline(live, "readings", sink=MemorySink(Memory(1)), observers=Observers([recent]))
    pipeline.complete(pipeline.begin(chunk([10.0] * 20), States()))
    ((kept, *_),) = recent.kept().values()
    assert kept.chunk.recalled["lately.total_1h"].tolist() == [10.0 * before for before in range(20)]
    proof = prove(candidate, live, recent.kept())
    assert proof.counts == Counts(ok=10, new=10), "totals of 100 to 190"
    assert prove(live, live, recent.kept()).counts == Counts(ok=20)
    assert kept.chunk.pick([3, 5]).recalled["lately.total_1h"].tolist() == [30.0, 50.0]


def test_rows_that_fail_behind_a_window_are_judged_by_the_plan_before(live: Program, candidate: Program) -> None:
    watched, recent = Watched(1), Recent(0)
    recent.watched = watched
    states = States(clock=lambda: 2.0)
    sink = MemorySink(Memory(1))
    pipeline = Pipeline(candidate, "readings", sink=sink, generation=1, observers=Observers([recent]))
    pipeline.complete(pipeline.begin(chunk([60.0, 60.0, 60.0, 60.0, 1.0], [1000, 1001, 1002, 1003, FAR]), states))
    failing = watched.take(10)
    assert [one.error.where for one in failing] == ["double", "double", "lately"], "two totals above 100, and one from the future"
    counts = _Case(1, Fixed(live), 0.0).check(failing, sink)
    assert counts == {True: Counts(new=2, both=1)}, "the plan before scores the two"


def test_without_a_memory_a_row_fails(live: Program) -> None:
    recent = Recent(10)
    Pipeline(live, "readings", sink=MemorySink(Memory(1)), observers=Observers([recent])).process(chunk([1.0]))
    assert recent.kept() == {}
